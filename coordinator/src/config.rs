//! Settings from the environment; no other file reads it.
//!
//! Raw values come in, and checked, immutable values go out, which are passed on explicitly.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use binfer_shard::hub::{HubSettings, Proxy, ProxyProtocol};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::expand;

/// The hub that models come from unless `HF_ENDPOINT` names another.
const HUB: &str = "https://huggingface.co";
/// The file name of the demo model in the cache folder.
pub const DEMO_FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// Why settings are refused. The process exits with status 78.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// A folder in which the workers' socket could be made.
#[derive(Clone, Debug)]
pub struct SocketFolder {
    /// The environment variable that names it, for messages; `None` for a usual place.
    pub variable: Option<&'static str>,
    /// The folder.
    pub folder: PathBuf,
}

/// The folder for what binfer downloads: `BINFER_CACHE`, or `binfer` in the user's cache folder.
pub fn cache_dir() -> Option<PathBuf> {
    path_var("BINFER_CACHE")
        .or_else(|| path_var("XDG_CACHE_HOME").map(|dir| dir.join("binfer")))
        .or_else(|| home(".cache/binfer"))
}

/// The variable with a key that clients of the server show. Processes that run what a model brings
/// along do not inherit it.
pub const API_KEY_VARIABLE: &str = "BINFER_API_KEY";

/// A key that clients of the server show.
pub fn api_key() -> Option<String> {
    text_var(API_KEY_VARIABLE)
}

/// The path of the demo model.
pub fn demo_path() -> Result<PathBuf, ConfigError> {
    let path = cache_dir().map(|dir| dir.join(DEMO_FILE));
    path.filter(|path| path.is_file())
        .ok_or_else(|| ConfigError("the demo model is not there yet: run `make demo` once".into()))
}

/// The settings of the Hugging Face hub, from the variables that its own library reads.
pub fn hub_settings() -> Result<HubSettings, ConfigError> {
    let cache_home = path_var("XDG_CACHE_HOME").or_else(|| home(".cache"));
    let hf_home = path_var("HF_HOME").or_else(|| cache_home.map(|dir| dir.join("huggingface")));
    let hf_home = hf_home.map(|dir| expanded(&dir));
    let cache = path_var("HF_HUB_CACHE")
        .or_else(|| path_var("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| hf_home.as_ref().map(|dir| dir.join("hub")))
        .ok_or_else(|| ConfigError("no folder for models: set HF_HOME".into()))?;
    let token_path = path_var("HF_TOKEN_PATH").or_else(|| hf_home.map(|dir| dir.join("token")));
    let token_path = token_path.map(|path| expanded(&path));
    let token = text_var("HF_TOKEN")
        .or_else(|| text_var("HUGGING_FACE_HUB_TOKEN"))
        .or_else(|| fs::read_to_string(token_path?).ok())
        .map(|token| token.trim().to_owned())
        .filter(|token| !token.is_empty());
    if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
        return Err(ConfigError("HF_TOKEN has characters that no token has".into()));
    }
    let roots_pem = path_var("SSL_CERT_FILE").map(|path| {
        fs::read(&path).map_err(|error| ConfigError(format!("SSL_CERT_FILE {path:?}: {error}")))
    });
    let yes =
        |text: &str| matches!(text.to_ascii_lowercase().as_str(), "1" | "on" | "yes" | "true");
    // The first variable that is set decides, whatever its value.
    let offline = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter();
    let offline = offline.filter_map(|name| Some((name, text_var(name)?))).next();
    Ok(HubSettings {
        endpoint: text_var("HF_ENDPOINT").unwrap_or_else(|| HUB.to_owned()),
        cache: expanded(&cache),
        token,
        offline: offline.filter(|(_, said)| yes(said)).map(|(name, _)| name),
        roots_pem: roots_pem.transpose()?,
        proxy: proxy()?,
    })
}

/// The variables that name a proxy, in the order in which the HTTP client reads them.
const PROXY_VARIABLES: [&str; 6] =
    ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"];

/// The proxy that the environment names. One that cannot be used is refused, since the HTTP client
/// would connect without it. Its value is not shown, since it may hold a password.
fn proxy() -> Result<Option<Proxy>, ConfigError> {
    let mut set = PROXY_VARIABLES.iter().filter_map(|name| Some((name, text_var(name)?)));
    let Some((name, value)) = set.next() else { return Ok(None) };
    let way_out = "set it as http://HOST:PORT, or unset it";
    match Proxy::new(&value).map(|proxy| proxy.protocol()) {
        Ok(ProxyProtocol::Http | ProxyProtocol::Https) => Ok(Proxy::try_from_env()),
        Ok(_) => Err(ConfigError(format!("{name}: SOCKS proxies are not supported; {way_out}"))),
        Err(_) => Err(ConfigError(format!("{name} is not the URL of a proxy; {way_out}"))),
    }
}

fn path_var(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Expands `~` and `$NAME` in a path as Python's `expanduser` and `expandvars` do. The hub's own
/// library does so too, since files of settings pass variables on unexpanded.
fn expanded(path: &Path) -> PathBuf {
    let Some(text) = path.to_str() else { return path.to_path_buf() };
    expand::variables(&expand::home(text, home_of), |name| std::env::var(name).ok()).into()
}

/// The home folder of a user, or of this user for the empty name.
fn home_of(user: &str) -> Option<String> {
    if user.is_empty() {
        return std::env::home_dir()?.into_os_string().into_string().ok();
    }
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut homes = fields.filter(|fields| fields.first() == Some(&user));
    homes.find_map(|fields| fields.get(5).map(|home| (*home).to_owned()))
}

fn text_var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn home(below: &str) -> Option<PathBuf> {
    path_var("HOME").map(|dir| dir.join(below))
}

/// The folders in which the workers' socket may be made, the best first.
pub fn socket_folders() -> Vec<SocketFolder> {
    let named = ["XDG_RUNTIME_DIR", "TMPDIR"].into_iter().filter_map(|variable| {
        Some(SocketFolder { variable: Some(variable), folder: path_var(variable)? })
    });
    let common = ["/tmp", "/dev/shm", "/var/tmp"];
    let common = common.map(|folder| SocketFolder { variable: None, folder: folder.into() });
    named.chain(common).collect()
}

/// The number of cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Whether the kernel shows an NVIDIA GPU to this process. Otherwise no driver is asked.
pub fn has_nvidia_device() -> bool {
    ["/dev/nvidiactl", "/dev/dxg"].iter().any(|path| fs::exists(path).unwrap_or(false))
}

/// Whether several ranks may share a GPU (`BINFER_GPUS_SHARED=1`), which is slow and meant for
/// tests.
pub fn gpus_are_shared() -> bool {
    text_var("BINFER_GPUS_SHARED").is_some_and(|value| value == "1")
}

/// The folders that may have CUDA's libraries besides the system's own: those of `LD_LIBRARY_PATH`,
/// CUDA itself, and NVIDIA's Python packages.
pub fn cuda_library_folders() -> Vec<PathBuf> {
    let prefixes = [path_var("VIRTUAL_ENV"), home(".local")].into_iter().flatten();
    let prefixes = prefixes.chain(["/usr/local", "/usr", "/opt/venv"].map(PathBuf::from));
    let cuda = path_var("CUDA_HOME").or_else(|| Some(PathBuf::from("/usr/local/cuda")));
    let named = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&named)
        .filter(|folder| folder.is_absolute())
        .chain(cuda.map(|home| home.join("lib64")))
        .collect();
    for prefix in prefixes {
        let versions = fs::read_dir(prefix.join("lib")).into_iter().flatten().flatten();
        let mut versions: Vec<PathBuf> = versions
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("python3"))
            .map(|entry| entry.path())
            .collect();
        versions.sort();
        for version in versions.iter().rev() {
            let packages = ["site-packages", "dist-packages"].map(|name| version.join(name));
            folders.extend(packages.iter().flat_map(|packages| nvidia_package_folders(packages)));
        }
    }
    folders.retain(|folder| folder.is_dir());
    folders
}

/// The library folders of NVIDIA's Python packages below a folder of packages.
fn nvidia_package_folders(packages: &Path) -> [PathBuf; 3] {
    ["nvidia/cu13/lib", "nvidia/cublas/lib", "nvidia/nccl/lib"].map(|folder| packages.join(folder))
}

/// Raises the limit of open files as far as this process may. Returns the new limit.
pub fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let now = match setrlimit(Resource::Nofile, all) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    now.unwrap_or(u64::MAX)
}

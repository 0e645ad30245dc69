//! The flags of `serve` that say who may ask: keys of clients.

use std::fmt;
use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use clap::Args;

use crate::config::{self, API_KEY_VARIABLE, ConfigError};
use crate::front::ApiKeys;

/// Bytes of a file of keys.
const KEY_FILE_BYTES_MAX: u64 = 1 << 20;

/// Who may ask.
#[derive(Args, Clone, Debug, Default)]
pub struct GuardArgs {
    /// A key that clients must show, as Authorization: Bearer KEY; may be given several times.
    /// Other users of the machine can see it here, and not in BINFER_API_KEY or a file
    #[arg(long, value_name = "KEY")]
    pub api_key: Vec<SecretArg>,
    /// A file of such keys, one a line
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
}

/// An argument that is not shown.
#[derive(Clone)]
pub struct SecretArg(String);

impl FromStr for SecretArg {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for SecretArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("...")
    }
}

impl GuardArgs {
    /// The keys of all flags and of the environment together.
    ///
    /// # Errors
    /// When one cannot be a key, or the file cannot be read or holds none.
    pub(super) fn keys(&self) -> Result<Arc<ApiKeys>, ConfigError> {
        self.keys_with(config::api_key())
    }

    fn keys_with(&self, variable: Option<String>) -> Result<Arc<ApiKeys>, ConfigError> {
        let text = self.api_key_file.as_deref().map(read_keys).transpose()?;
        let of_file = text.iter().flat_map(|text| lines(text));
        let sources = (self.api_key.iter().map(|key| ("--api-key", key.0.as_str())))
            .chain(variable.iter().map(|key| (API_KEY_VARIABLE, key.as_str())))
            .chain(of_file.map(|key| ("--api-key-file", key)));
        let keys: Vec<_> = sources.collect();
        for (source, key) in &keys {
            ApiKeys::new([*key]).map_err(|error| ConfigError(format!("{source}: {error}")))?;
        }
        let keys = ApiKeys::new(keys.into_iter().map(|(_, key)| key));
        keys.map(Arc::new).map_err(|error| ConfigError(error.to_string()))
    }
}

/// What people should know who bind to `address`.
pub(super) fn warning(address: SocketAddr, keys: &ApiKeys) -> Option<String> {
    let is_local = address.ip().to_canonical().is_loopback();
    (!is_local && keys.is_empty()).then(|| {
        format!(
            "warning: whoever reaches {address} may use this server: set {API_KEY_VARIABLE} or \
             --api-key-file, or bind to 127.0.0.1"
        )
    })
}

fn read_keys(path: &Path) -> Result<String, ConfigError> {
    let failed = |cause: &dyn fmt::Display| {
        ConfigError(format!("--api-key-file {}: {cause}", path.display()))
    };
    let mut text = String::new();
    let read = fs::File::open(path)
        .and_then(|file| file.take(KEY_FILE_BYTES_MAX + 1).read_to_string(&mut text));
    read.map_err(|error| failed(&error))?;
    if text.len() as u64 > KEY_FILE_BYTES_MAX {
        return Err(failed(&format!("expected {KEY_FILE_BYTES_MAX} bytes at most")));
    }
    if lines(&text).next().is_none() {
        return Err(failed(&"expected a key a line, and there is none"));
    }
    Ok(text)
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(keys: &[&str], file: Option<&Path>) -> GuardArgs {
        let api_key = keys.iter().map(|key| key.parse().unwrap()).collect();
        GuardArgs { api_key, api_key_file: file.map(Path::to_path_buf) }
    }

    #[test]
    fn keys_of_flags_file_and_environment_are_accepted_alike() {
        let folder = std::env::temp_dir().join(format!("binfer-keys-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("keys");
        fs::write(&file, "\n in-file \r\nalso-in-file").unwrap();
        let keys = args(&["flag"], Some(&file)).keys_with(Some("variable".into())).unwrap();
        for key in ["flag", "variable", "in-file", "also-in-file"] {
            assert_eq!(keys.check([format!("Bearer {key}").as_bytes()]), Ok(()), "{key}");
        }
        assert!(keys.check([&b"Bearer else"[..]]).is_err());
        fs::write(&file, " \n\n").unwrap();
        let empty = args(&[], Some(&file)).keys_with(None).unwrap_err();
        assert!(empty.0.contains("there is none"), "an empty file must not open the server");
        fs::remove_dir_all(&folder).unwrap();
        assert!(args(&[], Some(&file)).keys_with(None).unwrap_err().0.contains("--api-key-file"));
        assert!(args(&[], None).keys_with(None).unwrap().is_empty());
    }

    #[test]
    fn a_key_that_cannot_be_one_is_named_by_its_place_and_never_shown() {
        let error = args(&["good", "sec ret"], None).keys_with(None).unwrap_err().0;
        assert!(error.starts_with("--api-key: expected") && !error.contains("ret"), "{error}");
        assert!(args(&[""], None).keys_with(None).is_err(), "an empty key opens nothing");
        let error = args(&[], None).keys_with(Some("sec ret".into())).unwrap_err().0;
        assert!(error.starts_with("BINFER_API_KEY: "), "{error}");
        assert!(!format!("{:?}", args(&["secret"], None)).contains("secret"));
    }

    #[test]
    fn whoever_is_reached_from_elsewhere_without_keys_is_warned() {
        let (none, some) = (ApiKeys::default(), ApiKeys::new(["key"]).unwrap());
        for address in ["0.0.0.0:80", "192.168.0.1:80", "[::]:80"] {
            let address = address.parse().unwrap();
            assert!(warning(address, &none).is_some_and(|text| text.starts_with("warning: ")));
            assert_eq!(warning(address, &some), None);
        }
        for address in ["127.0.0.1:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
            assert_eq!(warning(address.parse().unwrap(), &none), None);
        }
    }
}

//! Where the model lies that MODEL names: `demo`, a path, or an id on the Hugging Face hub.
//!
//! A file or folder here wins over an id of the same name. An id is fetched if the cache lacks it.
//! Only `binfer pull` asks the hub for something newer.

use std::fs;
use std::path::{Path, PathBuf};

use binfer_shard::Description;
use binfer_shard::gguf::SplitName;
use binfer_shard::hub::{Hub, HubError, ModelId};
use binfer_shard::shards::is_shards;

use crate::config::{self, ConfigError};
use crate::error::LaunchError;
use crate::report::Report;

/// A model that is on this machine.
#[derive(Clone, Debug)]
pub struct Located {
    /// A GGUF file or a folder.
    pub path: PathBuf,
    /// The name by which clients ask for it.
    pub name: String,
}

/// What MODEL can be, for messages.
const FORMS: &str =
    "MODEL is a GGUF file, a Hugging Face folder, an id on the hub (ORG/NAME) or `demo`";

/// Finds MODEL, and fetches it where it is missing.
pub fn locate(
    model: &str,
    revision: Option<&str>,
    report: &Report,
) -> Result<Located, LaunchError> {
    let path = if model == "demo" { Some(config::demo_path()?) } else { local(model)? };
    if let Some(path) = path {
        refuse_revision(revision)?;
        let name = if model == "demo" { model.to_owned() } else { file_name(&path, model) };
        return Ok(Located { path, name });
    }
    let id = hub_id(model, revision, &neither())?;
    let hub = Hub::new(&config::hub_settings()?)?;
    let found = hub.model(&id, &|event| report.downloading(event));
    report.loaded();
    let found = found.map_err(nor_here)?;
    found.note.iter().for_each(|note| report.line(note));
    Ok(Located { path: found.path, name: model.to_owned() })
}

/// Describes MODEL. Only settings and headers are downloaded, and `config.json` alone is enough.
pub fn describe(model: &str, revision: Option<&str>) -> Result<Description, LaunchError> {
    let path = if model == "demo" { Some(config::demo_path()?) } else { local(model)? };
    if let Some(path) = path {
        refuse_revision(revision)?;
        return Ok(binfer_shard::describe(&path)?);
    }
    let id = hub_id(model, revision, &neither())?;
    let hub = Hub::new(&config::hub_settings()?)?;
    if let Some(path) = hub.cached(&id) {
        return Ok(binfer_shard::describe(&path)?);
    }
    Ok(hub.describe(&id).map_err(nor_here)?)
}

fn refuse_revision(revision: Option<&str>) -> Result<(), ConfigError> {
    match revision {
        Some(_) => Err(ConfigError("--revision is for ids on the Hugging Face hub".into())),
        None => Ok(()),
    }
}

/// Adds to the error of an id that the hub lacks that there is no such path either.
fn nor_here(error: HubError) -> HubError {
    match error {
        HubError::Absent(cause) => {
            HubError::Absent(format!("{cause}, and no such file or folder here"))
        }
        other => other,
    }
}

/// The message about a name that is neither a path nor an id.
fn neither() -> String {
    format!("no such file or folder, and no id on the hub; {FORMS}")
}

/// The id that `model` must be. If it is none, `otherwise` follows it in the error.
pub fn hub_id(
    model: &str,
    revision: Option<&str>,
    otherwise: &str,
) -> Result<ModelId, LaunchError> {
    let none = || ConfigError(format!("{model}: {otherwise}"));
    let id = ModelId::parse(model).ok_or_else(none)?;
    Ok(match revision {
        Some(revision) => id.at_revision(revision)?,
        None => id,
    })
}

/// The file or folder of that name, if there is one.
fn local(model: &str) -> Result<Option<PathBuf>, ConfigError> {
    let path = Path::new(model);
    let wrong = |cause: &str| Err(ConfigError(format!("{model}: {cause}; {FORMS}")));
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() && !path.join("config.json").is_file() && !is_shards(path) => {
            // A folder that this user may not enter may have a config.json.
            match fs::metadata(path.join("config.json")) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    wrong(&format!("config.json in it: {error}"))
                }
                _ => wrong("the folder has no config.json"),
            }
        }
        Ok(meta) if meta.is_dir() => Ok(Some(path.canonicalize().unwrap_or_else(|_| path.into()))),
        // Links to files are kept: in the hub's cache only they have the files' names.
        Ok(meta) if meta.is_file() => {
            Ok(Some(std::path::absolute(path).unwrap_or_else(|_| path.into())))
        }
        Ok(_) => wrong("not a file"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => wrong(&error.to_string()),
    }
}

/// The name that clients use for a model: its file's, without ending and number of a part, or its
/// folder's.
fn file_name(path: &Path, model: &str) -> String {
    let name = path.file_name().and_then(|name| name.to_str());
    if let Some(part) = name.and_then(SplitName::parse) {
        return part.stem.to_owned();
    }
    // A folder's name may have dots, and keeps them.
    let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
    stem.map_or_else(|| model.to_owned(), |stem| stem.to_string_lossy().into_owned())
}

//! Which files of a repository serving needs. Pure.
//!
//! They are a folder of safetensors with its tokenizer, or one GGUF file, whole or in parts.
//! Pickles, weights of other frameworks, `original/`, `metal/` and `onnx/` stay on the hub.

use super::{HubError, ModelId};
use crate::error::listed;
use crate::gguf::SplitName;
use crate::hf;

/// The files to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A Hugging Face folder.
    Folder {
        /// The text files, and the index if there is one.
        texts: Vec<String>,
        weights: WeightFiles,
    },
    /// The parts of a GGUF model, in order.
    Gguf(Vec<String>),
}

/// The files of weights of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WeightFiles {
    /// The one file [`hf::WEIGHTS`].
    One,
    /// The files that [`hf::INDEX`] names.
    Indexed,
}

/// Chooses the files to fetch among the paths of a repository.
pub(super) fn wanted(id: &ModelId, paths: &[String]) -> Result<Wanted, HubError> {
    let has = |name: &str| paths.iter().any(|path| path == name);
    let models = gguf_models(paths);
    if let Some(tag) = &id.tag {
        return tagged(id, tag, &models).map(Wanted::Gguf);
    }
    let weights = match (has(hf::WEIGHTS), has(hf::INDEX)) {
        _ if !has("config.json") => None,
        (true, _) => Some(WeightFiles::One),
        (false, true) => Some(WeightFiles::Indexed),
        (false, false) => None,
    };
    if let Some(weights) = weights {
        let index = (weights == WeightFiles::Indexed).then_some(hf::INDEX);
        let texts = hf::TEXT_FILES.iter().copied().chain(index).filter(|name| has(name));
        return Ok(Wanted::Folder { texts: texts.map(str::to_owned).collect(), weights });
    }
    match models.as_slice() {
        [] => Err(HubError::Unfit(format!(
            "{id}: nothing to serve: neither config.json with safetensors nor a GGUF file"
        ))),
        [one] => Ok(Wanted::Gguf(one.clone())),
        several => Err(ambiguous(id, several)),
    }
}

/// The GGUF model that has a file called `tag`, or whose name ends with the quantisation `tag`.
fn tagged(id: &ModelId, tag: &str, models: &[Vec<String>]) -> Result<Vec<String>, HubError> {
    if let Some(model) = models.iter().find(|model| model.iter().any(|path| path == tag)) {
        return Ok(model.clone());
    }
    let fits: Vec<Vec<String>> =
        models.iter().filter(|model| is_quantised_as(&model[0], tag)).cloned().collect();
    match fits.as_slice() {
        [one] => Ok(one.clone()),
        [] if models.is_empty() => {
            Err(HubError::Unfit(format!("{id}: the repository has no GGUF file")))
        }
        [] => Err(HubError::Absent(format!(
            "{id}: no such GGUF file; there are {}",
            listed(&firsts(models))
        ))),
        several => Err(ambiguous(id, several)),
    }
}

fn ambiguous(id: &ModelId, models: &[Vec<String>]) -> HubError {
    let (repository, files) = (id.repository(), firsts(models));
    let first = files.first().copied().unwrap_or_default();
    HubError::Unfit(format!(
        "{id}: several GGUF files: {}; say which, as in {repository}:{first}",
        listed(&files)
    ))
}

fn firsts(models: &[Vec<String>]) -> Vec<&str> {
    models.iter().filter_map(|model| model.first()).map(String::as_str).collect()
}

/// Whether a file's name ends with a quantisation, as `Model-Q4_K_M.gguf` does with `q4_k_m`.
fn is_quantised_as(path: &str, tag: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = SplitName::parse(file).map_or_else(|| file.trim_end_matches(GGUF), |part| part.stem);
    let (stem, tag) = (stem.to_ascii_lowercase(), tag.to_ascii_lowercase());
    stem.strip_suffix(&tag).is_some_and(|rest| rest.is_empty() || rest.ends_with(['-', '.', '_']))
}

const GGUF: &str = ".gguf";

/// The GGUF models of a repository, each as its parts in order. Models that lack parts and
/// projectors of images are left out.
fn gguf_models(paths: &[String]) -> Vec<Vec<String>> {
    let models = paths.iter().filter(|path| path.ends_with(GGUF) && !path.contains("mmproj"));
    let whole = |path: &String| -> Option<Vec<String>> {
        let Some(part) = SplitName::parse(path) else { return Some(vec![path.clone()]) };
        if part.number != 1 {
            return None;
        }
        let parts: Vec<String> = (1..=part.count).map(|number| part.sibling(number)).collect();
        parts.iter().all(|part| paths.contains(part)).then_some(parts)
    };
    models.filter_map(whole).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(id: &str, paths: &[&str]) -> Result<Wanted, HubError> {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        wanted(&ModelId::parse(id).unwrap(), &paths)
    }

    fn gguf(id: &str, paths: &[&str]) -> Vec<String> {
        match choose(id, paths).unwrap() {
            Wanted::Gguf(parts) => parts,
            other @ Wanted::Folder { .. } => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_folder_is_what_serving_needs_and_nothing_else() {
        let paths = [
            "README.md",
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "onnx/model.onnx",
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "pytorch_model.bin",
            "model-00002-of-00002.safetensors",
            "original/consolidated.00.pth",
            "metal/model.bin",
            "chat_template.jinja",
            "original/tokenizer.json",
            "a.gguf",
        ];
        let texts = [
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "chat_template.jinja",
            "model.safetensors.index.json",
        ];
        let texts = texts.map(str::to_owned).to_vec();
        let folder = Wanted::Folder { texts, weights: WeightFiles::Indexed };
        assert_eq!(choose("a/b", &paths).unwrap(), folder);
        let one = ["config.json", "model.safetensors", "model.safetensors.index.json"];
        let folder =
            Wanted::Folder { texts: vec!["config.json".into()], weights: WeightFiles::One };
        assert_eq!(choose("a/b", &one).unwrap(), folder);
    }

    #[test]
    fn a_gguf_file_is_chosen_by_name_or_quantisation() {
        let paths = ["README.md", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-F16.gguf"];
        assert_eq!(gguf("a/b:Q8_0", &paths), ["m-Q8_0.gguf"]);
        assert_eq!(gguf("a/b:q4_k_m", &paths), ["m-Q4_K_M.gguf"]);
        assert_eq!(gguf("a/b:m-Q8_0.gguf", &paths), ["m-Q8_0.gguf"]);
        assert_eq!(gguf("a/b", &["x.gguf", "mmproj-F16.gguf"]), ["x.gguf"]);
        let several = choose("a/b", &paths).unwrap_err().to_string();
        assert!(several.contains("m-Q4_K_M.gguf, m-Q8_0.gguf; say which, as in a/b:m-Q4_K_M.gguf"));
        // Not the end of another word.
        assert!(matches!(choose("a/b:K_M", &["m-Q4K_M.gguf"]), Err(HubError::Absent(_))));
        assert!(matches!(choose("a/b:Q4", &["x.safetensors"]), Err(HubError::Unfit(_))));
        assert!(matches!(choose("a/b", &["model.bin", "config.json"]), Err(HubError::Unfit(_))));
    }

    #[test]
    fn parts_of_a_gguf_model_come_together_or_not_at_all() {
        let (one, two) = ("q/m-Q8_0-00001-of-00002.gguf", "q/m-Q8_0-00002-of-00002.gguf");
        assert_eq!(gguf("a/b:Q8_0", &[two, one]), [one, two]);
        assert_eq!(gguf("a/b", &[one, two]), [one, two]);
        assert!(matches!(choose("a/b", &[two]), Err(HubError::Unfit(_))));
    }
}

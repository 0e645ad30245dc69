//! The name of a model on the hub as users write it: `ORG/NAME`, or `ORG/NAME:TAG` for one of
//! several GGUF files.

use std::fmt;

use super::HubError;

/// The longest name of an organisation or model, by the hub's rule.
const NAME_BYTES_MAX: usize = 96;
/// The longest path within a repository, and the longest revision.
const PATH_BYTES_MAX: usize = 512;
/// The branch that every repository has.
const REVISION_DEFAULT: &str = "main";

/// A model on the hub: its repository, its revision, and a GGUF file if one was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelId {
    pub(super) org: String,
    pub(super) name: String,
    /// What follows the colon: a path of the repository, or the name of a quantisation.
    pub(super) tag: Option<String>,
    pub(super) revision: String,
}

impl ModelId {
    /// Reads `ORG/NAME` or `ORG/NAME:TAG`. `None` if the text is neither.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (repository, tag) = match text.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (text, None),
        };
        let (org, name) = repository.split_once('/')?;
        let fits = is_name(org) && is_name(name) && tag.is_none_or(is_plain_path);
        fits.then(|| Self {
            org: org.to_owned(),
            name: name.to_owned(),
            tag: tag.map(str::to_owned),
            revision: REVISION_DEFAULT.to_owned(),
        })
    }

    /// The same model at a branch, a tag or a commit.
    ///
    /// # Errors
    /// [`HubError::Unfit`] for a text that cannot be a revision, since it becomes a path of the
    /// cache.
    pub fn at_revision(mut self, revision: &str) -> Result<Self, HubError> {
        if !is_plain_path(revision) {
            return Err(HubError::Unfit(format!("{revision:?} cannot be a revision")));
        }
        revision.clone_into(&mut self.revision);
        Ok(self)
    }

    /// `ORG/NAME`.
    #[must_use]
    pub fn repository(&self) -> String {
        format!("{}/{}", self.org, self.name)
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.org, self.name)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        if self.revision != REVISION_DEFAULT {
            write!(f, " at {}", self.revision)?;
        }
        Ok(())
    }
}

/// The hub's rule for organisations and names.
fn is_name(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.chars().all(legal)
        && !text.starts_with(['-', '.'])
        && !text.ends_with(['-', '.'])
        && !text.contains("--")
        && !text.contains("..")
}

/// Whether a path from outside stays below the folder that it is joined to, on every system.
pub(super) fn is_plain_path(path: &str) -> bool {
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    path.len() <= PATH_BYTES_MAX
        && path.split('/').all(plain)
        && !path.chars().any(|c| c.is_control() || matches!(c, '\\' | ':'))
}

/// Whether it is a whole commit id.
pub(super) fn is_commit(text: &str) -> bool {
    is_hex(text) && text.len() == 40
}

pub(super) fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_paths() {
        let id = ModelId::parse("Qwen/Qwen3-8B").unwrap();
        assert_eq!((id.repository().as_str(), id.tag), ("Qwen/Qwen3-8B", None));
        let id = ModelId::parse("Qwen/Qwen3-8B-GGUF:q/Q4_K_M.gguf").unwrap();
        assert_eq!(id.to_string(), "Qwen/Qwen3-8B-GGUF:q/Q4_K_M.gguf");
        for text in [
            "gpt2", "/a/b", "./a/b", "../a", "a/b/c", "a/..", "a/b:", "a/b:../c", "a/b:/c",
            "a/b--c", "a/b c", "", "a/", "/", "a\\b/c", "a/b:c:d",
        ] {
            assert_eq!(ModelId::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_revision_stays_below_the_cache() {
        let id = || ModelId::parse("a/b").unwrap();
        assert_eq!(id().at_revision("refs/pr/1").unwrap().to_string(), "a/b at refs/pr/1");
        for revision in ["", "../../x", "/etc", "a//b", "a/./b", "a\nb"] {
            assert!(id().at_revision(revision).is_err(), "{revision:?}");
        }
    }
}

//! Who may ask, by a key. Each front shows what its protocol has in `Authorization`, and gives a
//! refusal its own status.
//!
//! Only digests of keys are kept and compared, all of them and in constant time, so that neither
//! the time of a refusal nor a dump of memory tells a key.

use ring::digest::{SHA256, digest};
use subtle::{Choice, ConstantTimeEq};

/// The keys that are accepted. Without any, nobody needs one.
#[derive(Clone, Debug, Default)]
pub struct ApiKeys {
    digests: Vec<Vec<u8>>,
}

/// A key cannot be one, because no header could carry it. It is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected visible ASCII characters without spaces")]
pub struct ApiKeyError;

/// Why somebody may not ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefusal {
    /// No key came.
    #[error("an API key is needed, as the header Authorization: Bearer KEY")]
    Missing,
    /// The key is none of those that are accepted.
    #[error("the API key is not one that this server accepts")]
    Unknown,
}

impl ApiKeys {
    /// Accepts `keys`.
    ///
    /// # Errors
    /// When one of them is empty or has other characters than keys have.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> Result<Self, ApiKeyError> {
        let digest_of = |key: &str| match !key.is_empty() && key.bytes().all(is_of_key) {
            true => Ok(digest(&SHA256, key.as_bytes()).as_ref().to_vec()),
            false => Err(ApiKeyError),
        };
        Ok(Self { digests: keys.into_iter().map(digest_of).collect::<Result<_, _>>()? })
    }

    /// Whether nobody needs a key.
    pub fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    /// Checks the values of all `Authorization` headers of a request. Only one may be there.
    ///
    /// # Errors
    /// Why the request is refused.
    pub fn check<'a>(
        &self,
        authorization: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<(), KeyRefusal> {
        if self.is_empty() {
            return Ok(());
        }
        let mut lines = authorization.into_iter();
        let (Some(line), None) = (lines.next(), lines.next()) else {
            return Err(KeyRefusal::Missing);
        };
        let key = bearer(line).ok_or(KeyRefusal::Missing)?;
        let asked = digest(&SHA256, key);
        let same = |known: &Vec<u8>| known.as_slice().ct_eq(asked.as_ref());
        let known = self.digests.iter().map(same).fold(Choice::from(0), |any, one| any | one);
        if known.into() { Ok(()) } else { Err(KeyRefusal::Unknown) }
    }
}

/// The key behind `Bearer`, whose case does not matter (RFC 9110, 11.1).
fn bearer(line: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = line.split_at_checked("Bearer ".len())?;
    let key = key.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"Bearer ") && !key.is_empty()).then_some(key)
}

fn is_of_key(byte: u8) -> bool {
    byte.is_ascii_graphic()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(keys: &[&str], lines: &[&str]) -> Result<(), KeyRefusal> {
        let keys = ApiKeys::new(keys.iter().copied()).unwrap();
        keys.check(lines.iter().map(|line| line.as_bytes()))
    }

    #[test]
    fn any_of_the_keys_is_accepted_and_nothing_else() {
        let keys = ["first", "second-key"];
        for line in ["Bearer first", "bearer second-key", "BEARER first", "Bearer   first "] {
            assert_eq!(check(&keys, &[line]), Ok(()), "{line}");
        }
        for line in ["Bearer firs", "Bearer firstt", "Bearer First", "Bearer first second-key"] {
            assert_eq!(check(&keys, &[line]), Err(KeyRefusal::Unknown), "{line}");
        }
        for line in
            ["", "first", "Bearer", "Bearer ", "Basic first", "Bearer\tfirst", "Bearerfirst"]
        {
            assert_eq!(check(&keys, &[line]), Err(KeyRefusal::Missing), "{line}");
        }
        assert_eq!(check(&keys, &[]), Err(KeyRefusal::Missing));
        assert_eq!(check(&keys, &["Bearer first", "Bearer first"]), Err(KeyRefusal::Missing));
    }

    #[test]
    fn without_keys_nobody_needs_one() {
        assert_eq!(check(&[], &[]), Ok(()));
        assert_eq!(check(&[], &["Bearer whatever"]), Ok(()));
    }

    #[test]
    fn what_no_header_could_carry_is_no_key_and_keys_are_not_shown() {
        for key in ["", " ", "a b", "a\n", "käse", "a\u{7f}"] {
            assert_eq!(ApiKeys::new([key]).err(), Some(ApiKeyError), "{key:?}");
        }
        let shown = format!("{:?}", ApiKeys::new(["secret"]).unwrap());
        assert!(!shown.contains("secret"), "{shown}");
    }
}

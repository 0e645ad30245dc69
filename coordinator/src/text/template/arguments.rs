//! Arguments of Jinja's filters, which a template gives by position or by name.

use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind};

/// The arguments of a filter by name; positional ones get their names from `names`.
pub(super) fn by_name(
    names: &[&str],
    positional: &[Value],
    named: &Kwargs,
) -> Result<Kwargs, Error> {
    if positional.len() > names.len() {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let first = names.iter().zip(positional).map(|(name, value)| Ok((*name, value.clone())));
    let rest = named.args().map(|name| Ok((name, named.get::<Value>(name)?)));
    first.chain(rest).collect()
}

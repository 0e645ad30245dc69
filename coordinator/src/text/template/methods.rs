//! Methods of Python's types that templates call and that minijinja-contrib's `pycompat` lacks or
//! has in another way. `pycompat` does the rest.

use super::print::{MeteredText, charge, charge_items};
use super::string_methods;
use minijinja::value::{ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

/// Calls a method that minijinja does not have.
pub(super) fn unknown(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let known = match value.kind() {
        ValueKind::String => string(state, value, method, args)?,
        ValueKind::Seq | ValueKind::Iterable => {
            charge_items(state, value)?;
            list(value, method, args)?
        }
        ValueKind::Map if method == "copy" => {
            let () = from_args(args)?;
            Some(value.clone())
        }
        _ => None,
    };
    match known {
        Some(known) => Ok(known),
        None => pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn string(
    state: &State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Option<Value>, Error> {
    let text = value.as_str().unwrap_or_default();
    match method {
        "join" => {
            let (parts,): (&Value,) = from_args(args)?;
            let mut out = MeteredText::new(state);
            for (index, part) in parts.try_iter()?.enumerate() {
                out.push(if index == 0 { "" } else { text })?;
                out.push(part.as_str().ok_or_else(|| invalid("join takes strings alone"))?)?;
            }
            Ok(Some(Value::from(out.finish())))
        }
        "format" => {
            charge(state, widths(text))?;
            Ok(None)
        }
        _ => string_methods::call(state, text, method, args),
    }
}

/// The sum of all numbers in the fields of a format, by which the text may grow beyond the values.
fn widths(format: &str) -> usize {
    let fields = format.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    let numbers = fields.flat_map(|field| field.split(|c: char| !c.is_ascii_digit()));
    let widths = numbers.filter(|digits| !digits.is_empty());
    widths.map(|digits| digits.parse().unwrap_or(usize::MAX)).fold(0, usize::saturating_add)
}

fn list(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match method {
        "index" => {
            let (wanted,): (&Value,) = from_args(args)?;
            let at = value.try_iter()?.position(|item| item == *wanted);
            at.map(|at| Some(Value::from(at)))
                .ok_or_else(|| invalid("the value is not in the list"))
        }
        "count" => {
            let (wanted,): (&Value,) = from_args(args)?;
            Ok(Some(Value::from(value.try_iter()?.filter(|item| item == wanted).count())))
        }
        "copy" => {
            let () = from_args(args)?;
            Ok(Some(value.clone()))
        }
        _ => Ok(None),
    }
}

fn invalid(detail: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, detail)
}

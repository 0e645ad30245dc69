//! Writes values as Python writes them, for `{{ value }}`, `|string` and `|join`.
//!
//! Writing is charged in fuel as it goes, because a small value may contain the same list many
//! times.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Output, State, Value};

/// How deep the containers that are written may be nested; Python gives up at 1,000.
const NESTING_MAX: usize = 200;
/// How many bytes one unit of fuel allows, as in minijinja.
const BYTES_PER_FUEL: usize = 64;

/// A text that grows as long as fuel is left.
pub(super) struct MeteredText<'a> {
    state: &'a State<'a, 'a>,
    text: String,
    unpaid: usize,
}

impl<'a> MeteredText<'a> {
    pub(super) fn new(state: &'a State<'_, '_>) -> Self {
        Self { state, text: String::new(), unpaid: 0 }
    }

    pub(super) fn push(&mut self, text: &str) -> Result<(), Error> {
        // Each call is charged for 8 bytes more, so that writing nothing very often costs fuel too.
        self.unpaid = self.unpaid.saturating_add(text.len()).saturating_add(8);
        if self.unpaid >= BYTES_PER_FUEL {
            charge(self.state, self.unpaid)?;
            self.unpaid = 0;
        }
        self.text.push_str(text);
        Ok(())
    }

    pub(super) fn state(&self) -> &'a State<'a, 'a> {
        self.state
    }

    pub(super) fn finish(self) -> String {
        self.text
    }
}

/// Consumes the fuel for `bytes` bytes, before they are made.
pub(super) fn charge(state: &State<'_, '_>, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(u64::try_from(bytes / BYTES_PER_FUEL).unwrap_or(u64::MAX))
}

/// Consumes the fuel for visiting all items of a value.
pub(super) fn charge_items(state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    state.consume_fuel(u64::try_from(value.len().unwrap_or(0)).unwrap_or(u64::MAX))
}

/// An indentation of `width` spaces, or of the template's own text.
pub(super) fn indentation(state: &State<'_, '_>, width: &Value) -> Result<String, Error> {
    if let Some(text) = width.as_str() {
        return Ok(text.to_owned());
    }
    let count = i64::try_from(width.clone())?;
    let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
    charge(state, count)?;
    Ok(" ".repeat(count))
}

/// Refuses a value that is nested too deep.
pub(super) fn check_nesting(depth: usize) -> Result<(), Error> {
    if depth > NESTING_MAX {
        let detail = format!("a value is nested deeper than {NESTING_MAX}");
        return Err(Error::new(ErrorKind::InvalidOperation, detail));
    }
    Ok(())
}

/// Writes the value of `{{ value }}`.
pub(super) fn format(
    out: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Value,
) -> Result<(), Error> {
    if *state.auto_escape() != minijinja::AutoEscape::None {
        return minijinja::escape_formatter(out, state, value);
    }
    match value.as_str() {
        Some(text) => out.write_str(text)?,
        None => out.write_str(&str(state, value)?)?,
    }
    Ok(())
}

/// Python's `str(value)`.
pub(super) fn str(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    let mut out = MeteredText::new(state);
    write_str(&mut out, value)?;
    Ok(out.finish())
}

/// Python's `repr(value)`.
pub(super) fn repr(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    let mut out = MeteredText::new(state);
    write_repr(&mut out, value, 0)?;
    Ok(out.finish())
}

/// Writes Python's `str(value)`.
pub(super) fn write_str(out: &mut MeteredText<'_>, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => out.push(text),
        None if value.is_undefined() => Ok(()),
        None => write_repr(out, value, 0),
    }
}

/// Writes Python's `repr(value)`.
fn write_repr(out: &mut MeteredText<'_>, value: &Value, depth: usize) -> Result<(), Error> {
    check_nesting(depth)?;
    match value.kind() {
        ValueKind::Undefined => out.push("Undefined"),
        ValueKind::None => out.push("None"),
        ValueKind::String => write_quoted(out, value.as_str().unwrap_or_default()),
        ValueKind::Number if !value.is_integer() => {
            out.push(&float(f64::try_from(value.clone()).unwrap_or(f64::NAN)))
        }
        ValueKind::Map => {
            out.push("{")?;
            for (index, key) in value.try_iter()?.enumerate() {
                out.push(if index == 0 { "" } else { ", " })?;
                write_repr(out, &key, depth + 1)?;
                out.push(": ")?;
                write_repr(out, &value.get_item(&key)?, depth + 1)?;
            }
            out.push("}")
        }
        // A value without a length is a generator or an object of Jinja's, which no prompt shows.
        ValueKind::Seq | ValueKind::Iterable if value.len().is_some() => {
            let (open, close) = if value.is_tuple() { ("(", ")") } else { ("[", "]") };
            out.push(open)?;
            for (index, item) in value.try_iter()?.enumerate() {
                out.push(if index == 0 { "" } else { ", " })?;
                write_repr(out, &item, depth + 1)?;
            }
            out.push(if value.is_tuple() && value.len() == Some(1) { "," } else { "" })?;
            out.push(close)
        }
        _ => out.push(&value.to_string()),
    }
}

/// A string in quotes, with escapes for what cannot be printed.
fn write_quoted(out: &mut MeteredText<'_>, text: &str) -> Result<(), Error> {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut quoted = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c == quote => quoted.extend(['\\', c]),
            c if is_printable(c) => quoted.push(c),
            c => {
                let code = u32::from(c);
                quoted.push_str(&match code {
                    0..=0xFF => format!("\\x{code:02x}"),
                    0x100..=0xFFFF => format!("\\u{code:04x}"),
                    _ => format!("\\U{code:08x}"),
                });
            }
        }
    }
    quoted.push(quote);
    out.push(&quoted)
}

/// Python's `isprintable`. Rust's rule for debug output has the same categories; it lets combining
/// marks through after the first character of a string.
pub(super) fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    let mut shown = [b'a'; 5];
    let length = 1 + c.encode_utf8(&mut shown[1..]).len();
    let shown = std::str::from_utf8(&shown[..length]).unwrap_or_default();
    shown.escape_debug().eq(shown.chars())
}

/// Python's `repr` of a float, which has the fewest digits that read back the same.
pub(super) fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    // Rust uses exponents where Python does, but writes 1e16 instead of 1e+16.
    let digits = format!("{value:?}");
    match digits.split_once('e') {
        Some((mantissa, exponent)) => {
            let exponent: i32 = exponent.parse().unwrap_or_default();
            format!("{mantissa}e{exponent:+03}")
        }
        None => digits,
    }
}

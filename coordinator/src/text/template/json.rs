//! `|tojson` as in transformers: Python's `json.dumps` with its arguments, without Jinja's HTML
//! escapes.

use super::print::{self, MeteredText};
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

/// How a value is written.
struct Style {
    ascii: bool,
    /// The indentation of a level; without it everything is in one line.
    indent: Option<String>,
    between_items: String,
    after_key: String,
    sorted: bool,
}

/// The filter: `tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`.
pub(super) fn tojson(
    state: &State<'_, '_>,
    value: &Value,
    positional: Rest<Value>,
    named: Kwargs,
) -> Result<String, Error> {
    let style = Style::new(state, &positional, &named)?;
    let mut out = MeteredText::new(state);
    style.write(&mut out, value, 0)?;
    Ok(out.finish())
}

impl Style {
    fn new(state: &State<'_, '_>, positional: &[Value], named: &Kwargs) -> Result<Self, Error> {
        if positional.len() > 4 {
            return Err(Error::from(ErrorKind::TooManyArguments));
        }
        let argument = |index: usize, name: &str| match positional.get(index) {
            Some(value) => Some(value.clone()),
            None => named.get::<Option<Value>>(name).ok().flatten(),
        };
        let given = |value: &Value| !value.is_none() && !value.is_undefined();
        let ascii = argument(0, "ensure_ascii").is_some_and(|value| value.is_true());
        let indent = argument(1, "indent").filter(given);
        let indent = indent.map(|indent| print::indentation(state, &indent)).transpose()?;
        let separators = argument(2, "separators").filter(given);
        let sorted = argument(3, "sort_keys").is_some_and(|value| value.is_true());
        named.assert_all_used()?;
        let (between_items, after_key) = match separators {
            Some(pair) => {
                let part = |index| {
                    let part = pair.get_item_by_index(index).ok();
                    let part = part.as_ref().and_then(Value::as_str).map(str::to_owned);
                    part.ok_or_else(|| invalid("separators"))
                };
                (part(0)?, part(1)?)
            }
            None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        };
        Ok(Self { ascii, indent, between_items, after_key, sorted })
    }

    fn write(&self, out: &mut MeteredText<'_>, value: &Value, depth: usize) -> Result<(), Error> {
        print::check_nesting(depth)?;
        match value.kind() {
            ValueKind::None => out.push("null"),
            ValueKind::Bool => out.push(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => out.push(&value.to_string()),
            ValueKind::Number => out.push(&float(value)),
            ValueKind::String => self.string(out, value.as_str().unwrap_or_default()),
            ValueKind::Map => self.map(out, value, depth),
            ValueKind::Seq | ValueKind::Iterable => {
                out.push("[")?;
                let items = value.try_iter()?;
                self.items(out, depth, items, |out, item| self.write(out, item, depth + 1))?;
                out.push("]")
            }
            kind => {
                let detail = format!("a value of type {kind} cannot be written as JSON");
                Err(Error::new(ErrorKind::BadSerialization, detail))
            }
        }
    }

    fn map(&self, out: &mut MeteredText<'_>, value: &Value, depth: usize) -> Result<(), Error> {
        print::charge_items(out.state(), value)?;
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.sorted {
            keys.sort();
        }
        out.push("{")?;
        self.items(out, depth, keys.into_iter(), |out, key| {
            match key.kind() {
                ValueKind::String => self.string(out, key.as_str().unwrap_or_default())?,
                ValueKind::None => out.push("\"null\"")?,
                ValueKind::Bool => {
                    out.push(if key.is_true() { "\"true\"" } else { "\"false\"" })?
                }
                ValueKind::Number if key.is_integer() => out.push(&format!("\"{key}\""))?,
                ValueKind::Number => out.push(&format!("\"{}\"", float(key)))?,
                kind => {
                    let detail = format!("a key of type {kind} cannot be written as JSON");
                    return Err(Error::new(ErrorKind::BadSerialization, detail));
                }
            }
            out.push(&self.after_key)?;
            self.write(out, &value.get_item(key)?, depth + 1)
        })?;
        out.push("}")
    }

    fn items(
        &self,
        out: &mut MeteredText<'_>,
        depth: usize,
        items: impl Iterator<Item = Value>,
        write: impl Fn(&mut MeteredText<'_>, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut is_first = true;
        for item in items {
            out.push(if is_first { "" } else { &self.between_items })?;
            self.line(out, depth + 1)?;
            write(out, &item)?;
            is_first = false;
        }
        if is_first { Ok(()) } else { self.line(out, depth) }
    }

    fn line(&self, out: &mut MeteredText<'_>, depth: usize) -> Result<(), Error> {
        let Some(indent) = &self.indent else { return Ok(()) };
        out.push("\n")?;
        (0..depth).try_for_each(|_| out.push(indent))
    }

    fn string(&self, out: &mut MeteredText<'_>, text: &str) -> Result<(), Error> {
        let mut quoted = String::with_capacity(text.len() + 2);
        quoted.push('"');
        for c in text.chars() {
            match c {
                '"' => quoted.push_str("\\\""),
                '\\' => quoted.push_str("\\\\"),
                '\n' => quoted.push_str("\\n"),
                '\r' => quoted.push_str("\\r"),
                '\t' => quoted.push_str("\\t"),
                '\u{8}' => quoted.push_str("\\b"),
                '\u{c}' => quoted.push_str("\\f"),
                c if c < ' ' || (self.ascii && !(' '..='~').contains(&c)) => {
                    let units = c.encode_utf16(&mut [0; 2]).to_vec();
                    quoted.extend(units.iter().map(|unit| format!("\\u{unit:04x}")));
                }
                c => quoted.push(c),
            }
        }
        quoted.push('"');
        out.push(&quoted)
    }
}

fn float(value: &Value) -> String {
    match f64::try_from(value.clone()).unwrap_or(f64::NAN) {
        value if value.is_nan() => "NaN".into(),
        value if value.is_infinite() => if value > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        value => print::float(value),
    }
}

fn invalid(argument: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {argument} cannot be used"))
}

//! Filters of texts. A value that is not a text is first written as Python writes it.

use super::arguments::by_name;
use super::letters::is_space;
use super::print::{self, MeteredText};
use super::string_methods;
use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

/// The text that a filter works on.
fn text(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    print::str(state, value)
}

pub(super) fn join(
    state: &State<'_, '_>,
    values: &Value,
    separator: Option<Value>,
    attribute: Option<Value>,
    named: Kwargs,
) -> Result<String, Error> {
    let separator = match separator {
        Some(separator) => separator,
        None => named.get::<Option<Value>>("d")?.unwrap_or_else(|| Value::from("")),
    };
    let attribute = match attribute {
        Some(attribute) => Some(attribute),
        None => named.get::<Option<Value>>("attribute")?,
    };
    named.assert_all_used()?;
    let mut out = MeteredText::new(state);
    for (index, value) in values.try_iter()?.enumerate() {
        if index > 0 {
            print::write_str(&mut out, &separator)?;
        }
        match &attribute {
            Some(attribute) => print::write_str(&mut out, &path(&value, attribute)?)?,
            None => print::write_str(&mut out, &value)?,
        }
    }
    Ok(out.finish())
}

/// The value at a path of attributes such as `a.b.0`.
fn path(value: &Value, attribute: &Value) -> Result<Value, Error> {
    let Some(names) = attribute.as_str() else { return value.get_item(attribute) };
    names.split('.').try_fold(value.clone(), |value, name| match name.parse::<usize>() {
        Ok(index) => value.get_item_by_index(index),
        Err(_) => value.get_item(&Value::from(name)),
    })
}

/// The filter `escape`, which writes five characters as MarkupSafe does.
pub(super) fn escape(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    if value.is_safe() {
        return Ok(value.clone());
    }
    let mut out = MeteredText::new(state);
    for c in text(state, value)?.chars() {
        match c {
            '&' => out.push("&amp;")?,
            '<' => out.push("&lt;")?,
            '>' => out.push("&gt;")?,
            '"' => out.push("&#34;")?,
            '\'' => out.push("&#39;")?,
            c => out.push(c.encode_utf8(&mut [0; 4]))?,
        }
    }
    Ok(Value::from_safe_string(out.finish()))
}

/// `text % values` of Python.
pub(super) fn format(
    state: &mut State<'_, '_>,
    text: Value,
    values: Value,
) -> Result<Value, Error> {
    let mut args = vec![text];
    match values.kind() {
        ValueKind::Seq if values.is_tuple() => args.extend(values.try_iter()?),
        ValueKind::Map => {
            let named = values.try_iter()?.map(|key| Ok((key.to_string(), values.get_item(&key)?)));
            args.push(named.collect::<Result<Kwargs, Error>>()?.into());
        }
        _ => args.push(values),
    }
    state.apply_filter("format", &args)
}

pub(super) fn trim(
    state: &State<'_, '_>,
    value: &Value,
    chars: Option<Value>,
) -> Result<String, Error> {
    let chars = chars.as_ref().and_then(Value::as_str);
    let text = text(state, value)?;
    Ok(string_methods::strip(&text, chars, true, true).to_owned())
}

/// The filter `title`. Unlike in `str.title` only white space, a hyphen or a bracket begins a word.
pub(super) fn title(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    let mut at_start = true;
    let mut out = String::new();
    for c in text(state, value)?.chars() {
        if at_start {
            out.extend(c.to_uppercase());
        } else {
            out.extend(c.to_lowercase());
        }
        at_start = is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
    }
    Ok(out)
}

pub(super) fn center(
    state: &State<'_, '_>,
    value: &Value,
    width: Option<i64>,
) -> Result<String, Error> {
    let text = text(state, value)?;
    string_methods::justify(state, &text, "center", width.unwrap_or(80), ' ')
}

pub(super) fn wordcount(state: &State<'_, '_>, value: &Value) -> Result<usize, Error> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let text = text(state, value)?;
    Ok(text.split(|c| !is_word(c)).filter(|word| !word.is_empty()).count())
}

pub(super) fn truncate(
    state: &State<'_, '_>,
    value: &Value,
    positional: Rest<Value>,
    named: Kwargs,
) -> Result<String, Error> {
    let named = by_name(&["length", "killwords", "end", "leeway"], &positional, &named)?;
    let length = named.get::<Option<i64>>("length")?.unwrap_or(255);
    let killwords = named.get::<Option<bool>>("killwords")?.unwrap_or(false);
    let end = named.get::<Option<String>>("end")?.unwrap_or_else(|| "...".to_owned());
    let leeway = named.get::<Option<i64>>("leeway")?.unwrap_or(5);
    named.assert_all_used()?;
    let text = text(state, value)?;
    let count = |text: &str| i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    if length < count(&end) || leeway < 0 {
        let detail = "truncate: length is shorter than its end";
        return Err(Error::new(ErrorKind::InvalidOperation, detail));
    }
    if count(&text) <= length.saturating_add(leeway) {
        return Ok(text);
    }
    let kept = usize::try_from(length - count(&end)).unwrap_or(0);
    let kept: String = text.chars().take(kept).collect();
    let whole = kept.rsplit_once(' ').map_or(kept.as_str(), |(words, _)| words);
    Ok(if killwords { kept.as_str() } else { whole }.to_owned() + &end)
}

/// The filter `indent`, whose `width` may be a text too.
pub(super) fn indent(
    state: &State<'_, '_>,
    value: &Value,
    positional: Rest<Value>,
    named: Kwargs,
) -> Result<String, Error> {
    let named = by_name(&["width", "first", "blank"], &positional, &named)?;
    let width = named.get::<Option<Value>>("width")?.unwrap_or_else(|| Value::from(4));
    let flag =
        |name| named.get::<Option<Value>>(name).map(|flag| flag.is_some_and(|f| f.is_true()));
    let (first, blank) = (flag("first")?, flag("blank")?);
    named.assert_all_used()?;
    let by = print::indentation(state, &width)?;
    let text = text(state, value)? + "\n";
    let mut out = MeteredText::new(state);
    for (index, line) in string_methods::lines(&text, false).into_iter().enumerate() {
        out.push(if index == 0 { "" } else { "\n" })?;
        if if index == 0 { first } else { blank || !line.is_empty() } {
            out.push(&by)?;
        }
        out.push(line)?;
    }
    Ok(out.finish())
}

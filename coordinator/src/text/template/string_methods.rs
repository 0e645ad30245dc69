//! Python's string methods that minijinja lacks or has in another way.

use super::letters::{self, is_space};
use super::print::charge;
use minijinja::value::{Kwargs, Tuple, Value, from_args};
use minijinja::{Error, ErrorKind, State};

/// The bytes that a part of a split text is charged for beside its text.
const PART_BYTES: usize = 64;

/// Calls `text.method(args)`; `None` for any other method.
pub(super) fn call(
    state: &State<'_, '_>,
    text: &str,
    method: &str,
    args: &[Value],
) -> Result<Option<Value>, Error> {
    let value = match method {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Value::from(strip(text, chars, method != "rstrip", method != "lstrip"))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "split" | "rsplit" => split(state, text, args, method == "rsplit")?,
        "splitlines" => splitlines(state, text, args)?,
        "partition" | "rpartition" => partition(text, args, method == "rpartition")?,
        "find" | "rfind" | "index" | "rindex" => find(text, method, args)?,
        "count" => {
            let (part, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            Value::from(window(text, start, end).map_or(0, |(_, text)| text.matches(part).count()))
        }
        "startswith" | "endswith" => edge(text, method == "startswith", args)?,
        "center" | "ljust" | "rjust" => {
            let (width, fill): (i64, Option<char>) = from_args(args)?;
            Value::from(justify(state, text, method, width, fill.unwrap_or(' '))?)
        }
        "zfill" => {
            let (width,): (i64,) = from_args(args)?;
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            let width = width.saturating_sub(i64::try_from(sign.len()).unwrap_or(0));
            Value::from(sign.to_owned() + &justify(state, digits, "rjust", width, '0')?)
        }
        "expandtabs" => expandtabs(state, text, args)?,
        "capitalize" | "title" | "swapcase" | "casefold" => {
            let () = from_args(args)?;
            Value::from(letters::recased(text, method))
        }
        _ => return letters::classes(text, method, args),
    };
    Ok(Some(value))
}

/// `str.strip` of white space, or of `chars`.
pub(super) fn strip<'a>(text: &'a str, chars: Option<&str>, left: bool, right: bool) -> &'a str {
    let stripped = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if left { text.trim_start_matches(stripped) } else { text };
    if right { text.trim_end_matches(stripped) } else { text }
}

fn invalid(detail: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, detail)
}

fn split(
    state: &State<'_, '_>,
    text: &str,
    args: &[Value],
    from_right: bool,
) -> Result<Value, Error> {
    let (separator, limit, named): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = match separator {
        Some(separator) => Some(separator),
        None => named.get::<Option<Value>>("sep")?,
    };
    let limit = match limit {
        Some(limit) => limit,
        None => named.get::<Option<i64>>("maxsplit")?.unwrap_or(-1),
    };
    named.assert_all_used()?;
    let pieces = usize::try_from(limit).map_or(usize::MAX, |limit| limit.saturating_add(1));
    let separator = separator.filter(|separator| !separator.is_none());
    let mut parts: Vec<&str> = match separator.as_ref() {
        None => words(text, pieces, from_right),
        Some(separator) => match separator.as_str() {
            None => return Err(invalid("a separator must be a string")),
            Some("") => return Err(invalid("a separator must not be empty")),
            Some(separator) if from_right => text.rsplitn(pieces, separator).collect(),
            Some(separator) => text.splitn(pieces, separator).collect(),
        },
    };
    if from_right {
        parts.reverse();
    }
    charge(state, parts.len().saturating_mul(PART_BYTES))?;
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Splits at white space into at most `pieces` parts, the last of which is not split further.
fn words(text: &str, pieces: usize, from_right: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = strip(text, None, !from_right, from_right);
    while !rest.is_empty() && parts.len() + 1 < pieces {
        let split = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(at) = split else { break };
        let (left, right) = rest.split_at(at);
        let space = right.chars().next().map_or(0, char::len_utf8);
        let right = right.get(space..).unwrap_or_default();
        let (part, remains) = if from_right { (right, left) } else { (left, right) };
        parts.push(part);
        rest = strip(remains, None, !from_right, from_right);
    }
    if !rest.is_empty() {
        parts.push(rest);
    }
    parts
}

fn splitlines(state: &State<'_, '_>, text: &str, args: &[Value]) -> Result<Value, Error> {
    let (keep, named): (Option<Value>, Kwargs) = from_args(args)?;
    let keep = match keep {
        Some(keep) => keep.is_true(),
        None => named.get::<Option<Value>>("keepends")?.is_some_and(|keep| keep.is_true()),
    };
    named.assert_all_used()?;
    let lines = lines(text, keep);
    charge(state, lines.len().saturating_mul(PART_BYTES))?;
    Ok(lines.into_iter().map(Value::from).collect())
}

/// The lines of a text, which in Python more characters end than the line feed.
pub(super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let ends = |c: char| {
        matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}')
            || matches!(c, '\u{2028}' | '\u{2029}')
    };
    let (mut lines, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find(ends) {
        let (_, end) = rest.split_at(at);
        let length = match end.chars().next() {
            Some('\r') if end[1..].starts_with('\n') => 2,
            Some(c) => c.len_utf8(),
            None => 0,
        };
        lines.push(&rest[..at + if keep_ends { length } else { 0 }]);
        rest = &rest[at + length..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

fn partition(text: &str, args: &[Value], from_right: bool) -> Result<Value, Error> {
    let (separator,): (&str,) = from_args(args)?;
    if separator.is_empty() {
        return Err(invalid("a separator must not be empty"));
    }
    let found = if from_right { text.rsplit_once(separator) } else { text.split_once(separator) };
    let parts = match found {
        Some((left, right)) => [left, separator, right],
        None if from_right => ["", "", text],
        None => [text, "", ""],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

/// The part of a text from one character to another, as Python slices count them, and where it
/// begins.
fn window(text: &str, start: Option<i64>, end: Option<i64>) -> Option<(usize, &str)> {
    if start.is_none() && end.is_none() {
        return Some((0, text));
    }
    let length = text.chars().count();
    let counted = |at: i64| match usize::try_from(at) {
        Ok(at) => at,
        Err(_) => length.saturating_sub(usize::try_from(at.unsigned_abs()).unwrap_or(usize::MAX)),
    };
    let start = start.map_or(0, counted);
    let end = end.map_or(length, counted).min(length);
    if start > end {
        return None;
    }
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    Some((start, &text[byte(start)..byte(end)]))
}

fn find(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (part, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
    let found = window(text, start, end).and_then(|(start, window)| {
        let byte = if method.starts_with('r') { window.rfind(part) } else { window.find(part) };
        byte.map(|byte| start + window[..byte].chars().count())
    });
    match found {
        Some(at) => Ok(Value::from(at)),
        None if method.ends_with("find") => Ok(Value::from(-1)),
        None => Err(invalid("the text is not part of the string")),
    }
}

fn edge(text: &str, at_start: bool, args: &[Value]) -> Result<Value, Error> {
    let (wanted, start, end): (Value, Option<i64>, Option<i64>) = from_args(args)?;
    let wanted = if wanted.is_tuple() { wanted.try_iter()?.collect() } else { vec![wanted] };
    let Some((_, text)) = window(text, start, end) else { return Ok(Value::from(false)) };
    for part in &wanted {
        let part = part.as_str().ok_or_else(|| invalid("expected a string or a tuple of them"))?;
        if if at_start { text.starts_with(part) } else { text.ends_with(part) } {
            return Ok(Value::from(true));
        }
    }
    Ok(Value::from(false))
}

/// `str.center`, `str.ljust` or `str.rjust`.
pub(super) fn justify(
    state: &State<'_, '_>,
    text: &str,
    method: &str,
    width: i64,
    fill: char,
) -> Result<String, Error> {
    let width = usize::try_from(width).unwrap_or(0);
    let pad = width.saturating_sub(text.chars().count());
    charge(state, pad.saturating_mul(fill.len_utf8()))?;
    let left = match method {
        "center" => pad / 2 + (pad & width & 1),
        "rjust" => pad,
        _ => 0,
    };
    let filled = |count: usize| std::iter::repeat_n(fill, count);
    Ok(filled(left).chain(text.chars()).chain(filled(pad - left)).collect())
}

fn expandtabs(state: &State<'_, '_>, text: &str, args: &[Value]) -> Result<Value, Error> {
    let (size, named): (Option<i64>, Kwargs) = from_args(args)?;
    let size = size.or(named.get::<Option<i64>>("tabsize")?).unwrap_or(8);
    named.assert_all_used()?;
    let size = usize::try_from(size).unwrap_or(0);
    let (mut out, mut column) = (String::new(), 0_usize);
    for c in text.chars() {
        match c {
            '\t' if size == 0 => {}
            '\t' => {
                let pad = size - column % size;
                charge(state, pad)?;
                out.extend(std::iter::repeat_n(' ', pad));
                column += pad;
            }
            c => {
                out.push(c);
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    Ok(Value::from(out))
}

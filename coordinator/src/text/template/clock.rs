//! `strftime_now` for chat templates that tell the model the date, in local time as in
//! transformers.

use super::print::charge;
use jiff::ZonedDateTime;
use jiff::civil::DateTime;
use minijinja::{Error, State};

/// The local time.
pub(super) fn now() -> DateTime {
    ZonedDateTime::now().datetime()
}

/// How many bytes one byte of a format may become; `%c` is a whole date.
const GROWTH_MAX: usize = 16;

/// The template function `strftime_now`, which is charged before it writes.
pub(super) fn strftime_now(
    state: &State<'_, '_>,
    format: &str,
    now: DateTime,
) -> Result<String, Error> {
    charge(state, format.len().saturating_mul(GROWTH_MAX))?;
    Ok(strftime(format, now))
}

/// Python's `datetime.strftime` in the C locale. As there, an unknown directive stays as it is.
fn strftime(format: &str, now: DateTime) -> String {
    let mut out = String::new();
    let mut rest = format;
    while let Some((text, directive)) = rest.split_once('%') {
        out.push_str(text);
        let flags = directive.len() - directive.trim_start_matches(['-', '_', '0', '^']).len();
        let length = flags + directive[flags..].chars().next().map_or(0, char::len_utf8);
        let (directive, remains) = directive.split_at(length);
        match written(directive, now) {
            Some(written) => out.push_str(&written),
            None => out.extend(["%", directive]),
        }
        rest = remains;
    }
    out.push_str(rest);
    out
}

fn written(directive: &str, now: DateTime) -> Option<String> {
    let jiffs = match directive {
        "c" => "%a %b %e %H:%M:%S %Y".to_owned(),
        "x" | "D" => "%m/%d/%y".to_owned(),
        "X" => "%H:%M:%S".to_owned(),
        "h" => "%b".to_owned(),
        "r" => "%I:%M:%S %p".to_owned(),
        // Python writes microseconds, where jiff writes a fraction of so many digits.
        "f" => return Some(format!("{:06}", now.subsec_nanosecond() / 1000)),
        // A time without a zone has no name of one.
        "z" | "Z" => return Some(String::new()),
        "%" | "n" | "t" => format!("%{directive}"),
        _ => {
            let known = directive.chars().last()?;
            let known = "YmdHMSBbAaIpjyeUWuwVGgCkl".contains(known) || "FTR".contains(directive);
            known.then(|| format!("%{directive}"))?
        }
    };
    jiff::fmt::strtime::format(&jiffs, now).ok()
}

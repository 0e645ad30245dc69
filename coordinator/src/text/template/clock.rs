//! `strftime_now` for chat templates that tell the model the date: local time, as transformers has.

use super::print::charge;
use jiff::ZonedDateTime;
use jiff::civil::DateTime;
use minijinja::{Error, State};

/// The time on the wall.
pub(super) fn now() -> DateTime {
    ZonedDateTime::now().datetime()
}

/// Bytes that one of a format may become: `%c` is a whole date.
const GROWTH_MAX: usize = 16;

/// The function of this name; what it writes is paid for before.
pub(super) fn strftime_now(
    state: &State<'_, '_>,
    format: &str,
    now: DateTime,
) -> Result<String, Error> {
    charge(state, format.len().saturating_mul(GROWTH_MAX))?;
    Ok(strftime(format, now))
}

/// Python's `datetime.strftime` in the C locale. As there, what is no directive stays as it is.
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
        // Microseconds in Python, which jiff has as a fraction of so many digits.
        "f" => return Some(format!("{:06}", now.subsec_nanosecond() / 1000)),
        // A time without a zone has none to name.
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

//! Python's string methods that test characters or change their case.

use super::print::is_printable;
use minijinja::Error;
use minijinja::value::{Value, from_args};

/// What Python's `isspace` says of a character.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Python's methods that test all characters of a string; `None` for any other method.
pub(super) fn classes(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let all = |test: fn(char) -> bool| !text.is_empty() && text.chars().all(test);
    let known = match method {
        "isspace" => all(is_space),
        "isprintable" => text.chars().all(is_printable),
        "isdecimal" => all(|c| c.is_ascii_digit() || (!c.is_ascii() && c.is_numeric())),
        "isidentifier" => {
            let begins = text.starts_with(|c: char| c.is_alphabetic() || c == '_');
            begins && all(|c| c.is_alphanumeric() || c == '_')
        }
        "istitle" => text.chars().any(is_cased) && recased(text, "title") == text,
        _ => return Ok(None),
    };
    let () = from_args(args)?;
    Ok(Some(Value::from(known)))
}

fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase() || is_title(c)
}

/// The four digraphs whose title case is a letter of its own.
fn is_title(c: char) -> bool {
    matches!(c, '\u{1c5}' | '\u{1c8}' | '\u{1cb}' | '\u{1f2}')
}

/// Python's method of this name, which changes the case of letters.
pub(super) fn recased(text: &str, method: &str) -> String {
    match method {
        "swapcase" => {
            let swapped = |c: char| -> String {
                if c.is_uppercase() {
                    c.to_lowercase().collect()
                } else {
                    c.to_uppercase().collect()
                }
            };
            text.chars().map(swapped).collect()
        }
        // The dotless i is the one letter that folds to itself though it has an upper case.
        "casefold" => {
            let folded = |c: char| if c == 'ı' { c.into() } else { c.to_uppercase().to_string() };
            text.chars().map(folded).collect::<String>().to_lowercase().replace('ς', "σ")
        }
        "capitalize" => titled(text, |index, _| index == 0),
        _ => titled(text, |_, after_cased| !after_cased),
    }
}

/// Writes the characters that `is_first` chooses in title case, and the others in lower case.
fn titled(text: &str, is_first: impl Fn(usize, bool) -> bool) -> String {
    let (mut out, mut after_cased) = (String::new(), false);
    let lower = text.to_lowercase();
    let whole = lower.chars().count() == text.chars().count();
    for ((index, c), lower) in text.chars().enumerate().zip(lower.chars()) {
        if is_first(index, after_cased) {
            match u32::from(c) {
                0x1c4..=0x1cc | 0x1f1..=0x1f3 => out.push(digraph(c)),
                _ => {
                    let mut upper = c.to_uppercase();
                    out.extend(upper.next());
                    out.extend(upper.flat_map(char::to_lowercase));
                }
            }
        } else if whole {
            // The lower case of the whole text has the final sigma of a word.
            out.push(lower);
        } else {
            out.extend(c.to_lowercase());
        }
        after_cased = is_cased(c);
    }
    out
}

fn digraph(c: char) -> char {
    match u32::from(c) {
        0x1c4..=0x1c6 => '\u{1c5}',
        0x1c7..=0x1c9 => '\u{1c8}',
        0x1ca..=0x1cc => '\u{1cb}',
        _ => '\u{1f2}',
    }
}

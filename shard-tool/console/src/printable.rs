//! Makes text from outside harmless to a terminal.

use std::borrow::Cow;

/// Escapes what a terminal would obey instead of showing: control characters other than line break
/// and tab, with which escape sequences begin, and the marks that change the direction of text.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        if is_obeyed(char) {
            shown.extend(char.escape_default());
        } else {
            shown.push(char);
        }
    }
    Cow::Owned(shown)
}

fn is_obeyed(char: char) -> bool {
    let is_kept = matches!(char, '\n' | '\t');
    let is_bidi = matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    (char.is_control() && !is_kept) || is_bidi
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_shown_and_not_obeyed() {
        assert_eq!(printable("\u{1b}]0;owned\u{7}"), "\\u{1b}]0;owned\\u{7}");
        assert_eq!(printable("a\u{9b}2J\u{7f}\r"), "a\\u{9b}2J\\u{7f}\\r");
        assert_eq!(printable("gguf.\u{202e}exe"), "gguf.\\u{202e}exe");
    }

    #[test]
    fn other_text_stays_as_it_is() {
        let text = "two\nlines\tand שלום, 👩\u{200d}💻";
        assert!(matches!(printable(text), Cow::Borrowed(same) if same == text));
    }
}

//! Prepares the source of a template for minijinja.
//!
//! Line ends become line feeds as in Jinja, and the tags that transformers adds to Jinja become
//! Jinja's own. The parser recurses for nested constructs, so the tokens of a tag and the number of
//! `elif` are bounded here. minijinja itself bounds nested blocks and brackets.

use std::ops::Range;

/// The longest source; the largest known template has 60 KB.
const SOURCE_BYTES_MAX: usize = 1 << 20;
/// The most names, literals and operators in one tag; a few hundred are usual.
const TAG_TOKENS_MAX: usize = 4096;
/// The most `elif` of a source, each of which the parser nests in the one before. A few dozen are
/// usual.
const ELIF_MAX: usize = 1000;

/// The filter that replaces the operator `%` after a text; minijinja has the operator only for
/// numbers.
pub(super) const FORMAT: &str = "python.format";

/// A template's source, ready to be parsed.
pub(super) struct PreparedSource {
    pub(super) text: String,
    /// Whether the source has the string `developer`, as templates have that compare the role with
    /// it.
    pub(super) knows_developer: bool,
}

/// Why a source is not given to the parser.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error("longer than {SOURCE_BYTES_MAX} bytes")]
    TooLong,
    #[error("line {line}: more than {TAG_TOKENS_MAX} words in one tag")]
    TagTooLong { line: usize },
    #[error("line {line}: more than {ELIF_MAX} times elif")]
    TooManyBranches { line: usize },
}

/// Checks the bounds of `source` and prepares it.
pub(super) fn prepare(source: &str) -> Result<PreparedSource, SourceError> {
    if source.len() > SOURCE_BYTES_MAX {
        return Err(SourceError::TooLong);
    }
    let text = source.replace("\r\n", "\n").replace('\r', "\n");
    let (mut branches, mut knows_developer) = (0, false);
    let mut edits = Vec::new();
    let mut at = 0;
    while let Some(tag) = Tag::next(&text, at) {
        at = tag.end;
        let line = || 1 + text[..tag.start].matches('\n').count();
        if tag.tokens.len() > TAG_TOKENS_MAX {
            return Err(SourceError::TagTooLong { line: line() });
        }
        knows_developer |= tag.tokens.iter().any(|token| is_developer(&text[token.clone()]));
        for index in 1..tag.tokens.len() {
            if let Some(end) = tag.formatted(&text, index) {
                edits.push((tag.tokens[index].clone(), format!("|{FORMAT}(")));
                edits.push((end..end, ")".to_owned()));
            }
        }
        match tag.keyword(&text) {
            Some("elif") => branches += 1,
            // Training marks the assistant's part with this tag; names that are set inside stay
            // inside.
            Some("generation") if tag.tokens.len() == 1 => {
                edits.push((tag.tokens[0].clone(), "with".to_owned()));
            }
            Some("endgeneration") if tag.tokens.len() == 1 => {
                edits.push((tag.tokens[0].clone(), "endwith".to_owned()));
            }
            _ => {}
        }
        if branches > ELIF_MAX {
            return Err(SourceError::TooManyBranches { line: line() });
        }
    }
    edits.sort_by_key(|(range, _)| (range.start, range.end));
    let mut edited = String::with_capacity(text.len());
    let mut at = 0;
    for (range, by) in edits {
        edited.push_str(&text[at..range.start]);
        edited.push_str(&by);
        at = range.end;
    }
    edited.push_str(&text[at..]);
    Ok(PreparedSource { text: edited, knows_developer })
}

fn is_developer(token: &str) -> bool {
    matches!(token, "'developer'" | "\"developer\"")
}

/// An expression or a statement of Jinja, with its delimiters.
struct Tag {
    start: usize,
    end: usize,
    is_statement: bool,
    tokens: Vec<Range<usize>>,
}

impl Tag {
    /// The first tag from `at` on, past comments and raw blocks.
    fn next(text: &str, mut at: usize) -> Option<Self> {
        loop {
            let start = at + text[at..].find('{')?;
            let rest = &text[start..];
            if rest.starts_with("{#") {
                at = start + rest.find("#}")? + 2;
            } else if rest.starts_with("{{") || rest.starts_with("{%") {
                let tag = Self::read(text, start);
                if tag.keyword(text) != Some("raw") {
                    return Some(tag);
                }
                at = end_of_raw(text, tag.end)?;
            } else {
                at = start + 1;
            }
        }
    }

    /// The tag that begins at `start`, up to its end or to the end of the text.
    fn read(text: &str, start: usize) -> Self {
        let is_statement = text[start..].starts_with("{%");
        let close = if is_statement { "%}" } else { "}}" };
        let mut tag = Self { start, end: text.len(), is_statement, tokens: Vec::new() };
        let mut at = start + 2;
        let mut open = 0_usize;
        while let Some(c) = text[at..].chars().next() {
            let rest = &text[at..];
            let sign = usize::from(rest.starts_with(['-', '+']));
            if open == 0 && rest[sign..].starts_with(close) {
                tag.end = at + sign + 2;
                break;
            }
            let length = token_length(rest, c);
            match c {
                '(' | '[' | '{' => open += 1,
                ')' | ']' | '}' => open = open.saturating_sub(1),
                _ => {}
            }
            let is_sign = at == start + 2 && matches!(c, '-' | '+');
            if !c.is_whitespace() && !is_sign {
                tag.tokens.push(at..at + length);
            }
            at += length;
        }
        tag
    }

    /// Where the right side of the operator `%` ends, if the token at `index` is one after a text.
    fn formatted(&self, text: &str, index: usize) -> Option<usize> {
        let token = |index: usize| self.tokens.get(index).map(|token| &text[token.clone()]);
        if token(index) != Some("%") || !token(index - 1)?.starts_with(['\'', '"']) {
            return None;
        }
        let mut next = index + 1;
        while matches!(token(next)?, "-" | "+") {
            next += 1;
        }
        let mut last = self.closing(text, next);
        loop {
            next = last + 1;
            last = match token(next) {
                Some("(" | "[") => self.closing(text, next),
                Some("." | "|") => next + 1,
                _ => break,
            };
        }
        Some(self.tokens.get(last)?.end)
    }

    /// The token that closes the bracket at `first`; `first` itself if that is no bracket.
    fn closing(&self, text: &str, first: usize) -> usize {
        let mut open = 0_usize;
        for (index, token) in self.tokens.iter().enumerate().skip(first) {
            match &text[token.clone()] {
                "(" | "[" | "{" => open += 1,
                ")" | "]" | "}" => open = open.saturating_sub(1),
                _ => {}
            }
            if open == 0 {
                return index;
            }
        }
        self.tokens.len()
    }

    fn keyword<'a>(&self, text: &'a str) -> Option<&'a str> {
        let first = self.tokens.first().filter(|_| self.is_statement)?;
        Some(&text[first.clone()])
    }
}

fn token_length(rest: &str, first: char) -> usize {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    match first {
        '\'' | '"' => {
            let mut escaped = false;
            let ends = |c: char| {
                let ends = c == first && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            };
            rest[1..].find(ends).map_or(rest.len(), |inside| inside + 2)
        }
        c if is_name(c) => rest.find(|c| !is_name(c)).unwrap_or(rest.len()),
        c => c.len_utf8(),
    }
}

/// Where the raw block ends that begins before `at`.
fn end_of_raw(text: &str, mut at: usize) -> Option<usize> {
    loop {
        let start = at + text[at..].find("{%")?;
        let name = text[start + 2..].trim_start_matches(['-', '+']).trim_start();
        if let Some(rest) = name.strip_prefix("endraw") {
            return Some(text.len() - rest.len() + rest.find("%}")? + 2);
        }
        at = start + 2;
    }
}

//! The header of a message in harmony: a role, a channel, a recipient and the type of the content.
//!
//! `assistant<|channel|>commentary to=functions.NAME <|constrain|>json`
//!
//! The recipient stands behind the role or behind the channel, at times without a space.

use crate::text::pieces::TextKind;

const ROLE: &str = "assistant";
const FINAL: &str = "final";
const COMMENTARY: &str = "commentary";
const CHANNELS: [&str; 3] = ["analysis", COMMENTARY, FINAL];
const RECIPIENT: &str = "to=";
/// Recipients that are the user.
const USERS: [&str; 2] = ["user", "all"];
/// Words of a header besides recipients and names of functions.
const WORDS: [&str; 8] =
    ["assistant", "user", "system", "developer", "tool", "json", "code", "text"];

/// What a header holds by now.
#[derive(Debug, Default)]
pub(super) struct HarmonyHeader {
    /// The header follows a message without `<|start|>`.
    is_stray: bool,
    /// What stands before `<|channel|>`.
    role: String,
    /// What stands behind `<|channel|>`.
    channel: Option<String>,
    /// What stands behind `<|constrain|>`.
    content_type: Option<String>,
}

impl HarmonyHeader {
    /// A header that follows a message, with `<|start|>` or without.
    pub(super) fn new(is_stray: bool) -> Self {
        Self { is_stray, ..Self::default() }
    }

    /// `<|channel|>` came. Of several the last one counts.
    pub(super) fn begin_channel(&mut self) {
        self.channel = Some(String::new());
        self.content_type = None;
    }

    /// `<|constrain|>` came.
    pub(super) fn begin_content_type(&mut self) {
        self.content_type = Some(String::new());
    }

    /// Whether there is text behind the end of a message, and no role.
    pub(super) fn has_stray_text(&self) -> bool {
        self.is_stray && self.channel.is_none() && !self.leftover().is_empty()
    }

    pub(super) fn text(&mut self, text: &str) {
        let part = self.content_type.as_mut().or(self.channel.as_mut()).unwrap_or(&mut self.role);
        part.push_str(text);
    }

    pub(super) fn bytes(&self) -> usize {
        let parts = [Some(&self.role), self.channel.as_ref(), self.content_type.as_ref()];
        parts.into_iter().flatten().map(String::len).sum()
    }

    /// What the text of the message is.
    pub(super) fn kind(&self) -> TextKind {
        let is_shown = match &self.channel {
            None => true,
            Some(channel) => is_named(channel, FINAL) || is_named(channel, COMMENTARY),
        };
        content_if(is_shown && self.is_of_assistant() && self.is_to_user())
    }

    /// What [`Self::leftover`] is. Text between the end of a message and the header of the next one
    /// is no answer.
    pub(super) fn leftover_kind(&self, is_before_header: bool) -> TextKind {
        match &self.channel {
            None => content_if(self.is_to_user() && !(self.is_stray && is_before_header)),
            Some(channel) if is_named(channel, FINAL) => self.kind(),
            Some(_) => TextKind::Reasoning,
        }
    }

    /// What the header holds besides words of a header, where `<|message|>` did not come. It may be
    /// empty.
    pub(super) fn leftover(&self) -> String {
        let (said, names) = match &self.channel {
            None => (&self.role, &[ROLE][..]),
            Some(channel) => (channel, &CHANNELS[..]),
        };
        let said = said.trim_start();
        // The name may be cut, and it may be there twice.
        let is_cut = names.iter().any(|name| name.starts_with(said));
        let mut rest = said;
        while let Some(later) = names.iter().find_map(|name| rest.strip_prefix(name)) {
            rest = later;
        }
        let mut leftover = String::new();
        if !is_cut && rest.split_whitespace().any(|word| !is_header_word(word)) {
            leftover.push_str(rest.trim_start());
        }
        let format = self.content_type.as_deref().unwrap_or_default().trim_start();
        let format = format.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
        leftover.push_str(format.trim_start());
        leftover
    }

    fn is_of_assistant(&self) -> bool {
        let role = self.role.trim_start();
        role.is_empty() || role.starts_with(ROLE) || role.starts_with(RECIPIENT)
    }

    fn is_to_user(&self) -> bool {
        let role = self.role.trim_start();
        let behind_role = role.strip_prefix(ROLE).unwrap_or(role).trim_start();
        let in_role = behind_role.strip_prefix(RECIPIENT);
        let in_channel = self.channel.as_ref().and_then(|channel| channel.split_once(RECIPIENT));
        let recipients = in_role.into_iter().chain(in_channel.map(|(_, recipient)| recipient));
        let mut names = recipients.map(|rest| rest.split_whitespace().next().unwrap_or_default());
        names.all(|name| USERS.contains(&name))
    }
}

fn content_if(is_content: bool) -> TextKind {
    if is_content { TextKind::Content } else { TextKind::Reasoning }
}

/// Whether a channel has this name, with or without something behind it.
fn is_named(channel: &str, name: &str) -> bool {
    channel.trim_start().starts_with(name)
}

fn is_header_word(word: &str) -> bool {
    word.contains(RECIPIENT)
        || RECIPIENT.starts_with(word)
        || word.starts_with("functions.")
        || WORDS.iter().any(|known| known.starts_with(word))
}

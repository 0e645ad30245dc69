//! Stop strings, which end an answer wherever the borders of tokens lie.
//!
//! Text that could be the beginning of a stop string is held back until it is known not to be. The
//! stop string itself is not part of the answer, unless that is asked for, and then nothing is held
//! back. The automaton is that of Knuth, Morris and Pratt,
//! so no choice of stop strings makes a token expensive for the serve loop.

/// Matches the stop strings of one request.
#[derive(Clone, Debug, Default)]
pub struct StopMatcher {
    stops: Vec<Automaton>,
    /// The text that is held back: the longest beginning of a stop string in which the text ends.
    held: String,
    /// The stop string is part of the answer.
    included: bool,
}

/// What happens to a stop string that a text completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopsBind {
    /// The answer ends.
    Yes,
    /// The answer is not long enough yet, and goes on.
    NotYet,
}

#[derive(Clone, Debug)]
struct Automaton {
    /// Its place among the stop strings.
    index: usize,
    pattern: Vec<u8>,
    /// For each matched length, the longest shorter beginning in which the match ends.
    shorter: Vec<usize>,
    matched: usize,
}

impl StopMatcher {
    /// A matcher of `stops`, of which empty ones are ignored. They are part of the answer where
    /// `included`.
    pub fn new(stops: &[String], included: bool) -> Self {
        let stops = stops.iter().enumerate().filter(|(_, stop)| !stop.is_empty());
        let stops = stops.map(|(index, stop)| Automaton::new(index, stop));
        Self { stops: stops.collect(), held: String::new(), included }
    }

    /// Takes more text, and leaves in `text` what may be released. Returns which stop string
    /// is complete, if one is and it binds; nothing may be pushed after that.
    pub fn push(&mut self, text: &mut String, bind: StopsBind) -> Option<usize> {
        if self.stops.is_empty() || text.is_empty() {
            return None;
        }
        let held_len = self.held.len();
        text.insert_str(0, &self.held);
        self.held.clear();
        for (index, byte) in text.bytes().enumerate().skip(held_len) {
            // Of the stop strings that end at the same place the longest one begins first.
            let complete = self.stops.iter_mut().filter_map(|stop| stop.advance(byte)).max();
            if let Some((len, stop)) = complete.filter(|_| bind == StopsBind::Yes) {
                text.truncate(if self.included { index + 1 } else { index + 1 - len });
                return Some(stop);
            }
        }
        let matched = self.stops.iter().map(|stop| stop.matched).max().unwrap_or(0);
        let keep = if self.included { 0 } else { matched };
        let release = text.len() - keep;
        self.held.push_str(&text[release..]);
        text.truncate(release);
        None
    }

    /// Appends what was held back, after an answer that ended without a stop string.
    pub fn finish(&mut self, text: &mut String) {
        text.push_str(&std::mem::take(&mut self.held));
    }
}

impl Automaton {
    fn new(index: usize, stop: &str) -> Self {
        let pattern = stop.as_bytes().to_vec();
        let mut shorter = vec![0; pattern.len() + 1];
        let mut len = 0;
        for index in 1..pattern.len() {
            while len > 0 && pattern[index] != pattern[len] {
                len = shorter[len];
            }
            len += usize::from(pattern[index] == pattern[len]);
            shorter[index + 1] = len;
        }
        Self { index, pattern, shorter, matched: 0 }
    }

    /// Takes one byte. Returns the pattern's length and index when the byte completes the pattern.
    fn advance(&mut self, byte: u8) -> Option<(usize, usize)> {
        while self.matched > 0 && self.pattern[self.matched] != byte {
            self.matched = self.shorter[self.matched];
        }
        self.matched += usize::from(self.pattern[self.matched] == byte);
        let len = self.matched;
        if len < self.pattern.len() {
            return None;
        }
        // Where it does not bind yet, it may be completed again.
        self.matched = self.shorter[len];
        Some((len, self.index))
    }
}

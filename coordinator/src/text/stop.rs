//! Stop strings: ends an answer at the first of them, wherever token borders lie.
//!
//! Text that could be the beginning of a stop string is held back until it is known not to be.
//! The stop string itself is not part of the answer. Knuth, Morris and Pratt's automaton, so that
//! no choice of stop strings makes a token expensive for the serve loop.

/// Matches the stop strings of one request.
#[derive(Clone, Debug, Default)]
pub struct StopMatcher {
    stops: Vec<Automaton>,
    /// Text seen but not released: the longest beginning of a stop string that it ends in.
    held: String,
}

#[derive(Clone, Debug)]
struct Automaton {
    pattern: Vec<u8>,
    /// Per matched length, the next shorter beginning that is also an end of what is matched.
    shorter: Vec<usize>,
    matched: usize,
}

impl StopMatcher {
    /// Looks for `stops`; none is fine, empty ones are not looked for.
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty());
        Self { stops: stops.map(|stop| Automaton::new(stop)).collect(), held: String::new() }
    }

    /// Takes more text and leaves in `text` what may be released now; true when a stop string is
    /// complete, after which nothing more may be pushed.
    pub fn push(&mut self, text: &mut String) -> bool {
        if self.stops.is_empty() || text.is_empty() {
            return false;
        }
        let fresh = self.held.len();
        text.insert_str(0, &self.held);
        self.held.clear();
        for (index, byte) in text.bytes().enumerate().skip(fresh) {
            // Of stop strings that are complete at the same place the longest begins first.
            let complete = self.stops.iter_mut().filter_map(|stop| stop.advance(byte)).max();
            if let Some(len) = complete {
                text.truncate(index + 1 - len);
                return true;
            }
        }
        let keep = self.stops.iter().map(|stop| stop.matched).max().unwrap_or(0);
        let release = text.len() - keep;
        self.held.push_str(&text[release..]);
        text.truncate(release);
        false
    }

    /// The answer has ended without a stop string: appends what was held back.
    pub fn finish(&mut self, text: &mut String) {
        text.push_str(&std::mem::take(&mut self.held));
    }
}

impl Automaton {
    fn new(stop: &str) -> Self {
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
        Self { pattern, shorter, matched: 0 }
    }

    /// The pattern's length when `byte` completes it.
    fn advance(&mut self, byte: u8) -> Option<usize> {
        while self.matched > 0 && self.pattern[self.matched] != byte {
            self.matched = self.shorter[self.matched];
        }
        self.matched += usize::from(self.pattern[self.matched] == byte);
        (self.matched == self.pattern.len()).then_some(self.matched)
    }
}

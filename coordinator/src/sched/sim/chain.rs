//! The model of the simulator: what a position holds and which token comes next.
//!
//! Like attention, a position's content depends on those that it sees, and the next token depends
//! on every visible position of every KV group. The fleet reads them through block tables, the
//! checker from the prompt alone.

use binfer_proto::Token;

use super::prng::mix;

/// What a block holds for one position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CellContent {
    pub(super) salt: u64,
    pub(super) token: Token,
    pub(super) position: usize,
    /// A hash that depends on all that its writer saw.
    state: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Chain {
    /// The window of each KV group.
    pub(super) windows: Vec<Option<usize>>,
    pub(super) vocab: u32,
}

/// What makes the answers of two requests with one prompt differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SampleSeed {
    pub(super) seed: u64,
    pub(super) choice: u32,
}

impl Chain {
    /// The first position that a query at `position` sees.
    pub(super) fn first(&self, group: usize, position: usize) -> usize {
        self.windows[group].map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// What is written at a position, given the positions before it.
    pub(super) fn write<E>(
        &self,
        (group, position): (usize, usize),
        (salt, token): (u64, Token),
        read: impl Fn(usize) -> Result<CellContent, E>,
    ) -> Result<CellContent, E> {
        let mut state = mix(salt ^ u64::from(token).rotate_left(32) ^ position as u64);
        let first = self.first(group, position);
        if first < position {
            state = mix(state ^ read(first)?.state);
            state = mix(state.rotate_left(7) ^ read(position - 1)?.state);
        }
        Ok(CellContent { salt, token, position, state })
    }

    /// The token after `len` positions.
    pub(super) fn sample<E>(
        &self,
        sample_seed: SampleSeed,
        len: usize,
        read: impl Fn(usize, usize) -> Result<CellContent, E>,
    ) -> Result<Token, E> {
        let mut hash =
            mix(sample_seed.seed ^ u64::from(sample_seed.choice).rotate_left(40) ^ len as u64);
        for group in 0..self.windows.len() {
            for position in self.first(group, len - 1)..len {
                let cell = read(group, position)?;
                let content = cell.state ^ cell.salt ^ (cell.position as u64).rotate_left(17);
                hash = (hash ^ content ^ u64::from(cell.token)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                hash ^= hash >> 29;
            }
        }
        Ok(u32::try_from(mix(hash) % u64::from(self.vocab)).unwrap())
    }

    /// Up to `count` tokens that follow a prompt, an end token included as the last one.
    pub(super) fn continuation(
        &self,
        sample_seed: SampleSeed,
        (salt, prompt): (u64, &[Token]),
        count: usize,
        is_end: impl Fn(Token) -> bool,
    ) -> Vec<Token> {
        let mut cells = vec![Vec::<CellContent>::new(); self.windows.len()];
        let mut tokens = prompt.to_vec();
        let mut written = 0;
        while tokens.len() < prompt.len() + count {
            for (group, cells) in cells.iter_mut().enumerate() {
                for (position, token) in tokens.iter().enumerate().skip(written) {
                    let read = |position: usize| Ok::<_, ()>(cells[position]);
                    let cell = self.write((group, position), (salt, *token), read).unwrap();
                    cells.push(cell);
                }
            }
            written = tokens.len();
            let read = |group: usize, position: usize| Ok::<_, ()>(cells[group][position]);
            let token = self.sample(sample_seed, written, read).unwrap();
            tokens.push(token);
            if is_end(token) {
                break;
            }
        }
        tokens.split_off(prompt.len())
    }
}

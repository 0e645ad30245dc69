//! What an answer says of the prefix cache, against all texts that could be in it.
//!
//! Deliberately absent: which blocks are cached. That is the scheduler's, and a hit that should not
//! have been gives another answer.

use std::collections::{BTreeMap, BTreeSet};

use binfer_proto::Token;

use super::clients::salt_number;
use crate::sched::{
    CacheMiss, Delivery, FailCause, Finish, Request, RequestId, SchedConfig, Usage,
};

pub(super) struct CacheOracle {
    enabled: bool,
    /// Hits are multiples of this.
    unit: usize,
    /// Tokens of a block in KV group 0.
    block_tokens: usize,
    /// By salt, all prompts with their whole answers since the last worker was lost.
    texts: BTreeMap<u64, Vec<(RequestId, Vec<Token>)>>,
    /// Salts of which a whole block was computed and kept.
    kept: BTreeSet<u64>,
    /// Requests that arrived when their salt was among these.
    after_kept: BTreeSet<RequestId>,
    /// Blocks of group 0 that texts need, and those that there are. While these suffice, nothing is
    /// evicted.
    blocks: (usize, usize),
}

impl CacheOracle {
    pub(super) fn new(config: &SchedConfig) -> Self {
        let all = |unit: &usize| {
            config.kv_groups.iter().all(|group| unit.is_multiple_of(group.block_tokens as usize))
        };
        Self {
            enabled: config.prefix_cache,
            unit: (1..).find(all).unwrap(),
            block_tokens: config.kv_groups[0].block_tokens as usize,
            texts: BTreeMap::new(),
            kept: BTreeSet::new(),
            after_kept: BTreeSet::new(),
            blocks: (0, config.kv_groups[0].blocks as usize),
        }
    }

    pub(super) fn forget(&mut self) {
        self.texts.clear();
        self.kept.clear();
        self.after_kept.clear();
        self.blocks.0 = 0;
    }

    /// `text` is the prompt and all that will be answered.
    pub(super) fn note(&mut self, request: &Request, text: Vec<Token>) {
        let salt = salt_number(request);
        self.blocks.0 += text.len().div_ceil(self.block_tokens);
        if self.kept.contains(&salt) {
            self.after_kept.insert(request.id);
        }
        self.texts.entry(salt).or_default().push((request.id, text));
    }

    /// A request is over.
    pub(super) fn end(&mut self, request: &Request, delivery: &Delivery) {
        match delivery.finish {
            // Its blocks are taken out of the cache, and others may have shared them.
            Some(Finish::Failed(FailCause::NonFinite)) => self.blocks.0 = usize::MAX / 2,
            _ if delivery.usage.generated > 0 && request.prompt.len() >= self.block_tokens => {
                self.kept.insert(salt_number(request));
            }
            _ => {}
        }
    }

    pub(super) fn check(&self, request: &Request, usage: Usage) -> Result<(), String> {
        let (cached, prompt) = (usage.cached as usize, request.prompt.len());
        if cached >= prompt || cached % self.unit != 0 || (cached > 0 && !self.enabled) {
            return Err(format!("{cached} cached tokens"));
        }
        let Some(miss) = usage.cache_miss else {
            let ran = usage.generated > 0 || cached > 0;
            return if ran {
                Err("it ran, and nobody says what was cached".into())
            } else {
                Ok(())
            };
        };
        // The most that the prompt has in common with another text of its salt.
        let texts = self.texts.get(&salt_number(request)).into_iter().flatten();
        let others = texts.filter(|(id, _)| *id != request.id);
        let common = others.map(|(_, text)| {
            text.iter().zip(&request.prompt).take_while(|(one, other)| one == other).count()
        });
        let common = common.max().unwrap_or(0);
        let most = (prompt - 1) / self.unit * self.unit;
        let holds = match miss {
            CacheMiss::Disabled => !self.enabled,
            CacheMiss::TooShort => cached == most,
            CacheMiss::Evicted => cached < most && common >= cached + self.unit,
            CacheMiss::Different { token } => {
                let token = token as usize;
                let parts = token < cached + self.unit && token <= common;
                cached < most && token >= cached && parts
            }
            CacheMiss::Salt => {
                let narrow = request.tenant.0 > 0 || request.cache_salt.is_some();
                let evicts = self.blocks.0 > self.blocks.1;
                let seen = self.after_kept.contains(&request.id) && !evicts;
                narrow && cached == 0 && most > 0 && !seen
            }
        };
        let what = || format!("{miss:?} of {prompt} tokens, {cached} cached, {common} in common");
        if holds && (self.enabled || miss == CacheMiss::Disabled) { Ok(()) } else { Err(what()) }
    }
}

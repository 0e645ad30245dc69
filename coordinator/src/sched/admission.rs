//! The queue: which requests are taken, which get a slot, and which have waited too long.
//!
//! A request that could never run is refused at once. All that are in the queue run in their order.

use binfer_proto::{Open, Tokens};

use super::prefix::PrefixHit;
use super::rows::PlanBuilder;
use super::sequence::{Sequence, SequenceKey, SequenceLimits, to_u32};
use super::types::{Delivery, FailCause, Finish, Refused, Request, Tick};
use super::{SchedConfig, Scheduler};

impl Scheduler {
    /// Puts a request into the queue, or refuses it.
    pub fn submit(&mut self, request: Request) -> Result<(), Refused> {
        if self.draining {
            return Err(Refused::Draining);
        }
        if self.ids.contains_key(&request.id) {
            return Err(Refused::Duplicate(request.id));
        }
        let len_max = self.config.len_max(&request)?;
        let tokens = request.prompt.len();
        let too_many_tokens =
            self.never_ran_tokens.saturating_add(tokens) > self.config.queue_tokens_max;
        if self.never_ran >= self.config.queue_max || (self.never_ran > 0 && too_many_tokens) {
            return Err(Refused::QueueFull {
                requests: self.never_ran,
                tokens: self.never_ran_tokens,
            });
        }
        if let Some(deadline) = request.queue_deadline {
            self.next_deadline =
                Some(self.next_deadline.map_or(deadline, |next| next.min(deadline)));
        }
        let id = request.id;
        self.next_age += 1;
        let kv_groups = self.pools.len();
        let preemptions_max = self.policy.preemptions_max;
        let limits = SequenceLimits { len_max, kv_groups, preemptions_max };
        let sequence = Sequence::new(request, self.next_age, limits);
        let key = self.sequences.insert(sequence);
        self.ids.insert(id, key);
        self.waiting.push_back(key);
        self.never_ran += 1;
        self.never_ran_tokens += tokens;
        Ok(())
    }

    /// Fails the requests that never ran and whose deadline has passed.
    pub(super) fn expire(&mut self, now: Tick) {
        if self.next_deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        self.next_deadline = None;
        for key in self.waiting.clone() {
            let sequence = &self.sequences[key];
            let Some(deadline) = sequence.queue_deadline.filter(|_| !sequence.has_run) else {
                continue;
            };
            if now < deadline {
                let next = self.next_deadline.map_or(deadline, |next| next.min(deadline));
                self.next_deadline = Some(next);
                continue;
            }
            let sequence = self.end(key);
            self.expired.push(Delivery {
                id: sequence.id,
                tokens: Tokens::new(),
                logprobs: Vec::new(),
                finish: Some(Finish::Failed(FailCause::QueueTimeout)),
                usage: sequence.usage(),
                end_token: None,
            });
        }
    }

    /// Gives slots to the head of the queue, as long as there are blocks for whole prompts.
    pub(super) fn admit(&mut self, builder: &mut PlanBuilder) {
        while builder.chunk_tokens_left > 0
            && !self.slots_free.is_empty()
            && let Some(key) = self.waiting.front().copied()
        {
            // Its token in flight is its next input, so it waits for that. With two steps in flight
            // at most, and no admission in a plan that preempts, it is there already.
            if self.sequences[key].rows_in_flight > 0 {
                return;
            }
            if !self.pinned_fit(key) || !self.fits(key, None) {
                return;
            }
            let history = self.history_tokens(key) + builder.history_tokens;
            if builder.history_tokens > 0 && history > self.policy.history_tokens_max {
                return;
            }
            let hit = self.find_prefix(key);
            if self.worth_waiting(key, &hit, builder) || !self.fits(key, Some(&hit)) {
                return;
            }
            self.waiting.pop_front();
            self.leave_queue(key);
            self.open_slot(key, &hit, builder);
            let tokens = self.sequences[key].tokens_wanted(builder.chunk_tokens_left);
            let tokens = self.tokens_that_fit(key).min(tokens);
            self.add_row(key, tokens, builder);
        }
    }

    fn open_slot(&mut self, key: SequenceKey, hit: &PrefixHit, builder: &mut PlanBuilder) {
        let Some(slot) = self.slots_free.pop() else { return };
        let first_miss = (!self.sequences[key].has_run).then(|| self.cache_miss(key, hit));
        self.attach_hit(key, hit);
        builder.history_tokens += self.history_tokens(key);
        let sequence = &mut self.sequences[key];
        sequence.slot = Some(slot);
        if !sequence.has_run {
            sequence.has_run = true;
            sequence.tokens_cached = hit.tokens;
            sequence.cache_miss = first_miss;
            first_miss.into_iter().for_each(|miss| self.counters.prefix_misses.count(miss));
        }
        let penalised = sequence.sampling.penalises();
        builder.open.push(Open {
            slot,
            sampling: sequence.sampling,
            seed: sequence.seed,
            choice: sequence.choice,
            prompt_len: to_u32(sequence.prompt_len),
            history: if penalised { sequence.tokens.clone() } else { Vec::new() },
            biases: sequence.biases.clone(),
        });
        let order = sequence.order();
        let index = self.running.partition_point(|other| self.sequences[*other].order() < order);
        self.running.insert(index, key);
    }

    /// Tokens of a sequence that the plan which opens its slot must carry.
    fn history_tokens(&self, key: SequenceKey) -> usize {
        let sequence = &self.sequences[key];
        if sequence.sampling.penalises() { sequence.tokens.len() } else { 0 }
    }

    /// Counts a sequence that leaves the queue out of those that never ran.
    pub(super) fn leave_queue(&mut self, key: SequenceKey) {
        let sequence = &self.sequences[key];
        if !sequence.has_run {
            self.never_ran -= 1;
            self.never_ran_tokens -= sequence.prompt_len;
        }
    }

    /// Whether a sequence may run as far as pinned ones are concerned: they run together only if
    /// each of them can reach its full length beside the others.
    fn pinned_fit(&self, key: SequenceKey) -> bool {
        if !self.sequences[key].pinned() {
            return true;
        }
        let pinned = || self.running.iter().filter(|other| self.sequences[**other].pinned());
        self.config.kv_groups.iter().zip(&self.pools).all(|(group, pool)| {
            let needed =
                |key: &SequenceKey| group.blocks_needed(self.sequences[*key].positions_max());
            needed(&key) + pinned().map(needed).sum::<usize>() <= pool.total()
        })
    }

    /// Whether the known tokens of a waiting sequence fit beside those of all running ones, with
    /// some blocks to spare. Without a hit it says whether it is worth finding one.
    fn fits(&self, key: SequenceKey, hit: Option<&PrefixHit>) -> bool {
        let known = self.sequences[key].tokens.len();
        (0..self.pools.len()).all(|index| {
            let (group, pool) = (&self.config.kv_groups[index], &self.pools[index]);
            let promised = self.running.iter().map(|other| {
                let sequence = &self.sequences[*other];
                let needed = group.blocks_needed(sequence.tokens.len());
                needed.saturating_sub(sequence.tables[index].live().len())
            });
            let spare = self.policy.spare_blocks * self.running.len();
            let spare = if group.window.is_none() { spare } else { 0 };
            let (needed, revived) = hit.map_or((1, 0), |hit| {
                let blocks = hit.live(index);
                let revived = blocks.iter().filter(|id| pool.is_idle(**id)).count();
                (group.blocks_needed(known).saturating_sub(blocks.len()), revived)
            });
            promised.sum::<usize>() + spare + needed + revived <= pool.available()
        })
    }
}

impl SchedConfig {
    /// Most tokens that a request's sequence can have, or why it can never run.
    fn len_max(&self, request: &Request) -> Result<usize, Refused> {
        let prompt = request.prompt.len();
        let context_max = self.context_max as usize;
        if prompt == 0 {
            return Err(Refused::EmptyPrompt);
        }
        if request.max_tokens == 0 {
            return Err(Refused::NothingToGenerate);
        }
        request.sampling.check().map_err(Refused::Sampling)?;
        if prompt >= context_max {
            return Err(Refused::TooLong { prompt, context_max });
        }
        let len_max = prompt.saturating_add(request.max_tokens as usize).min(context_max);
        for (kv_group, group) in self.kv_groups.iter().enumerate() {
            let (needed, blocks) = (group.blocks_needed(len_max - 1), group.blocks as usize);
            if needed > blocks {
                return Err(Refused::NeverFits { kv_group, needed, blocks });
            }
        }
        Ok(len_max)
    }
}

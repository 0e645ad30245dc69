//! Every invariant of the scheduler, for tests: the simulator asks after each call. It costs more
//! than a plan.

use std::collections::BTreeSet;

use binfer_proto::STEPS_IN_FLIGHT_MAX;

use super::Scheduler;
use super::config::KvGroupConfig;
use super::pool::BlockPool;
use super::sequence::{BlockTable, Sequence};

impl Scheduler {
    /// Refuses a state in which an invariant does not hold, and says which.
    pub(super) fn check(&self) -> Result<(), String> {
        self.check_lists()?;
        self.check_slots()?;
        for sequence in self.sequences.iter() {
            self.check_sequence(sequence)
                .map_err(|cause| format!("request {}: {cause}", sequence.id.0))?;
        }
        for (index, pool) in self.pools.iter().enumerate() {
            let mut refs = vec![0; pool.total()];
            let tables = self.sequences.iter().map(|sequence| &sequence.tables[index]);
            tables.flat_map(BlockTable::live).for_each(|id| refs[id.index()] += 1);
            pool.check(&refs).map_err(|cause| format!("KV group {index}: {cause}"))?;
        }
        let tables = self.sequences.iter().flat_map(|sequence| &sequence.tables);
        let named = tables.flat_map(|table| table.prefixes.iter().copied());
        let most = self.prefixes_max() + named.clone().count();
        ensure(self.prefixes.len() <= most, "the tree is bounded")?;
        self.prefixes.check(named.chain(self.pools.iter().flat_map(BlockPool::prefixes)))
    }

    fn check_lists(&self) -> Result<(), String> {
        let order = |key: &_| self.sequences[*key].order();
        ensure(self.running.iter().map(order).is_sorted(), "running is in order")?;
        ensure(self.waiting.iter().map(order).is_sorted(), "waiting is in order")?;
        let listed = self.running.len() + self.waiting.len();
        ensure(listed == self.sequences.iter().count(), "each sequence is in one list")?;
        ensure(listed == self.ids.len(), "each sequence has one id")?;
        let has_slot = |key: &_| self.sequences[*key].slot.is_some();
        ensure(self.running.iter().all(has_slot), "running ones have a slot")?;
        ensure(!self.waiting.iter().any(has_slot), "waiting ones have no slot")?;
        let never_ran: Vec<_> =
            self.sequences.iter().filter(|sequence| !sequence.has_run).collect();
        let tokens = never_ran.iter().map(|sequence| sequence.prompt_len).sum::<usize>();
        ensure(
            (never_ran.len(), tokens) == (self.never_ran, self.never_ran_tokens),
            "the queue is counted",
        )?;
        ensure(self.in_flight.len() <= STEPS_IN_FLIGHT_MAX, "at most two steps are in flight")
    }

    fn check_slots(&self) -> Result<(), String> {
        let used = self.sequences.iter().filter_map(|sequence| sequence.slot);
        let slots: Vec<_> = used.chain(self.slots_free.iter().copied()).collect();
        let unique: BTreeSet<_> = slots.iter().collect();
        ensure(unique.len() == slots.len(), "a slot has one user")?;
        ensure(slots.len() == self.config.slots_max as usize, "no slot is lost")?;
        let slots_to_close: BTreeSet<_> = self.slots_to_close.iter().collect();
        ensure(slots_to_close.len() == self.slots_to_close.len(), "a slot closes once")?;
        ensure(
            slots_to_close.iter().all(|slot| self.slots_free.contains(slot)),
            "closed slots are free",
        )
    }

    fn check_sequence(&self, sequence: &Sequence) -> Result<(), String> {
        let len = sequence.tokens.len() + sequence.num_in_flight;
        ensure(len <= sequence.len_max, "it ends by count")?;
        ensure(sequence.num_computed <= len, "only tokens that are sampled are inputs")?;
        ensure(
            !sequence.decoding || sequence.num_computed + 1 == len,
            "it decodes its last token",
        )?;
        let rows = self.in_flight.iter().flat_map(|sent| &sent.rows);
        let own = rows.filter(|row| row.key.age == sequence.age);
        let samples = own.clone().filter(|row| row.samples).count();
        ensure(own.count() == sequence.rows_in_flight as usize, "its rows in flight are counted")?;
        ensure(samples == sequence.num_in_flight, "its tokens in flight are counted")?;
        let groups = self.config.kv_groups.iter().zip(&self.pools);
        for ((group, pool), table) in groups.zip(&sequence.tables) {
            check_table(sequence, group, pool, table)?;
        }
        Ok(())
    }
}

fn check_table(
    sequence: &Sequence,
    group: &KvGroupConfig,
    pool: &BlockPool,
    table: &BlockTable,
) -> Result<(), String> {
    if sequence.slot.is_none() {
        ensure(
            sequence.num_computed == 0 && !sequence.decoding,
            "a waiting one has nothing computed",
        )?;
        return ensure(table.ids.is_empty() && table.evicted == 0, "a waiting one has no blocks");
    }
    let block_tokens = group.block_tokens as usize;
    ensure(
        table.ids.len() == sequence.num_computed.div_ceil(block_tokens),
        "blocks are as needed",
    )?;
    ensure(table.sent == table.ids.len(), "the workers know all blocks")?;
    ensure(table.evicted <= group.first_block(sequence.num_computed), "the window is whole")?;
    let written_next = sequence.num_computed / block_tokens;
    let written = table.ids.iter().skip(written_next);
    ensure(written.clone().all(|id| pool.is_private(*id)), "a block that is written has one owner")
}

fn ensure(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("does not hold: {what}")) }
}

//! The engine's load, as the serve loop tells it to the fronts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::front::Load;
use crate::metrics::{LoadNumbers, Metrics};
use crate::sched::{SchedConfig, Stats};

/// How long tokens are counted for a rate.
const RATE_INTERVAL: Duration = Duration::from_secs(1);

/// Takes notes of what happens, and tells the load from time to time.
#[derive(Debug)]
pub struct LoadMeter {
    told: watch::Sender<Load>,
    metrics: Arc<Metrics>,
    load: Load,
    /// The KV group that says how many tokens fit: the first without a window.
    kv_group: usize,
    blocks: usize,
    prompt_tokens: u64,
    generated: u64,
    counted_from: Instant,
}

impl LoadMeter {
    /// The meter of an engine with these settings. It tells `told` and `metrics`.
    pub fn new(config: &SchedConfig, told: watch::Sender<Load>, metrics: Arc<Metrics>) -> Self {
        let unbounded = config.kv_groups.iter().position(|group| group.window.is_none());
        let kv_group = unbounded.unwrap_or(0);
        let group = config.kv_groups.get(kv_group);
        let blocks = group.map_or(0, |group| group.blocks as usize);
        let block_tokens = group.map_or(0, |group| group.block_tokens);
        let load = Load {
            running_max: config.slots_max as usize,
            block_tokens,
            kv_tokens_max: blocks * block_tokens as usize,
            ..Load::default()
        };
        told.send_replace(load);
        let counted_from = Instant::now();
        Self { told, metrics, load, kv_group, blocks, prompt_tokens: 0, generated: 0, counted_from }
    }

    /// A request with so many prompt tokens was taken.
    pub fn submitted(&mut self, prompt_tokens: usize) {
        self.prompt_tokens += prompt_tokens as u64;
        self.load.stepped_at.get_or_insert_with(Instant::now);
    }

    /// A step ended, with a token in each of so many rows.
    pub fn stepped(&mut self, rows: usize) {
        self.generated += rows as u64;
        self.load.stepped_at = Some(Instant::now());
    }

    /// Tells the load, which the scheduler has in numbers.
    pub fn tell(&mut self, stats: &Stats) {
        let Stats { running, waiting, .. } = *stats;
        let tokens = |blocks: usize| blocks * self.load.block_tokens as usize;
        let of_group = |blocks: &[usize]| blocks.get(self.kv_group).copied().unwrap_or(0);
        let free = of_group(&stats.blocks_free);
        let used = tokens(self.blocks.saturating_sub(free));
        let cached = tokens(of_group(&stats.blocks_cached));
        let hit = stats.counters.prefix_tokens_hit as f64;
        self.load = Load {
            running,
            waiting,
            kv_tokens_used: used,
            kv_tokens_cached: cached,
            cached_share: (hit / self.prompt_tokens.max(1) as f64).min(1.0),
            stepped_at: self.load.stepped_at.filter(|_| running + waiting > 0),
            ..self.load
        };
        let elapsed = self.counted_from.elapsed();
        if elapsed >= RATE_INTERVAL {
            self.load.generated_per_s = self.generated as f64 / elapsed.as_secs_f64();
            (self.generated, self.counted_from) = (0, Instant::now());
        }
        self.told.send_replace(self.load);
        self.metrics.counted(&stats.counters);
        let Load {
            block_tokens,
            kv_tokens_max,
            kv_tokens_used,
            kv_tokens_cached,
            generated_per_s,
            ..
        } = self.load;
        self.metrics.loaded(&LoadNumbers {
            running,
            waiting,
            block_tokens,
            kv_tokens_max,
            kv_tokens_used,
            kv_tokens_cached,
            generated_per_s,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::{Counters, KvGroupConfig};
    use binfer_proto::{Epoch, ReplicaId};

    #[test]
    fn the_load_is_what_the_scheduler_and_the_steps_say() {
        let group = |window, blocks| KvGroupConfig { block_tokens: 16, blocks, window };
        let config = SchedConfig {
            replica: ReplicaId(0),
            epoch: Epoch(1),
            slots_max: 8,
            tokens_per_step_max: 64,
            context_max: 256,
            queue_max: 4,
            queue_tokens_max: 1000,
            kv_groups: vec![group(Some(32), 10), group(None, 100)],
            prefix_cache: true,
        };
        let (told, load) = watch::channel(Load::default());
        let mut meter = LoadMeter::new(&config, told, Arc::new(Metrics::new("m")));
        let empty = *load.borrow();
        assert_eq!((empty.running_max, empty.kv_tokens_max, empty.stepped_at), (8, 1600, None));
        meter.submitted(100);
        let counters = Counters { prefix_tokens_hit: 25, ..Counters::default() };
        let stats = Stats {
            running: 1,
            waiting: 2,
            blocks_free: vec![0, 75],
            blocks_cached: vec![0, 50],
            counters,
        };
        meter.tell(&stats);
        let busy = *load.borrow();
        assert_eq!((busy.running, busy.waiting), (1, 2));
        assert_eq!((busy.active_share(), busy.used_share(), busy.cached_share), (0.25, 0.75, 0.25));
        assert!(busy.silence().is_some(), "a request that waits for its first step is noticed");
        meter.stepped(1);
        meter.tell(&Stats { running: 0, waiting: 0, ..stats });
        assert_eq!(load.borrow().silence(), None);
    }
}

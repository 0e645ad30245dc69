//! Who asks for what: requests of all lengths and all kinds of sampling, some given up half way.

use std::collections::BTreeSet;
use std::sync::Arc;

use binfer_coordinator::sched::{Delivery, Finish, Request, RequestId, Scheduler, TenantId};
use binfer_proto::{BIASES_MAX, Bias, Sampling, Token};

/// Requests that wait at most.
const WAITING_MAX: usize = 3;
/// Prompts that later ones begin with.
const TEXTS: usize = 8;

/// Numbers that look random, the same in every run.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// See the module.
pub(crate) struct Clients {
    dice: Dice,
    vocab: u32,
    context_max: usize,
    next_id: u64,
    live: BTreeSet<RequestId>,
    texts: Vec<Vec<Token>>,
    /// Requests that ended by themselves, and that were given up.
    pub(crate) ended: u64,
    pub(crate) cancelled: u64,
}

impl Clients {
    pub(crate) fn new(vocab: u32, context_max: u32) -> Self {
        Self {
            dice: Dice(1),
            vocab,
            context_max: context_max as usize,
            next_id: 0,
            live: BTreeSet::new(),
            texts: Vec::new(),
            ended: 0,
            cancelled: 0,
        }
    }

    /// Some come, one leaves now and then.
    pub(crate) fn act(&mut self, sched: &mut Scheduler) {
        while sched.stats().waiting < WAITING_MAX && self.dice.one_in(2) {
            let request = self.request();
            self.live.insert(request.id);
            sched.submit(request).unwrap();
        }
        if !self.live.is_empty() && self.dice.one_in(40) {
            let place = self.dice.below(self.live.len());
            let id = *self.live.iter().nth(place).unwrap();
            self.live.remove(&id);
            sched.finish(id, Finish::Cancelled).unwrap();
            self.cancelled += 1;
        }
    }

    fn request(&mut self) -> Request {
        let dice = &mut self.dice;
        let mut prompt = Vec::new();
        if !self.texts.is_empty() && dice.one_in(3) {
            prompt.clone_from(&self.texts[dice.below(self.texts.len())]);
        }
        let len = 1 + dice.below(self.context_max / 5);
        let vocab = self.vocab as usize;
        prompt.extend((prompt.len()..len).map(|_| u32::try_from(dice.below(vocab)).unwrap()));
        if self.texts.len() < TEXTS {
            self.texts.push(prompt.clone());
        }
        self.next_id += 1;
        Request {
            id: RequestId(self.next_id),
            max_tokens: u32::try_from(1 + dice.below(self.context_max)).unwrap(),
            end_ids: Arc::from([7]),
            ignore_eos: dice.one_in(2),
            sampling: sampling(dice),
            biases: biases(dice, self.vocab),
            logprobs: [0, 0, 1, 6][dice.below(4)],
            seed: dice.below(1 << 30) as u64,
            choice: u32::try_from(dice.below(2)).unwrap(),
            tenant: TenantId::default(),
            weights: dice.below(2) as u64,
            cache_salt: None,
            queue_deadline: None,
            least: None,
            prompt,
        }
    }

    /// Hears of what came of them.
    pub(crate) fn receive(&mut self, delivery: &Delivery) {
        match delivery.finish {
            None => assert!(self.live.contains(&delivery.id), "news of a request that is over"),
            Some(Finish::Stop | Finish::Length) => {
                assert!(self.live.remove(&delivery.id), "a request ends twice");
                self.ended += 1;
            }
            Some(why) => panic!("{why:?}"),
        }
    }

    /// Requests that have not ended.
    pub(crate) fn live(&self) -> usize {
        self.live.len()
    }
}

/// Every kind of sampling.
fn sampling(dice: &mut Dice) -> Sampling {
    let temperature = [0.0, 0.7, 1.0, 1.5][dice.below(4)];
    let top_k = [0, 0, 1, 40][dice.below(4)];
    let top_p = [1.0, 1.0, 0.9, 0.5][dice.below(4)];
    Sampling {
        temperature,
        top_k,
        top_p,
        min_p: [0.0, 0.0, 0.1][dice.below(3)],
        repetition_penalty: [1.0, 1.0, 1.2][dice.below(3)],
        presence_penalty: [0.0, 0.0, 0.5][dice.below(3)],
        frequency_penalty: [0.0, 0.0, -0.5][dice.below(3)],
    }
}

fn biases(dice: &mut Dice, vocab: u32) -> Vec<Bias> {
    let count = [0, 0, 1, BIASES_MAX][dice.below(4)];
    let bias = |token: u32| Bias { token, value: (token % 7) as f32 - 3.0 };
    (0..vocab).step_by(3).take(count).map(bias).collect()
}

//! The wire carries every value of a plan and of a result bit for bit, so both ends hash the same.
//!
//! Strategies are struct literals: a new field does not compile until it is tried here.

use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;

use crate::cluster as pb;
use crate::*;

/// Every pattern of bits: zeros of both signs, subnormals, infinities and NaNs with any payload.
fn float() -> impl Strategy<Value = f32> {
    let edge = [0, 1 << 31, 1, 0x8000_0001, 0x007f_ffff, 0x7f80_0000, 0xff80_0000, 0x7fa0_0001];
    prop_oneof![any::<u32>(), proptest::sample::select(edge.to_vec())].prop_map(f32::from_bits)
}

fn number() -> impl Strategy<Value = u32> {
    prop_oneof![any::<u32>(), Just(0), Just(u32::MAX)]
}

fn long() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), Just(0), Just(u64::MAX), Just(1 << 63)]
}

fn numbers() -> impl Strategy<Value = Vec<u32>> {
    vec(number(), 0..4)
}

prop_compose! {
    fn sampling()(
        temperature in float(),
        top_k in number(),
        top_p in float(),
        min_p in float(),
        repetition_penalty in float(),
        presence_penalty in float(),
        frequency_penalty in float(),
    ) -> Sampling {
        Sampling {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
        }
    }
}

prop_compose! {
    fn opened()(
        (slot, choice, prompt_len) in (number(), number(), number()),
        sampling in sampling(),
        seed in long(),
        history in numbers(),
        biases in vec((number(), float()), 0..3),
    ) -> Open {
        let biases = biases.into_iter().map(|(token, value)| Bias { token, value }).collect();
        Open { slot: SlotId(slot), sampling, seed, choice, prompt_len, history, biases }
    }
}

prop_compose! {
    fn new_blocks()((slot, kv_group) in (number(), number()), ids in numbers()) -> NewBlocks {
        let ids = ids.into_iter().map(BlockId).collect();
        NewBlocks { slot: SlotId(slot), kv_group: KvGroup(kv_group), ids }
    }
}

prop_compose! {
    fn row()(
        slot in number(),
        // A row of no tokens is no row: `check` refuses it.
        input in proptest::option::of(vec(number(), 1..4)),
        start in number(),
        outputs in proptest::sample::select(vec![Outputs::None, Outputs::Last, Outputs::All]),
        logprobs in any::<u8>(),
    ) -> Row {
        Row {
            slot: SlotId(slot),
            input: input.map_or(Input::LastSample, Input::Tokens),
            start,
            outputs,
            logprobs,
        }
    }
}

prop_compose! {
    fn plan()(
        (replica, epoch, step) in (number(), number(), long()),
        close in numbers(),
        open in vec(opened(), 0..3),
        blocks in vec(new_blocks(), 0..3),
        rows in proptest::option::of(vec(row(), 0..4)),
        masked in any::<bool>(),
    ) -> Plan {
        Plan {
            replica: ReplicaId(replica),
            epoch: Epoch(epoch),
            step: StepId(step),
            close: close.into_iter().map(SlotId).collect(),
            open,
            blocks,
            rows: rows.map_or(Rows::Same, Rows::List),
            masked,
        }
    }
}

prop_compose! {
    fn row_result()(
        finite in any::<bool>(),
        tokens in numbers(),
        logprobs in vec((number(), float()), 0..4),
    ) -> RowResult {
        let one = |(token, logprob)| Logprob { token, logprob };
        RowResult {
            status: if finite { RowStatus::Ok } else { RowStatus::NonFinite },
            tokens: tokens.into_iter().collect(),
            logprobs: logprobs.into_iter().map(one).collect(),
        }
    }
}

prop_compose! {
    fn result()(
        (replica, epoch, rank, step_us) in (number(), number(), number(), number()),
        (step, plan_hash, digest) in (long(), long(), long()),
        rows in vec(row_result(), 0..4),
    ) -> StepResult {
        StepResult {
            replica: ReplicaId(replica),
            epoch: Epoch(epoch),
            step: StepId(step),
            rank: Rank(rank),
            plan_hash,
            digest,
            rows,
            step_us,
        }
    }
}

prop_compose! {
    fn masks()(
        (replica, epoch, step) in (number(), number(), long()),
        rows in vec((number(), vec(any::<u8>(), 0..5)), 0..4),
    ) -> Masks {
        let rows = rows.into_iter().map(|(output, bits)| Mask { output, bits }).collect();
        Masks { replica: ReplicaId(replica), epoch: Epoch(epoch), step: StepId(step), rows }
    }
}

/// The plan that a worker makes of the coordinator's bytes.
fn received(plan: &Plan) -> Plan {
    let bytes = pb::Plan::from(plan).encode_to_vec();
    Plan::try_from(pb::Plan::decode(bytes.as_slice()).unwrap()).unwrap()
}

/// Equal where a NaN equals itself: by all bits. `Debug` tells zeros apart, and the hash NaNs.
fn print(plan: &Plan) -> (String, u64) {
    (format!("{plan:?}"), plan.hash(&[]))
}

fn fields(sampling: &mut Sampling) -> [&mut f32; 6] {
    let Sampling {
        temperature,
        top_k: _,
        top_p,
        min_p,
        repetition_penalty,
        presence_penalty,
        frequency_penalty,
    } = sampling;
    [temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty]
}

proptest! {
    #[test]
    fn a_worker_hashes_what_the_coordinator_hashed(
        plan in plan(),
        rows in vec(row(), 0..3),
    ) {
        let received = received(&plan);
        prop_assert_eq!(received.hash(&rows), plan.hash(&rows));
        prop_assert_eq!(print(&received), print(&plan));
        if let Rows::List(listed) = &plan.rows {
            prop_assert_eq!(received.hash(listed), plan.hash(listed));
        }
    }

    #[test]
    fn any_bits_of_any_float_are_carried_and_count_in_the_hash(
        mut open in opened(),
        place in 0_usize..7,
        (one, other) in (float(), float()),
    ) {
        open.biases.push(Bias { token: 7, value: 0.0 });
        let mut of = |value: f32| {
            let last = open.biases.len() - 1;
            match fields(&mut open.sampling).into_iter().nth(place) {
                Some(field) => *field = value,
                None => open.biases[last].value = value,
            }
            let plan = Plan { open: vec![open.clone()], ..super::plan(open.clone(), 0) };
            (plan.hash(&[]), received(&plan).hash(&[]))
        };
        let (one_hash, other_hash) = (of(one), of(other));
        prop_assert_eq!(one_hash.0, one_hash.1);
        prop_assert_eq!(one_hash == other_hash, one.to_bits() == other.to_bits());
    }

    #[test]
    fn results_and_masks_come_in_as_they_went_out(result in result(), masks in masks()) {
        let sent = pb::StepResult::from(&result);
        let came = pb::StepResult::decode(sent.encode_to_vec().as_slice()).unwrap();
        let came = StepResult::try_from(came).unwrap();
        prop_assert_eq!(format!("{came:?}"), format!("{result:?}"));
        // A NaN's payload is in the bytes.
        prop_assert_eq!(pb::StepResult::from(&came).encode_to_vec(), sent.encode_to_vec());
        let sent = pb::Masks::from(&masks).encode_to_vec();
        prop_assert_eq!(Masks::from(pb::Masks::decode(sent.as_slice()).unwrap()), masks);
    }

    #[test]
    fn what_the_check_lets_pass_is_a_normal_number_or_zero_without_a_sign(
        sampling in sampling(),
        value in float(),
    ) {
        let mut canonical = sampling.canonical();
        let good = canonical.check().is_ok();
        let given = { let mut sampling = sampling; fields(&mut sampling).map(|field| *field) };
        for (field, given) in fields(&mut canonical).into_iter().zip(given) {
            let tiny = given.abs() < f32::MIN_POSITIVE;
            prop_assert_eq!(field.to_bits(), if tiny { 0 } else { given.to_bits() });
            prop_assert!(!good || field.is_normal() || field.to_bits() == 0);
        }
        let bias = Bias { token: 1, value }.canonical();
        let good = Bias::check(&[bias], 2).is_ok();
        prop_assert!(!good || bias.value.is_normal() || bias.value.to_bits() == 0);
    }
}

//! Messages between coordinator and workers, as either side reads them.

use binfer_proto::cluster::{Down, Up, down, up};
use binfer_proto::{
    Epoch, Input, Mask, Masks, Outputs, Plan, PlanLimits, ReplicaId, Row, Rows, StepResult, Token,
    cluster,
};
use binfer_worker::slots::SlotTable;
use prost::Message;

const VOCAB: u32 = 300;
const CONTEXT_MAX: u32 = 64;
const BLOCK_TOKENS: u32 = 16;

/// A stream of messages, each behind its length. A worker applies plans one after the other; what
/// it accepts means the same on the other side of the wire.
pub(crate) fn messages(bytes: &[u8]) {
    let limits =
        PlanLimits { slots_max: 4, tokens_per_step_max: 32, vocab: VOCAB, blocks: vec![16] };
    let mut slots =
        SlotTable::new((ReplicaId(1), Epoch(1)), limits, CONTEXT_MAX, vec![BLOCK_TOKENS]);
    let mut rest = bytes;
    while let Ok(message) = Down::decode_length_delimited(&mut rest) {
        match message.message {
            Some(down::Message::Plan(plan)) => apply(&mut slots, plan),
            Some(down::Message::Masks(masks)) => {
                let _ = Masks::from(masks).check(4, VOCAB);
            }
            _ => {}
        }
        if rest.is_empty() {
            break;
        }
    }
    let mut rest = bytes;
    while let Ok(message) = Up::decode_length_delimited(&mut rest) {
        if let Some(up::Message::Result(result)) = message.message {
            check_result(result);
        }
        if rest.is_empty() {
            break;
        }
    }
}

fn apply(slots: &mut SlotTable, message: cluster::Plan) {
    let Ok(plan) = Plan::try_from(message) else { return };
    let again = cluster::Plan::from(&plan);
    let again = cluster::Plan::decode(&*again.encode_to_vec()).expect("what we wrote");
    let again = Plan::try_from(again).expect("what we wrote");
    let rows: &[Row] = match &plan.rows {
        Rows::List(rows) => rows,
        Rows::Same => &[],
    };
    let Ok(applied) = slots.apply(&plan) else { return };
    // Bits, not numbers: a worker hashes what it was sent.
    assert_eq!(plan.hash(rows), again.hash(rows));
    let outputs = applied.row_logprobs.iter().flatten().count();
    assert_eq!(outputs, applied.batch.outputs.len());
    let tokens = rows.iter().map(|row| match &row.input {
        Input::Tokens(tokens) => tokens.len(),
        Input::LastSample => 1,
    });
    assert!(rows.is_empty() || tokens.sum::<usize>() == applied.batch.tokens.len());
    assert!(rows.iter().all(|row| row.outputs != Outputs::All), "not in this version");
    assert!(applied.batch.positions.iter().all(|position| *position < CONTEXT_MAX));
}

fn check_result(message: cluster::StepResult) {
    let Ok(result) = StepResult::try_from(message) else { return };
    let again = StepResult::try_from(cluster::StepResult::from(&result)).expect("what we wrote");
    assert_eq!(format!("{result:?}"), format!("{again:?}"));
}

/// Masks of a step: what is accepted allows a token, and none that does not exist.
pub(crate) fn masks(bytes: &[u8]) {
    let [outputs, vocab, rest @ ..] = bytes else { return };
    let (outputs, vocab) = (usize::from(*outputs % 8), 1 + u32::from(*vocab));
    let Ok(masks) = cluster::Masks::decode(rest) else { return };
    let masks = Masks::from(masks);
    let again = Masks::from(cluster::Masks::from(&masks));
    assert_eq!(masks, again);
    if masks.check(outputs, vocab).is_err() {
        return;
    }
    for mask in &masks.rows {
        let allowed: Vec<Token> = (0..vocab).filter(|token| mask.allows(*token)).collect();
        assert!(!allowed.is_empty());
        assert_eq!(*mask, Mask::of(mask.output, vocab, allowed));
    }
}

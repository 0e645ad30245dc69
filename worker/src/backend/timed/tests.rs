//! Costs, the table of `--profile`, and the file of `--trace`.

use binfer_proto::SlotId;

use super::cost::{Cost, Counts, OperationWork, TimedOperation};
use super::profile::Profile;
use super::trace::Trace;
use crate::backend::Peaks;
use crate::batch::{Batch, BatchRow};

fn counts() -> Counts {
    let row = |start, count| BatchRow { slot: SlotId(0), first: 0, count, start };
    let rows = vec![row(9, 1), row(0, 3)];
    Counts::of(&Batch {
        tokens: vec![crate::batch::TokenInput::Known(1); 4],
        rows,
        ..Batch::default()
    })
}

fn operation(name: &str, work: OperationWork, kernel: &'static str) -> TimedOperation {
    TimedOperation { name: name.into(), work, kernels: vec![kernel] }
}

#[test]
fn costs_follow_from_shapes() {
    let counts = counts();
    let gemm = OperationWork::Gemm { elements: 100, bytes: 200 };
    assert_eq!(gemm.cost(&counts), Cost { flop: 800, bytes: 200 });
    let attend = |window| OperationWork::Attend {
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        window,
        element_bytes: 2,
    };
    // The decode row scores 10 positions, the chunk 1 + 2 + 3; both read what they score at most.
    let all = Cost { flop: 4 * 4 * 8 * 16, bytes: 2 * 2 * 8 * 2 * 13 };
    assert_eq!(attend(None).cost(&counts), all);
    // Of windows of two, two are scored at most; the chunk's tokens reach no further back than its
    // first.
    let narrow = Cost { flop: 4 * 4 * 8 * (2 + 1 + 2 + 2), bytes: 2 * 2 * 8 * 2 * (3 + 3) };
    assert_eq!(attend(Some(2)).cost(&counts), narrow);
}

#[test]
fn the_table_sums_layers_and_shows_shares_and_gaps() {
    let peaks = Peaks { bytes_per_s: 1e9, flop_per_s: 4e9, gemm_side: 8 };
    let mut profile = Profile::new(Some(peaks));
    let work = OperationWork::Gemm { elements: 500_000, bytes: 500_000 };
    let operations = [
        operation("layers.0.attn.qkv", work, "stream"),
        operation("layers.1.attn.qkv", work, "stream"),
        operation("sample", OperationWork::Other, "sample"),
    ];
    let one = Batch { tokens: vec![crate::batch::TokenInput::Known(1)], ..Batch::default() };
    let counts = Counts::of(&one);
    profile.add(&operations, &counts, &[0, 1_000_000, 2_000_000, 2_500_000]);
    profile.add(&operations, &counts, &[2_504_000, 3_504_000, 4_504_000, 5_004_000]);
    let expected = "\
operation  calls     ms     %  TFLOP/s  MFU %  GB/s  of peak %  kernels
attn.qkv       4  4.000  80.0     0.00   25.0     0       50.0  stream
sample         2  1.000  20.0        -      -     -          -  sample
2 steps, 5.000 ms in operations; between steps 4.0 us (median); \
peaks measured here: 1 GB/s copying, 0 TFLOP/s in a gemm of 8 cubed
";
    assert_eq!(profile.table(), expected);
}

#[test]
fn a_trace_is_json_with_every_operation() {
    let path = std::env::temp_dir().join(format!("binfer-trace-{}.json", std::process::id()));
    let mut trace = Trace::create(&path, 3).unwrap();
    let operations = [
        operation("embed", OperationWork::Other, "embed"),
        operation("head", OperationWork::Other, "x"),
    ];
    for step in 0..2 {
        let at = |us: u64| step * 10_000 + us * 1000;
        trace.add(step, &operations, &counts(), &[at(5), at(7), at(9)]).unwrap();
    }
    trace.end().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let first = "[\n{\"name\":\"step 0: 4 tokens, 0 outputs\",\"ph\":\"X\",\"ts\":0.000,\"dur\":4.000,\
                 \"pid\":3,\"tid\":0},\n{\"name\":\"embed\",\"ph\":\"X\",\"ts\":0.000,\"dur\":2.000,";
    assert!(text.starts_with(first), "{text}");
    assert!(text.ends_with("\"args\":{\"kernels\":\"x\"}}\n]\n"), "{text}");
    assert_eq!(text.matches("\"name\":").count(), 6);
    assert_eq!(text.matches(['{', '}']).count(), 2 * (6 + 4));
}

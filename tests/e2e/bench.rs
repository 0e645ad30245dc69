//! `binfer bench`: a table with a row a batch, with a checkpoint's weights and with random ones.

use crate::harness::{Permit, Run, repository};

fn rows_of(format: &[&str]) {
    let model = repository("tests/fixtures/tiny/qwen3");
    let model = model.to_string_lossy();
    let load = ["--prompt-tokens", "8", "--generate", "2", "--batch", "1,3", "--repeat", "1"];
    let run =
        Run::good(&[&["bench", &*model, "-q", "--device", "cpu"], &load[..], format].concat());
    let batches: Vec<&str> =
        run.stdout.lines().skip(2).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(batches, ["1", "3"], "{}", run.stdout);
}

#[test]
fn a_checkpoint_is_measured() {
    let _permit = Permit::alone();
    rows_of(&[]);
}

#[test]
fn a_configuration_is_measured_with_random_weights() {
    let _permit = Permit::alone();
    rows_of(&["--load-format", "dummy"]);
}

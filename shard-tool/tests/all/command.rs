//! The program `shard-tool`: writes, verifies, refuses.

use std::path::Path;
use std::process::{Command, Output};

use binfer_shard::Checkpoint;

use crate::gguf_writer::TINY;
use crate::scratch;
use crate::shards::absent;

fn shard_tool(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shard-tool")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn shard_tool_does_what_binfer_shard_does() {
    let (model, folder) = (scratch("command.gguf"), absent("command-shards"));
    TINY.writer().write(&model);
    let written = shard_tool(&[arg(&model), "-o", arg(&folder), "--tp", "2"]);
    let said = text(&written.stdout);
    assert!(written.status.success() && said.contains("2 rank(s) written"), "{written:?}");
    assert_eq!(Checkpoint::open(&folder).unwrap().shards_world(), Some(2));
    let verified = shard_tool(&[arg(&model), "-o", arg(&folder), "--verify"]);
    let said = text(&verified.stdout);
    assert!(verified.status.success() && said.contains("2 rank(s) verified"), "{verified:?}");
    let listed = shard_tool(&[arg(&model), "--tp", "2", "--dry-run"]);
    assert!(text(&listed.stdout).contains("  token_embd.weight Q8_0 "), "{listed:?}");

    let again = shard_tool(&[arg(&model), "-o", arg(&folder), "--tp", "2"]);
    let said = text(&again.stderr);
    assert_eq!(again.status.code(), Some(78));
    assert!(said.starts_with("shard-tool: ") && said.contains("it is there already"), "{said}");
    for usage in [&["-o", "x", "--tp", "2"][..], &["m", "--tp", "2"], &["m", "-o", "x"]] {
        assert_eq!(shard_tool(usage).status.code(), Some(2), "{usage:?}");
    }
    let both = shard_tool(&["m", "-o", "x", "--tp", "2", "--verify"]);
    assert_eq!(both.status.code(), Some(2), "{both:?}");
}

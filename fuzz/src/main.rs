//! The binary for libFuzzer. It runs the target whose name it is called by (`fuzz.sh`).
#![no_main]

use std::sync::OnceLock;

use binfer_fuzz::{FuzzTarget, TARGETS};

static TARGET: OnceLock<&FuzzTarget> = OnceLock::new();

fn target() -> &'static FuzzTarget {
    TARGET.get_or_init(|| {
        let called = std::env::args().next().unwrap_or_default();
        let name = called.rsplit('/').next().unwrap_or_default();
        let found = TARGETS.iter().find(|target| target.name == name);
        found.expect("a link to this program has the name of a target")
    })
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (target().run)(bytes));

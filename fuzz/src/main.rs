//! The binary for libFuzzer. It runs the target whose name it is called by (`fuzz.sh`).
#![no_main]

use std::sync::OnceLock;

use binfer_fuzz::{FuzzTarget, TARGETS};

static TARGET: OnceLock<&FuzzTarget> = OnceLock::new();

fn target() -> &'static FuzzTarget {
    TARGET.get_or_init(|| {
        pass_over_the_tokenizers_library();
        let called = std::env::args().next().unwrap_or_default();
        let name = called.rsplit('/').next().unwrap_or_default();
        let found = TARGETS.iter().find(|target| target.name == name);
        found.expect("a link to this program has the name of a target")
    })
}

/// libFuzzer takes every panic for a finding. The product catches those of the tokenizers library
/// over a model's data (`coordinator/src/text/guarded.rs`): they are errors of that model.
fn pass_over_the_tokenizers_library() {
    let abort = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.location().is_some_and(|place| place.file().contains("/tokenizers-")) {
            abort(panic);
        }
    }));
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (target().run)(bytes));

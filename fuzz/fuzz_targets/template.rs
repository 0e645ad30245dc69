//! A chat template: parsed, and rendered with a conversation.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| binfer_fuzz::template(bytes));

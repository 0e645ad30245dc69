//! `tokenizer.json` beside good settings.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| binfer_fuzz::tokenizer(bytes));

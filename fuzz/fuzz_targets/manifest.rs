//! `manifest.json` beside good shards.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| binfer_fuzz::manifest(bytes));

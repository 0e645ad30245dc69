//! `model.safetensors.index.json` beside good weights.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| binfer_fuzz::weights("llama31", "model.safetensors.index.json", bytes));

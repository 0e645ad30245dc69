//! A safetensors file: its header, and tensors that it may not have.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| binfer_fuzz::weights("qwen3", "model.safetensors", bytes));

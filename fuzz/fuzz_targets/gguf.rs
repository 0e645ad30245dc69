//! A GGUF file: header, tensor table, tokenizer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| binfer_fuzz::gguf(bytes));

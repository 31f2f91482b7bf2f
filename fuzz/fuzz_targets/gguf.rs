//! See `tamis_fuzz::gguf`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tamis_fuzz::check(tamis_fuzz::gguf(bytes)));

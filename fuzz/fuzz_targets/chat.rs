//! See `tamis_fuzz::chat`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tamis_fuzz::check(tamis_fuzz::chat(bytes)));

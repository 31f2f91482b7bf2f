//! See `tamis_fuzz::text`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tamis_fuzz::check(tamis_fuzz::text(bytes)));

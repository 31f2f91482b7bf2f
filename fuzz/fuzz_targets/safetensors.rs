//! Headers of safetensors files.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = tamis::load::safetensors::parse_file(data);
});

//! `model.safetensors.index.json`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = tamis::load::folder::parse_index(data);
});

//! Headers of GGUF files, and the configuration made of them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(header) = tamis::load::gguf::Header::read(data, data.len() as u64) {
        let _ = tamis::model::Config::from_gguf(&header.metadata);
    }
});

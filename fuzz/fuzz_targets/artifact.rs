//! The manifest of an artifact: every name, shape and encoding in it is hostile.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    tamis::artifact::Manifest::parse(bytes).ok();
});

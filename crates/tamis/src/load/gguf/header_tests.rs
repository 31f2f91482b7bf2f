//! Hostile GGUF headers.

use super::super::writer::Writer;
use super::*;

fn read(bytes: &[u8]) -> Result<Header> {
    Header::read(bytes, bytes.len() as u64)
}

fn tiny() -> Writer {
    Writer::new()
        .text("general.architecture", "llama")
        .int("llama.block_count", 2)
        .float("x", 0.5)
        .flag("y", 1)
        .texts("z", &["a", "bc"])
        .array("n", 5, 2, &[1, 0, 0, 0, 255, 255, 255, 255])
        .tensor("w", &[32, 2], 2, &[0; 36])
        .tensor("v", &[3], 0, &[0; 12])
}

fn refused(bytes: &[u8], word: &str) {
    let error = read(bytes).unwrap_err();
    assert_eq!(error.exit_code(), 65, "{error}");
    assert!(error.to_string().contains(word), "{word}: {error}");
}

#[test]
fn a_valid_file_is_read() {
    for version in [2, 3] {
        let bytes = Writer { version, ..tiny() }.finish();
        let header = read(&bytes).unwrap();
        assert_eq!(header.metadata.text("general.architecture").unwrap(), Some("llama"));
        assert_eq!(header.metadata.usize("llama.block_count").unwrap(), Some(2));
        assert_eq!(header.metadata.f64("x").unwrap(), Some(0.5));
        assert_eq!(header.metadata.bool("y").unwrap(), Some(true));
        assert_eq!(header.metadata.texts("z").unwrap().unwrap(), ["a", "bc"]);
        assert_eq!(header.metadata.ints("n").unwrap().unwrap(), [1, -1]);
        assert_eq!(header.metadata.usize("none").unwrap(), None);
        assert!(header.metadata.usize("x").is_err());
        let w = &header.tensors["w"];
        assert_eq!((&w.shape[..], w.storage.name(), w.bytes), (&[2, 32][..], "Q4_0", 36));
        assert_eq!((w.offset, header.tensors["v"].offset), (header.length, header.length + 64));
    }
}

#[test]
fn every_truncation_is_refused() {
    let bytes = tiny().finish();
    let data_end = bytes.len() - 20; // the padding of the last tensor may be missing
    for end in 0..data_end {
        assert_eq!(read(&bytes[..end]).unwrap_err().exit_code(), 65, "cut at {end}");
    }
    assert!(read(&bytes[..data_end]).is_ok());
}

#[test]
fn flipped_bytes_never_panic() {
    let bytes = tiny().finish();
    for at in 0..bytes.len() - 96 {
        for flip in 1..=255u8 {
            let mut bytes = bytes.clone();
            bytes[at] ^= flip;
            if let Err(error) = read(&bytes) {
                assert_eq!(error.exit_code(), 65);
            }
        }
    }
}

#[test]
fn every_number_may_lie_by_much() {
    // Overwrites each 8 (then 4) bytes of the header with values that overflow sums and products.
    let bytes = tiny().finish();
    let lies = [1u64 << 60, u64::MAX, u64::MAX - 7, 1 << 32, i64::MAX as u64, 1 << 40];
    for at in 4..bytes.len() - 104 {
        for lie in lies {
            let mut bytes = bytes.clone();
            bytes[at..at + 8].copy_from_slice(&lie.to_le_bytes());
            let _ = read(&bytes);
            bytes[at..at + 4].copy_from_slice(&(lie as u32).to_le_bytes());
            let _ = read(&bytes);
        }
    }
}

#[test]
fn lies_are_named() {
    let counts = |tensors: u64, pairs: u64| {
        [&b"GGUF\x03\0\0\0"[..], &tensors.to_le_bytes(), &pairs.to_le_bytes()].concat()
    };
    refused(&counts(1 << 60, 0), "tensors");
    refused(&counts(0, 1 << 60), "metadata pairs");
    refused(&counts(0, u64::MAX), "metadata pairs");
    refused(&Writer::new().raw("k", 8, &(1u64 << 60).to_le_bytes()).finish(), "bytes of k");
    refused(&Writer::new().array("k", 4, 1 << 60, &[]).finish(), "elements of k");
    refused(&Writer::new().array("k", 9, 1, &[0; 64]).finish(), "array of type 9");
    refused(&Writer::new().raw("k", 13, &[]).finish(), "type 13");
    refused(&Writer::new().flag("k", 2).finish(), "boolean");
    refused(&Writer::new().raw("k", 8, b"\x01\0\0\0\0\0\0\0\xff").finish(), "UTF-8");
    refused(&Writer::new().int("k", 1).int("k", 2).finish(), "twice");
    refused(&Writer { version: 1, ..tiny() }.finish(), "version 1");
    refused(&Writer { version: 3u32.swap_bytes(), ..tiny() }.finish(), "big-endian");
    refused(&Writer { version: 9, ..tiny() }.finish(), "version 9");
    for alignment in [0, 24, 1 << 30] {
        refused(&Writer::new().int("general.alignment", alignment).finish(), "alignment");
    }
    refused(b"GGML", "not a GGUF");
}

#[test]
fn tensors_that_cannot_be_are_refused() {
    let one = |dims: &[u64], kind, data: &[u8]| Writer::new().tensor("w", dims, kind, data).finish();
    refused(&one(&[], 0, &[0; 64]), "0 dimensions");
    refused(&one(&[1, 1, 1, 1, 1], 0, &[0; 64]), "5 dimensions");
    refused(&one(&[0], 0, &[0; 64]), "dimension of 0");
    refused(&one(&[1 << 32, 1 << 32], 0, &[0; 64]), "not a size");
    refused(&one(&[1 << 60, 1 << 10, 2, 2], 8, &[0; 64]), "not a size");
    refused(&one(&[1 << 40], 0, &[0; 64]), "past the end");
    refused(&one(&[33], 2, &[0; 64]), "not a size");
    refused(&one(&[256], 20, &[0; 256]), "IQ4_NL");
    refused(&one(&[256], 77, &[0; 256]), "number 77");
    refused(&Writer::new().tensor("w", &[1], 0, &[0; 4]).tensor("w", &[1], 0, &[0; 4]).finish(), "twice");
    let at = |offset| {
        let first = Writer::new().tensor("v", &[16], 0, &[0; 64]);
        first.tensor_at("w", &[16], 0, (&[0; 64], offset)).finish()
    };
    assert!(read(&at(64)).is_ok());
    refused(&at(32), "overlaps");
    refused(&at(0), "overlaps");
    refused(&at(63), "multiple of 32");
    refused(&at(96), "past the end");
    refused(&at(u64::MAX - 31), "past the end");
}

#[test]
fn alignment_is_followed() {
    let writer = Writer { alignment: 64, ..Writer::new() };
    let bytes =
        writer.int("general.alignment", 64).tensor("w", &[1], 0, &[0; 4]).tensor("v", &[1], 0, &[7; 4]);
    let header = read(&bytes.finish()).unwrap();
    assert_eq!(header.length % 64, 0);
    assert_eq!(header.tensors["v"].offset, header.length + 64);
}

//! Hostile headers, and agreement with the `safetensors` crate on all of them.

use super::*;

/// A file of a JSON header and `data` zero bytes.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

const TINY: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}}"#;

/// Ours and the crate's verdict on the same bytes must be one.
fn same_verdict(bytes: &[u8], what: &str) -> bool {
    let theirs = ::safetensors::SafeTensors::deserialize(bytes);
    let ours = parse_file(bytes);
    assert_eq!(ours.is_ok(), theirs.is_ok(), "{what}: {ours:?} {:?}", theirs.err());
    if let Err(error) = &ours {
        assert_eq!(error.exit_code(), 65, "{what}");
    }
    ours.is_ok()
}

#[test]
fn a_valid_file_is_read() {
    let bytes = file(TINY, 32);
    let entries = parse_file(&bytes).unwrap();
    let start = bytes.len() as u64 - 32;
    assert_eq!((entries["a"].offset, entries["a"].bytes), (start, 24));
    assert_eq!((entries["b"].offset, &entries["b"].shape[..]), (start + 24, &[4][..]));
    assert_eq!(entries.len(), 2);
}

#[test]
fn every_truncation_is_refused() {
    let bytes = file(TINY, 32);
    for end in 0..bytes.len() {
        assert!(!same_verdict(&bytes[..end], &format!("cut at {end}")));
    }
    assert!(!same_verdict(&file(TINY, 33), "one byte too many"));
}

#[test]
fn flipped_bytes_never_panic_and_never_differ_from_the_crate() {
    let bytes = file(TINY, 32);
    let metadata = 8 + TINY.find("__metadata__").unwrap()..8 + TINY.find(",\"a\"").unwrap();
    for at in (0..bytes.len() - 32).filter(|at| !metadata.contains(at)) {
        for flip in 1..=255u8 {
            let mut bytes = bytes.clone();
            bytes[at] ^= flip;
            same_verdict(&bytes, &format!("byte {at} ^ {flip:#x}"));
        }
    }
}

#[test]
fn lying_headers_are_refused() {
    let tensor = |shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    for (header, data) in [
        (tensor("[1152921504606846976]", "[0,4]"), 4),
        (tensor("[4294967296,4294967296]", "[0,0]"), 0),
        (tensor("[18446744073709551615]", "[0,18446744073709551615]"), 0),
        (tensor("[1]", "[4,0]"), 4),
        (tensor("[1]", "[4,8]"), 8),
        (tensor("[1]", "[0,8]"), 8),
        (tensor("[-1]", "[0,4]"), 4),
        (tensor("[1.5]", "[0,4]"), 4),
        (tensor("[1]", "[0,4]").replace("F32", "Q4_0"), 4),
        (TINY.replace("[24,32]", "[20,28]"), 32),
        (TINY.replace("[24,32]", "[28,36]"), 36),
        ("[]".into(), 0),
        ("{".repeat(100_000), 0),
        (format!(r#"{{"a":{}"#, "[".repeat(100_000)), 0),
    ] {
        assert!(!same_verdict(&file(&header, data), &header[..header.len().min(90)]));
    }
    let mut huge = file(TINY, 32);
    huge[..8].copy_from_slice(&(1u64 << 60).to_le_bytes());
    assert!(!same_verdict(&huge, "header of 2^60 bytes"));
}

#[test]
fn errors_name_the_tensor() {
    let twice = TINY.replace("\"b\":", "\"a\":");
    let overlap = TINY.replace("[24,32]", "[20,28]");
    let unknown = TINY.replace("BF16", "F7");
    for (header, words) in [
        (twice.as_str(), ["tensor a", "twice"]),
        (&overlap, ["tensor b", "overlaps"]),
        (&unknown, ["tensor b", "F7"]),
    ] {
        let text = parse_file(&file(header, 32)).unwrap_err().to_string();
        assert!(words.iter().all(|w| text.contains(w)), "{text}");
    }
}

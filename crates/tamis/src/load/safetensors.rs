//! The header of a safetensors file: eight bytes of length, a JSON object of
//! tensors, then their bytes without gap or overlap. Knows one file, not a model.
//!
//! Parsed here rather than by the `safetensors` crate, which wants the whole file in
//! memory, keeps the last of two equal names and cannot say which tensor is wrong;
//! the tests hold both to the same verdicts.
//! Source: the format section of the safetensors README.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use crate::error::{Error, Result};

/// Longest header that the format allows.
const HEADER_LIMIT: u64 = 100_000_000;

/// One tensor of the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The format's name of the type (`BF16`).
    pub dtype: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// First byte in the file.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
}

/// All tensors of one file.
pub type Entries = BTreeMap<String, Entry>;

/// Length of the JSON part, checked against the length of the file.
pub fn header_length(first8: [u8; 8], file_len: u64) -> Result<usize> {
    let length = u64::from_le_bytes(first8);
    if length > HEADER_LIMIT {
        return Err(Error::bad_data(format!("header of {length} bytes; the format allows {HEADER_LIMIT}"))
            .offset(0)
            .next("check that this is a safetensors file"));
    }
    match length.checked_add(8) {
        Some(end) if end <= file_len => Ok(length as usize),
        _ => Err(truncated(format!("header of {length} bytes in a file of {file_len}")).offset(0)),
    }
}

/// The header of a whole file in memory.
pub fn parse_file(bytes: &[u8]) -> Result<Entries> {
    let Some((first8, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(truncated("shorter than its length field".into()));
    };
    let length = header_length(*first8, bytes.len() as u64)?;
    parse(&rest[..length], bytes.len() as u64)
}

fn truncated(problem: String) -> Error {
    Error::bad_data(problem).next("the file is truncated or damaged: fetch it again")
}

/// Parses the JSON part of a file of `file_len` bytes. Tensors must tile the data
/// part: no gap, no overlap, nothing left over.
pub fn parse(json: &[u8], file_len: u64) -> Result<Entries> {
    let Header(raw) = serde_json::from_slice(json)
        .map_err(|e| Error::bad_data(format!("safetensors header is not valid: {e}")).offset(8))?;
    let start = 8 + json.len() as u64;
    let data_len = file_len.saturating_sub(start);
    let mut by_offset: Vec<(&String, &RawEntry)> = raw.iter().collect();
    by_offset.sort_by_key(|(_, e)| e.data_offsets);
    let mut at = 0;
    for (name, entry) in by_offset {
        check_size(name, entry)?;
        let (begin, end) = entry.data_offsets;
        if begin != at {
            let what = if begin < at { "overlaps the tensor before it" } else { "leaves a gap before it" };
            return Err(Error::bad_data(format!("its bytes {begin}..{end}: {what}")).tensor(name));
        }
        if end > data_len {
            let problem = format!("its bytes {begin}..{end} lie past the end of the data ({data_len} bytes)");
            return Err(truncated(problem).tensor(name));
        }
        at = end;
    }
    if at != data_len {
        return Err(truncated(format!("the tensors take {at} bytes, the file holds {data_len}")));
    }
    let entry = |e: RawEntry| Entry {
        dtype: e.dtype,
        shape: e.shape,
        offset: start + e.data_offsets.0,
        bytes: e.data_offsets.1 - e.data_offsets.0,
    };
    Ok(raw.into_iter().map(|(name, e)| (name, entry(e))).collect())
}

/// Shape times width must be the byte range.
fn check_size(name: &str, entry: &RawEntry) -> Result<()> {
    let (begin, end) = entry.data_offsets;
    let bits = entry
        .shape
        .iter()
        .try_fold(1u64, |n, &d| n.checked_mul(d as u64))
        .and_then(|n| n.checked_mul(bits(&entry.dtype)?));
    let Some(bits) = bits.filter(|b| b % 8 == 0) else {
        return Err(Error::bad_data(format!(
            "shape {:?} of type {} is not a size that exists",
            entry.shape, entry.dtype
        ))
        .tensor(name));
    };
    if end.checked_sub(begin) != Some(bits / 8) {
        let problem = format!(
            "shape {:?} of type {} takes {} bytes, the header gives {begin}..{end}",
            entry.shape,
            entry.dtype,
            bits / 8
        );
        return Err(Error::bad_data(problem).tensor(name));
    }
    Ok(())
}

/// Bits an element, for every type that the format knows.
fn bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" => 8,
        "F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => 8,
        "I16" | "U16" | "F16" | "BF16" => 16,
        "I32" | "U32" | "F32" => 32,
        "C64" | "F64" | "I64" | "U64" => 64,
        _ => return None,
    })
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// The JSON object; a name that comes twice is an error, `__metadata__` is skipped.
struct Header(BTreeMap<String, RawEntry>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let entry = map
                .next_value::<RawEntry>()
                .map_err(|e| serde::de::Error::custom(format!("tensor {name}: {e}")))?;
            if entries.insert(name.clone(), entry).is_some() {
                return Err(serde::de::Error::custom(format!("tensor {name} is listed twice")));
            }
        }
        Ok(Header(entries))
    }
}

#[cfg(test)]
#[path = "safetensors_tests.rs"]
mod tests;

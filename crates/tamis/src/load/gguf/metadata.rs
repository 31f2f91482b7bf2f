//! The key-value part of a GGUF header and typed access to it.
//!
//! Source: ggml `docs/gguf.md`. Arrays of arrays are refused: no known key uses them
//! and they are the way to deep recursion.

use std::collections::BTreeMap;
use std::io::Read;

use super::reader::Reader;
use crate::error::{Error, Result};

/// Longest array that is read; the largest vocabularies have about 300,000 entries.
const ARRAY_LIMIT: usize = 1 << 24;

/// A metadata value. Integers and floats of all widths share a variant.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any integer.
    Int(i128),
    /// f32 or f64.
    Float(f64),
    /// Boolean.
    Bool(bool),
    /// String.
    Text(String),
    /// Array of any integers or booleans.
    Ints(Vec<i64>),
    /// Array of f32 or f64.
    Floats(Vec<f32>),
    /// Array of strings.
    Texts(Vec<String>),
}

/// All key-value pairs of a file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata(BTreeMap<String, Value>);

impl Metadata {
    pub(super) fn read<R: Read>(reader: &mut Reader<R>, count: usize) -> Result<Self> {
        let mut values = BTreeMap::new();
        for _ in 0..count {
            let key = reader.string("a metadata key")?;
            let kind = reader.u32()?;
            let value = read_value(reader, &key, kind)?;
            if values.insert(key.clone(), value).is_some() {
                return Err(reader.error(format!("metadata key {key} is there twice")));
            }
        }
        Ok(Self(values))
    }
    /// Adds or replaces a value.
    pub fn set(&mut self, key: &str, value: Value) {
        self.0.insert(key.to_string(), value);
    }
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }
    /// All keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
    /// A string, none if absent.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", |v| if let Value::Text(t) = v { Some(t.as_str()) } else { None })
    }
    /// A boolean, none if absent.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a boolean", |v| if let Value::Bool(b) = v { Some(*b) } else { None })
    }
    /// A number that is not negative, none if absent.
    pub fn usize(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a count", |v| if let Value::Int(n) = v { usize::try_from(*n).ok() } else { None })
    }
    /// Any number, none if absent.
    pub fn f64(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a finite number", |v| match v {
            Value::Int(n) => Some(*n as f64),
            Value::Float(x) if x.is_finite() => Some(*x),
            _ => None,
        })
    }
    /// An array of integers or booleans, none if absent.
    pub fn ints(&self, key: &str) -> Result<Option<&[i64]>> {
        self.typed(key, "integers", |v| if let Value::Ints(n) = v { Some(&n[..]) } else { None })
    }
    /// An array of floats, none if absent.
    pub fn floats(&self, key: &str) -> Result<Option<&[f32]>> {
        self.typed(key, "floats", |v| if let Value::Floats(x) = v { Some(&x[..]) } else { None })
    }
    /// An array of strings, none if absent.
    pub fn texts(&self, key: &str) -> Result<Option<&[String]>> {
        self.typed(key, "strings", |v| if let Value::Texts(t) = v { Some(&t[..]) } else { None })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        what: &str,
        get: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        match get(value) {
            Some(value) => Ok(Some(value)),
            None => Err(Error::bad_data(format!("metadata key {key} must be {what}"))),
        }
    }
}

const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

fn read_value<R: Read>(reader: &mut Reader<R>, key: &str, kind: u32) -> Result<Value> {
    match kind {
        STRING => reader.string(key).map(Value::Text),
        ARRAY => read_array(reader, key),
        BOOL => read_int(reader, key, kind).map(|n| Value::Bool(n != 0)),
        6 | 12 => read_float(reader, kind).map(Value::Float),
        _ => read_int(reader, key, kind).map(Value::Int),
    }
}

fn read_int<R: Read>(reader: &mut Reader<R>, key: &str, kind: u32) -> Result<i128> {
    Ok(match kind {
        0 => i128::from(u8::from_le_bytes(reader.array()?)),
        1 => i128::from(i8::from_le_bytes(reader.array()?)),
        2 => i128::from(u16::from_le_bytes(reader.array()?)),
        3 => i128::from(i16::from_le_bytes(reader.array()?)),
        4 => i128::from(reader.u32()?),
        5 => i128::from(i32::from_le_bytes(reader.array()?)),
        BOOL => match reader.array::<1>()? {
            [byte @ (0 | 1)] => i128::from(byte),
            [byte] => return Err(reader.error(format!("{key}: boolean of value {byte}"))),
        },
        10 => i128::from(reader.u64()?),
        11 => i128::from(i64::from_le_bytes(reader.array()?)),
        _ => return Err(reader.error(format!("{key}: value type {kind} does not exist"))),
    })
}

fn read_float<R: Read>(reader: &mut Reader<R>, kind: u32) -> Result<f64> {
    Ok(if kind == 6 {
        f64::from(f32::from_le_bytes(reader.array()?))
    } else {
        f64::from_le_bytes(reader.array()?)
    })
}

/// Bytes that an element takes at least.
fn least_bytes(kind: u32) -> Option<u64> {
    Some(match kind {
        0 | 1 | BOOL => 1,
        2 | 3 => 2,
        4..=6 => 4,
        STRING | 10..=12 => 8,
        _ => return None,
    })
}

fn read_array<R: Read>(reader: &mut Reader<R>, key: &str) -> Result<Value> {
    let kind = reader.u32()?;
    let Some(least) = least_bytes(kind) else {
        return Err(reader.error(format!("{key}: array of type {kind} is not supported")));
    };
    let count = reader.count(&format!("elements of {key}"), least)?;
    if count > ARRAY_LIMIT {
        return Err(reader.error(format!("{key}: {count} elements; at most {ARRAY_LIMIT} are read")));
    }
    Ok(match kind {
        STRING => Value::Texts((0..count).map(|_| reader.string(key)).collect::<Result<_>>()?),
        6 | 12 => {
            Value::Floats((0..count).map(|_| Ok(read_float(reader, kind)? as f32)).collect::<Result<_>>()?)
        }
        _ => Value::Ints(
            (0..count)
                .map(|_| {
                    let n = read_int(reader, key, kind)?;
                    i64::try_from(n).map_err(|_| reader.error(format!("{key}: {n} is too large")))
                })
                .collect::<Result<_>>()?,
        ),
    })
}

//! Reads the little-endian scalars and strings of a GGUF header from front to back.
//! Every length is compared with the bytes that are left before memory is taken.

use std::io::Read;

use crate::error::{Error, Result};

/// Longest string that is read. Templates and token names are far below it.
const STRING_LIMIT: u64 = 16 << 20;

/// A reader that knows where it is and how much is left.
#[derive(Debug)]
pub(super) struct Reader<R> {
    inner: R,
    at: u64,
    len: u64,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(inner: R, len: u64) -> Self {
        Self { inner, at: 0, len }
    }
    pub(super) fn at(&self) -> u64 {
        self.at
    }
    pub(super) fn left(&self) -> u64 {
        self.len - self.at
    }
    /// Length of the whole file.
    pub(super) fn len(&self) -> u64 {
        self.len
    }
    /// An error at the present place.
    pub(super) fn error(&self, problem: impl Into<String>) -> Error {
        Error::bad_data(problem).offset(self.at)
    }
    fn fill(&mut self, out: &mut [u8]) -> Result<()> {
        if out.len() as u64 > self.left() {
            return Err(self
                .error("the file ends inside its header")
                .next("the file is truncated or damaged: fetch it again"));
        }
        self.inner.read_exact(out).map_err(|e| self.error(format!("cannot read: {e}")))?;
        self.at += out.len() as u64;
        Ok(())
    }
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }
    pub(super) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }
    pub(super) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }
    /// A count of things of at least `least` bytes each, which must fit in what is left.
    pub(super) fn count(&mut self, what: &str, least: u64) -> Result<usize> {
        let count = self.u64()?;
        match count.checked_mul(least) {
            Some(bytes) if bytes <= self.left() => Ok(count as usize),
            _ => Err(self.error(format!("{count} {what} in a file with {} bytes left", self.left()))),
        }
    }
    pub(super) fn string(&mut self, what: &str) -> Result<String> {
        let length = self.count(&format!("bytes of {what}"), 1)?;
        if length as u64 > STRING_LIMIT {
            return Err(self.error(format!("{what} of {length} bytes; at most {STRING_LIMIT} are read")));
        }
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| self.error(format!("{what} is not valid UTF-8")))
    }
}

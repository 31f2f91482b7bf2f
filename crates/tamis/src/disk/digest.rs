//! SHA-256 as lower-case hex, of bytes and of files.

use std::io::Read;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::DataFile;
use crate::error::{Error, Result};

/// Bytes read or copied at a time.
pub(crate) const CHUNK: usize = 1 << 20;

/// A running SHA-256.
#[derive(Debug, Default)]
pub(crate) struct Hasher(Sha256);

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    pub(crate) fn hex(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> String {
    let mut hasher = Hasher::default();
    hasher.update(bytes);
    hasher.hex()
}

/// SHA-256 and length of a file, read in pieces.
pub fn sha256_file(path: &Path) -> Result<(String, u64)> {
    hashed(&DataFile::open(path)?)
}

/// SHA-256 of a file that must have `bytes` bytes: of another length, nothing is read.
pub fn sha256_sized(path: &Path, bytes: u64) -> Result<String> {
    let file = DataFile::open(path)?;
    if file.len() != bytes {
        let problem = format!("{} bytes, and {bytes} were recorded", file.len());
        return Err(Error::bad_data(problem).file(path).offset(bytes.min(file.len())));
    }
    hashed(&file).map(|(digest, _)| digest)
}

fn hashed(file: &DataFile) -> Result<(String, u64)> {
    let (mut hasher, mut length, mut piece) = (Hasher::default(), 0, vec![0; CHUNK]);
    loop {
        let n = file.file().read(&mut piece).map_err(|e| Error::reading(file.path(), &e))?;
        if n == 0 {
            return Ok((hasher.hex(), length));
        }
        hasher.update(&piece[..n]);
        length += n as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-2, appendix B.1.
    #[test]
    fn abc() {
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_file_and_its_bytes_agree() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let bytes = vec![7; CHUNK + 3];
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(sha256_file(&path).unwrap(), (sha256(&bytes), bytes.len() as u64));
        assert_eq!(sha256_sized(&path, bytes.len() as u64).unwrap(), sha256(&bytes));
    }

    /// Hashing a TiB takes half an hour; comparing lengths takes none.
    #[test]
    fn another_length_is_refused_unread() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(sha256_sized(&path, 7).unwrap_err().kind(), crate::Kind::BadData);
    }
}

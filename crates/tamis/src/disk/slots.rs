//! A file of which pieces are read and written in place. Knows nothing of the pieces.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::file::{irregular, options, regular_len};
use crate::error::{Error, Result};

/// An open regular file.
#[derive(Debug)]
pub(crate) struct SlotFile {
    file: File,
    path: PathBuf,
}

impl SlotFile {
    /// Opens a file, or creates an empty one. Errors: what is there is no regular file.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = match options().read(true).write(true).create(true).truncate(false).open(path) {
            Ok(file) => file,
            Err(_) if path.metadata().is_ok_and(|m| !m.is_file()) => return Err(irregular(path)),
            Err(e) => return Err(Error::writing(path, &e)),
        };
        regular_len(&file, path)?;
        Ok(Self { file, path: path.to_path_buf() })
    }
    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
    /// At most `count` bytes from `offset` on: fewer where the file ends.
    pub(crate) fn read(&mut self, offset: u64, count: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = self.file.seek(SeekFrom::Start(offset));
        let read = read.and_then(|_| (&mut self.file).take(count as u64).read_to_end(&mut bytes));
        read.map_err(|e| Error::reading(&self.path, &e).offset(offset))?;
        Ok(bytes)
    }
    /// Writes bytes at `offset`.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let written = self.file.seek(SeekFrom::Start(offset)).and_then(|_| self.file.write_all(bytes));
        written.map_err(|e| Error::writing(&self.path, &e))
    }
}

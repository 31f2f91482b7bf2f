//! A file that is read by ranges. Ranges are checked against the length before
//! memory is taken for them, so a lying header cannot ask for more than the file
//! holds. Not memory-mapped: a mapped file that another process truncates kills the
//! process, and reading is as fast for tensors that are read once.

use std::fs::File;
use std::path::{Path, PathBuf};

use bytemuck::Pod;

use crate::error::{Error, Result};
use crate::memory::zeros;

/// An open regular file and its length at that time.
#[derive(Debug)]
pub struct DataFile {
    path: PathBuf,
    file: File,
    len: u64,
}

impl DataFile {
    /// Opens a regular file.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |e: std::io::Error| Error::reading(path, &e);
        // A FIFO would block in `open`, so the kind is asked first.
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            return Err(Error::bad_data("not a regular file").file(path));
        }
        let file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        Ok(Self { path: path.to_path_buf(), file, len })
    }
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// The open file, for readers that go from front to back.
    pub fn file(&self) -> &File {
        &self.file
    }
    /// Reads `count` numbers of a fixed-size type from `offset` on, little endian as stored.
    pub fn read<T: Pod>(&self, offset: u64, count: usize) -> Result<Vec<T>> {
        let bytes = count.checked_mul(size_of::<T>()).map(|b| b as u64);
        let end = bytes.and_then(|b| offset.checked_add(b));
        if end.is_none_or(|end| end > self.len) {
            return Err(Error::bad_data("the file ends before its data").file(&self.path).offset(offset));
        }
        let mut data = zeros::<T>(count).map_err(|e| e.file(&self.path))?;
        let raw = bytemuck::cast_slice_mut(&mut data);
        read_at(&self.file, raw, offset).map_err(|e| Error::reading(&self.path, &e).offset(offset))?;
        Ok(data)
    }
}

#[cfg(unix)]
fn read_at(file: &File, out: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(windows)]
fn read_at(file: &File, mut out: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    while !out.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_read(file, out, offset)?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        out = &mut out[n..];
        offset += n as u64;
    }
    Ok(())
}

/// Reads a whole text file (JSON, a template) of at most `limit` bytes.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = DataFile::open(path)?;
    if file.len > limit {
        return Err(Error::bad_data(format!("{} bytes; at most {limit} are read", file.len)).file(path));
    }
    file.read(0, file.len as usize)
}

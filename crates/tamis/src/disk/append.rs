//! A file that is appended to while others read it: never renamed, no buffer of ours.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::atomic::sync_folder;
use super::file::open_kept;
use crate::error::{Error, Result};

/// An open file that grows.
#[derive(Debug)]
pub(crate) struct Growing {
    file: File,
    path: PathBuf,
}

impl Growing {
    /// Creates a file; none where one is there already.
    pub(crate) fn create(path: &Path) -> Result<Option<Self>> {
        match OpenOptions::new().append(true).create_new(true).open(path) {
            Ok(file) => {
                sync_folder(path)?;
                Ok(Some(Self { file, path: path.to_path_buf() }))
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(None),
            Err(e) => Err(Error::creating(path, &e)),
        }
    }
    /// Opens a file to go on at its end, or creates it. Errors: a link in its place, or no regular file.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut file = open_kept(path)?;
        file.seek(SeekFrom::End(0)).map_err(|e| Error::writing(path, &e))?;
        Ok(Self { file, path: path.to_path_buf() })
    }
    /// Appends bytes in one call.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::writing(&self.path, &e))
    }
    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

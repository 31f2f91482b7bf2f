//! A new file that is appended to while others read it: never renamed, no buffer of ours.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use super::atomic::sync_folder;
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
            Err(e) => Err(Error::writing(path, &e)),
        }
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

//! Folders and links: what is in them, and where they lead.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Creates a folder and those above it.
pub fn create_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::writing(folder, &e))
}

/// What lies in a folder, by name.
pub(crate) fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e: std::io::Error| Error::reading(folder, &e);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        paths.push(entry.map_err(failed)?.path());
    }
    paths.sort();
    Ok(paths)
}

/// Where a link leads, as it is written; none where `path` is no link.
pub(crate) fn link(path: &Path) -> Result<Option<PathBuf>> {
    let failed = |e: std::io::Error| Error::reading(path, &e);
    let is_link = std::fs::symlink_metadata(path).map_err(failed)?.is_symlink();
    is_link.then(|| std::fs::read_link(path).map_err(failed)).transpose()
}

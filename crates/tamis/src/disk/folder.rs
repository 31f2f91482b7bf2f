//! Folders and links: made, or refused before work begins; what is in them, and where they lead.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};

/// Makes a folder and those above it, unless it is there. Errors: [`Kind::CannotWrite`]; [`Kind::Io`] where the disk
/// is full.
pub fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| Error::creating(path, &e))
}

/// Errors where a folder can be neither written nor made because something else has its name, or that of a folder
/// above it. Leaves no trace.
pub fn check_folder(path: &Path) -> Result<()> {
    let Some(there) = path.ancestors().find(|above| fs::symlink_metadata(above).is_ok()) else {
        return Ok(());
    };
    match fs::metadata(there) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(Error::new(Kind::CannotWrite, "is no folder").file(there)),
        Err(e) => Err(Error::creating(there, &e)),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_a_file_cannot_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        for path in [file.clone(), file.join("a"), file.join("a/b")] {
            assert_eq!(create_folder(&path).unwrap_err().kind(), Kind::CannotWrite, "{}", path.display());
            assert_eq!(check_folder(&path).unwrap_err().kind(), Kind::CannotWrite, "{}", path.display());
        }
        let folder = dir.path().join("a/b");
        check_folder(&folder).unwrap();
        assert!(!folder.exists());
        create_folder(&folder).unwrap();
        create_folder(&folder).unwrap();
        check_folder(&folder).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_nowhere_is_no_folder() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("nowhere"), &link).unwrap();
        assert_eq!(check_folder(&link).unwrap_err().kind(), Kind::CannotWrite);
        assert_eq!(create_folder(&link).unwrap_err().kind(), Kind::CannotWrite);
    }
}

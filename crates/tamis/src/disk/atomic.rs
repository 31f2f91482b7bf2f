//! Files that are either whole or not there: written under a temporary name in the same
//! folder, fsynced, renamed, folder fsynced. Every file that tamis leaves behind goes
//! through here, except the lock file.
//!
//! Knows no format. Modes are `0666 & ~umask`, what any other program would leave.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::inside;
use crate::error::{Error, Kind, Result, is_full};

/// Middle of every temporary name: `.{name}.tamis-tmp-{pid}`.
const MARK: &str = ".tamis-tmp-";

/// A file under its temporary name; dropped before [`Pending::commit`], it is removed.
#[derive(Debug)]
pub struct Pending {
    file: Option<File>,
    temporary: PathBuf,
    target: PathBuf,
    written: u64,
    expected: u64,
}

impl Pending {
    /// Opens the temporary file beside `target`. `expected` bytes are what a full disk is
    /// reported against.
    pub fn create(target: &Path, expected: u64) -> Result<Self> {
        let name = target
            .file_name()
            .ok_or_else(|| Error::new(Kind::CannotWrite, "the path names no file").file(target))?;
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!("{MARK}{}", std::process::id()));
        let temporary = target.with_file_name(hidden);
        // A new file, so that nothing in its place is written through: a link, or what a killed process of the same
        // number has left.
        let create = || OpenOptions::new().write(true).create_new(true).open(&temporary);
        let file = create().or_else(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => fs::remove_file(&temporary).and_then(|()| create()),
            _ => Err(e),
        });
        let file = file.map_err(|e| {
            if is_full(&e) { writing(target, &e, (0, expected)) } else { Error::creating(target, &e) }
        })?;
        Ok(Self { file: Some(file), temporary, target: target.to_path_buf(), written: 0, expected })
    }

    /// Appends bytes.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let file = self.file.as_mut().expect("open until commit");
        file.write_all(bytes).map_err(|e| writing(&self.target, &e, (self.written, self.expected)))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Makes the bytes durable and gives the file its name.
    pub fn commit(mut self) -> Result<()> {
        let failed = |e: &io::Error| writing(&self.target, e, (self.written, self.expected));
        let file = self.file.take().expect("open until commit");
        file.sync_all().map_err(|e| failed(&e))?;
        drop(file);
        fs::rename(&self.temporary, &self.target).map_err(|e| failed(&e))?;
        sync_folder(&self.target)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // After a commit the temporary name is gone and this does nothing. Where it fails,
        // the next writer's `remove_leftovers` takes the file away.
        fs::remove_file(&self.temporary).ok();
    }
}

/// Writes a small file whole.
pub fn write(target: &Path, bytes: &[u8]) -> Result<()> {
    let mut pending = Pending::create(target, bytes.len() as u64)?;
    pending.append(bytes)?;
    pending.commit()
}

/// Makes the creation, renaming or removal of `entry` durable.
pub fn sync_folder(entry: &Path) -> Result<()> {
    let folder = match entry.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if cfg!(unix) {
        // Other systems cannot open a folder as a file and order renames themselves.
        File::open(folder).and_then(|f| f.sync_all()).map_err(|e| Error::writing(folder, &e))?;
    }
    Ok(())
}

/// Removes a file that may be there, durably.
pub fn remove(target: &Path) -> Result<()> {
    match fs::remove_file(target) {
        Ok(()) => sync_folder(target),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::writing(target, &e)),
    }
}

/// Removes a file, a link or a whole folder that may be there, durably.
pub fn remove_any(target: &Path) -> Result<()> {
    let is_folder = fs::symlink_metadata(target).is_ok_and(|there| there.is_dir());
    let removed = if is_folder { fs::remove_dir_all(target) } else { fs::remove_file(target) };
    match removed {
        Ok(()) => sync_folder(target),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::writing(target, &e)),
    }
}

/// Removes the folder `name` of `parent`, if it is there, and before anything else the file in it that says what it is:
/// what a crash leaves is taken for nothing. Errors: a link in its place.
pub(crate) fn remove_folder(parent: &Path, name: &str, names_it: &str) -> Result<()> {
    let folder = inside(parent, name)?;
    if folder.is_dir() {
        remove(&inside(&folder, names_it)?)?;
    }
    remove_any(&folder)
}

/// Removes the temporary files that a killed run left in `folder`. The caller holds the lock.
pub fn remove_leftovers(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| Error::reading(folder, &e))? {
        let entry = entry.map_err(|e| Error::reading(folder, &e))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.contains(MARK) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// A failed write, with the bytes that were needed where the disk is full.
fn writing(target: &Path, error: &io::Error, (written, expected): (u64, u64)) -> Error {
    if is_full(error) {
        let problem = format!("the disk is full: {expected} bytes needed, {written} written");
        return Error::new(Kind::Io, problem).file(target).next(format!(
            "free at least {} bytes and run the same command again",
            expected.saturating_sub(written)
        ));
    }
    Error::writing(target, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_file_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a");
        let mut pending = Pending::create(&target, 3).unwrap();
        pending.append(b"abc").unwrap();
        drop(pending);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn leftovers_go_and_other_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(format!(".a{MARK}1")), b"x").unwrap();
        write(&dir.path().join("kept"), b"y").unwrap();
        remove_leftovers(dir.path()).unwrap();
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["kept"]);
    }

    #[cfg(unix)]
    #[test]
    fn modes_follow_the_umask() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("plain")).unwrap();
        write(&dir.path().join("ours"), b"y").unwrap();
        let mode = |name| fs::metadata(dir.path().join(name)).unwrap().mode();
        assert_eq!(mode("ours"), mode("plain"));
    }

    #[test]
    fn a_full_disk_says_what_it_needs() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let error = writing(Path::new("m"), &full, (10, 100));
        assert_eq!(error.kind(), Kind::Io);
        assert!(error.to_string().contains("100 bytes needed"), "{error}");
        assert!(error.to_string().contains("free at least 90 bytes"), "{error}");
    }

    #[test]
    fn a_missing_folder_cannot_be_written() {
        let error = write(Path::new("/no/such/folder/file"), b"").unwrap_err();
        assert_eq!(error.kind(), Kind::CannotWrite);
    }
}

//! The folder of an unfinished run inside its output folder: locked, never reached through a link, with names that are
//! one component each. Knows nothing of what a run keeps there, but for the result that it leaves last.

use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Lock, atomic, create_folder, inside, read_small};
use crate::error::{Error, Kind, Result};

const LOCK: &str = "lock";
const RESULT: &str = "result.json";
/// Longest result that is read.
const LIMIT: u64 = 256 << 20;

/// What a run has reported, and which run it was.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reported<T> {
    identity: String,
    result: T,
}

/// The folder, locked for others until it is dropped.
#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
    _lock: Lock,
}

impl RunFolder {
    /// Creates the folder `name` in `output`, and removes unfinished files that a killed run has left in both. Errors: a
    /// link in its place; another process works there.
    pub(crate) fn create(output: &Path, name: &str) -> Result<Self> {
        create_folder(output)?;
        let path = inside(output, name)?;
        create_folder(&path)?;
        atomic::sync_folder(&path)?;
        let lock = Lock::take(&inside(&path, LOCK)?)?;
        atomic::remove_leftovers(output)?;
        atomic::remove_leftovers(&path)?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file or folder in it. Errors: those of [`inside`].
    pub(crate) fn entry(&self, name: &str) -> Result<PathBuf> {
        inside(&self.path, name)
    }

    /// Notes what the run reports. From here on all that is left to do is to remove the folder, which the same
    /// command, or any other, does if this one cannot.
    pub(crate) fn report<T: Serialize>(&self, identity: &str, result: &T) -> Result<()> {
        let json = serde_json::to_vec(&Reported { identity: identity.to_owned(), result })
            .map_err(|e| Error::new(Kind::NonFinite, format!("the result cannot be written: {e}")))?;
        atomic::write(&self.entry(RESULT)?, &json)
    }

    /// Removes the files whose names `is_gone`.
    pub(crate) fn sweep(&self, is_gone: &dyn Fn(&str) -> bool) -> Result<()> {
        for entry in fs::read_dir(&self.path).map_err(|e| Error::reading(&self.path, &e))? {
            let entry = entry.map_err(|e| Error::reading(&self.path, &e))?;
            if entry.file_name().to_str().is_some_and(is_gone) {
                atomic::remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes everything in it but the lock; `first` before anything else, so that what a crash leaves is taken for
    /// nothing, and what was reported last.
    pub(crate) fn clear(&self, first: &str) -> Result<()> {
        atomic::remove(&self.entry(first)?)?;
        for entry in fs::read_dir(&self.path).map_err(|e| Error::reading(&self.path, &e))? {
            let path = entry.map_err(|e| Error::reading(&self.path, &e))?.path();
            if path != self.path.join(LOCK) && path != self.path.join(RESULT) {
                atomic::remove_any(&path)?;
            }
        }
        atomic::remove(&self.entry(RESULT)?)
    }

    /// Removes it.
    pub(crate) fn remove(self, first: &str) -> Result<()> {
        self.clear(first)?;
        atomic::remove_any(&self.path)
    }
}

/// Removes the folder `name` of `output`, if it is there, `first` before anything else. Errors: a link in its place;
/// another process works there.
pub(crate) fn discard(output: &Path, name: &str, first: &str) -> Result<()> {
    if inside(output, name)?.exists() { RunFolder::create(output, name)?.remove(first) } else { Ok(()) }
}

/// Finishes the removal of a folder whose run was done; gives what the run reported, where it was `identity`.
pub(crate) fn finished<T: DeserializeOwned>(
    output: &Path,
    (name, first): (&str, &str),
    identity: &str,
) -> Result<Option<T>> {
    if !inside(output, name)?.exists() {
        return Ok(None);
    }
    let folder = RunFolder::create(output, name)?;
    let path = folder.entry(RESULT)?;
    if !path.exists() {
        return Ok(None);
    }
    let reported: Reported<serde_json::Value> = serde_json::from_slice(&read_small(&path, LIMIT)?)
        .map_err(|e| Error::bad_data(format!("not the result of a run: {e}")).file(&path))?;
    let ours = reported.identity == identity;
    let result = ours.then(|| serde_json::from_value(reported.result));
    let result = result
        .transpose()
        .map_err(|e| Error::bad_data(format!("not the result of such a run: {e}")).file(&path))?;
    folder.remove(first)?;
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_reported_is_given_once_to_the_same_run_and_the_folder_goes() {
        let dir = tempfile::tempdir().unwrap();
        for (identity, told) in [("a", Some(7)), ("b", None)] {
            let folder = RunFolder::create(dir.path(), ".run").unwrap();
            fs::create_dir_all(folder.entry("2").unwrap().join("deep")).unwrap();
            fs::write(dir.path().join(".curve.svg.tamis-tmp-1"), "half").unwrap();
            atomic::write(&folder.entry("record.json").unwrap(), b"{}").unwrap();
            folder.report("a", &7).unwrap();
            drop(folder);
            let place = (".run", "record.json");
            assert_eq!(finished::<i32>(dir.path(), place, identity).unwrap(), told);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
            assert_eq!(finished::<i32>(dir.path(), place, identity).unwrap(), None);
        }
    }

    #[cfg(unix)]
    #[test]
    fn nothing_behind_a_link_is_touched() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        fs::create_dir(&home).unwrap();
        fs::write(home.join("precious"), "x").unwrap();
        fs::write(home.join("lock"), "y").unwrap();
        symlink("home", dir.path().join(".run")).unwrap();
        assert_eq!(RunFolder::create(dir.path(), ".run").unwrap_err().exit_code(), 65);
        assert_eq!(discard(dir.path(), ".run", "precious").unwrap_err().exit_code(), 65);
        let there = finished::<i32>(dir.path(), (".run", "precious"), "a");
        assert_eq!(there.unwrap_err().exit_code(), 65);
        // Nor behind one in the folder.
        fs::create_dir(dir.path().join(".own")).unwrap();
        symlink("../home", dir.path().join(".own/step")).unwrap();
        symlink("../home/lock", dir.path().join(".own/lock")).unwrap();
        assert_eq!(RunFolder::create(dir.path(), ".own").unwrap_err().exit_code(), 65);
        fs::remove_file(dir.path().join(".own/lock")).unwrap();
        RunFolder::create(dir.path(), ".own").unwrap().remove("record.json").unwrap();
        assert_eq!(fs::read(home.join("precious")).unwrap(), b"x");
        assert_eq!(fs::read(home.join("lock")).unwrap(), b"y");
    }
}

//! Several files of a folder replaced as one: the new ones are made whole beside the old ones; a record of what is to
//! be swapped is the moment from which the new ones count; from there on the swap is only ever finished, by whoever
//! comes next. Before it the old files are whole and in place.
//!
//! Knows no format. One file, the `key`, says that the folder is complete: it goes first and comes last.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{RunFolder, atomic, create_folder, inside, is_plain_name, read_small};
use crate::error::{Error, Kind, Result};

/// Folder of the new files in the run folder.
pub(crate) const NEXT: &str = "next";
const RECORD: &str = "swap.json";
/// Longest record that is read.
const LIMIT: u64 = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    key: String,
    files: Vec<String>,
    gone: Vec<String>,
}

/// New files that are being made.
#[derive(Debug)]
pub(crate) struct Swap<'a> {
    folder: PathBuf,
    work: &'a RunFolder,
    next: PathBuf,
}

impl<'a> Swap<'a> {
    /// Begins to replace files of `folder`; the new ones are made inside `work`. What an earlier attempt has left
    /// there is thrown away: see [`roll_forward`] first.
    pub(crate) fn begin(folder: &Path, work: &'a RunFolder) -> Result<Self> {
        let next = work.entry(NEXT)?;
        atomic::remove(&work.entry(RECORD)?)?;
        atomic::remove_any(&next)?;
        create_folder(&next)?;
        Ok(Self { folder: folder.into(), work, next })
    }

    /// The same, with the new files that are there already.
    pub(crate) fn of(folder: &Path, work: &'a RunFolder) -> Result<Self> {
        Ok(Self { folder: folder.into(), work, next: work.entry(NEXT)? })
    }

    /// Where the new files are made.
    pub(crate) fn next(&self) -> &Path {
        &self.next
    }

    /// Puts the new files, `key` among them, in the place of the old ones and removes those that are `gone`. The record
    /// stays for the owner of the run folder to remove with it.
    pub(crate) fn commit(self, key: &str, gone: Vec<String>) -> Result<()> {
        let entries = fs::read_dir(&self.next).map_err(|e| Error::reading(&self.next, &e))?;
        let name = |entry: std::io::Result<fs::DirEntry>| {
            let name = entry.map_err(|e| Error::reading(&self.next, &e))?.file_name();
            Ok(name.to_string_lossy().into_owned())
        };
        let files = entries.map(name).collect::<Result<Vec<_>>>()?;
        if let Some(name) = files.iter().find(|name| self.folder.join(name).is_dir()) {
            let problem = "is a folder, and a file of this name is to be written";
            return Err(Error::new(Kind::CannotWrite, problem).file(self.folder.join(name)));
        }
        let record = Record { key: key.to_owned(), files, gone };
        let json = serde_json::to_vec(&record).expect("names serialise");
        atomic::sync_folder(&self.next.join(key))?;
        atomic::write(&self.work.entry(RECORD)?, &json)?;
        record.carry_out(&self.folder, self.work)
    }
}

/// Finishes a swap that was begun by a run that was killed; gives whether there was one.
pub(crate) fn roll_forward(folder: &Path, work: &RunFolder) -> Result<bool> {
    let path = work.entry(RECORD)?;
    if !path.exists() {
        return Ok(false);
    }
    let record: Record = serde_json::from_slice(&read_small(&path, LIMIT)?)
        .map_err(|e| Error::bad_data(format!("not a record of a swap: {e}")).file(&path))?;
    let names = || std::iter::once(&record.key).chain(&record.files).chain(&record.gone);
    if let Some(name) = names().find(|name| !is_plain_name(name)) {
        return Err(Error::bad_data(format!("{name:?} is not a plain file name")).file(&path));
    }
    record.carry_out(folder, work)?;
    atomic::remove(&path)?;
    Ok(true)
}

impl Record {
    /// Each step may be done twice.
    fn carry_out(&self, folder: &Path, work: &RunFolder) -> Result<()> {
        let next = work.entry(NEXT)?;
        let place = |name: &String| Ok::<_, Error>((inside(&next, name)?, folder.join(name)));
        let (new_key, key) = place(&self.key)?;
        if new_key.exists() {
            // Until the new key is there the folder is incomplete and must look like it.
            atomic::remove(&key)?;
            for name in self.files.iter().filter(|name| **name != self.key) {
                let (from, to) = place(name)?;
                if from.exists() {
                    fs::rename(&from, &to).map_err(|e| Error::writing(&to, &e))?;
                }
            }
            for name in self.gone.iter().filter(|name| !self.files.contains(name)) {
                atomic::remove(&folder.join(name))?;
            }
            atomic::sync_folder(&key)?;
            fs::rename(&new_key, &key).map_err(|e| Error::writing(&key, &e))?;
            atomic::sync_folder(&key)?;
        }
        atomic::remove_any(&next)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
        let read = |e: fs::DirEntry| {
            e.path().is_file().then(|| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap()))
        };
        fs::read_dir(folder).unwrap().filter_map(|e| read(e.unwrap())).collect()
    }

    fn old(folder: &Path) -> BTreeMap<String, Vec<u8>> {
        for name in ["key", "a", "stale", "user"] {
            atomic::write(&folder.join(name), b"old").unwrap();
        }
        files(folder)
    }

    fn make(folder: &Path, work: &RunFolder) {
        let swap = Swap::begin(folder, work).unwrap();
        for name in ["key", "a", "b"] {
            atomic::write(&swap.next().join(name), b"new").unwrap();
        }
        swap.commit("key", vec!["stale".into(), "a".into()]).unwrap();
    }

    #[test]
    fn all_files_are_old_until_all_are_new() {
        let dir = tempfile::tempdir().unwrap();
        let before = old(dir.path());
        let work = RunFolder::create(dir.path(), ".run").unwrap();
        let swap = Swap::begin(dir.path(), &work).unwrap();
        atomic::write(&swap.next().join("a"), b"half").unwrap();
        drop(swap);
        assert_eq!(files(dir.path()), before);
        assert!(!roll_forward(dir.path(), &work).unwrap());
        make(dir.path(), &work);
        let after = files(dir.path());
        assert_eq!(after.keys().collect::<Vec<_>>(), ["a", "b", "key", "user"]);
        assert_eq!(
            (&after["a"][..], &after["key"][..], &after["user"][..]),
            (&b"new"[..], &b"new"[..], &b"old"[..])
        );
    }

    /// After a crash between any two steps the swap is finished by the next one who comes.
    #[test]
    fn a_swap_that_was_interrupted_anywhere_is_finished() {
        let whole = tempfile::tempdir().unwrap();
        old(whole.path());
        make(whole.path(), &RunFolder::create(whole.path(), ".run").unwrap());
        // Steps that a crash may leave done: the key gone, a moved, b moved, stale gone, the new key in place.
        for done in 0..=5 {
            let dir = tempfile::tempdir().unwrap();
            old(dir.path());
            let work = RunFolder::create(dir.path(), ".run").unwrap();
            let swap = Swap::begin(dir.path(), &work).unwrap();
            let next = swap.next().to_path_buf();
            for name in ["key", "a", "b"] {
                atomic::write(&next.join(name), b"new").unwrap();
            }
            drop(swap);
            let record = r#"{"key":"key","files":["key","a","b"],"gone":["stale"]}"#;
            atomic::write(&work.entry(RECORD).unwrap(), record.as_bytes()).unwrap();
            let mv = |name: &str| fs::rename(next.join(name), dir.path().join(name)).unwrap();
            let steps: [&dyn Fn(); 5] = [
                &|| fs::remove_file(dir.path().join("key")).unwrap(),
                &|| mv("a"),
                &|| mv("b"),
                &|| fs::remove_file(dir.path().join("stale")).unwrap(),
                &|| mv("key"),
            ];
            steps[..done].iter().for_each(|step| step());
            assert!(roll_forward(dir.path(), &work).unwrap());
            assert_eq!(files(dir.path()), files(whole.path()), "{done} steps were done");
            assert!(!roll_forward(dir.path(), &work).unwrap());
        }
    }

    #[test]
    fn a_record_cannot_lead_out_of_the_folder() {
        for record in [
            r#"{"key":"../key","files":[],"gone":[]}"#,
            r#"{"key":"key","files":["key","a/b"],"gone":[]}"#,
            r#"{"key":"key","files":[],"gone":["../../precious"]}"#,
            r#"{"key":"key","files":[],"gone":[".run"]}"#,
            "{}",
        ] {
            let dir = tempfile::tempdir().unwrap();
            let before = old(dir.path());
            let work = RunFolder::create(dir.path(), ".run").unwrap();
            fs::create_dir(work.entry(NEXT).unwrap()).unwrap();
            atomic::write(&work.entry(NEXT).unwrap().join("key"), b"new").unwrap();
            atomic::write(&work.entry(RECORD).unwrap(), record.as_bytes()).unwrap();
            assert_eq!(roll_forward(dir.path(), &work).unwrap_err().exit_code(), 65, "{record}");
            assert_eq!(files(dir.path()), before);
        }
    }
}

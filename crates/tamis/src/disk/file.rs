//! A file that is read by ranges. Ranges are checked against the length before
//! memory is taken for them, so a lying header cannot ask for more than the file
//! holds. Not memory-mapped: a mapped file that another process truncates kills the
//! process, and reading is as fast for tensors that are read once.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read as _};
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
    /// Opens a regular file. Errors: anything else, which may have no end or block whoever reads it.
    pub fn open(path: &Path) -> Result<Self> {
        let file = match options().read(true).open(path) {
            Ok(file) => file,
            // A socket or, on some systems, a folder cannot be opened at all.
            Err(_) if path.metadata().is_ok_and(|m| !m.is_file()) => return Err(irregular(path)),
            Err(e) => return Err(Error::reading(path, &e)),
        };
        let len = regular_len(&file, path)?;
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
    /// The same as its owner.
    pub(crate) fn into_reader(self) -> BufReader<File> {
        BufReader::with_capacity(1 << 16, self.file)
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

/// Opens a file of ours to read and write, and creates it where it is missing; what is in it stays. Errors: a link
/// in its place, or anything else that is no regular file.
pub(super) fn open_kept(path: &Path) -> Result<File> {
    let mut options = options();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, FLAGS | libc::O_NOFOLLOW);
    let file = options.open(path).map_err(|e| match path.symlink_metadata() {
        Ok(there) if !there.is_file() => irregular(path),
        _ => Error::creating(path, &e),
    })?;
    regular_len(&file, path)?;
    Ok(file)
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

#[cfg(unix)]
const FLAGS: i32 = libc::O_NONBLOCK | libc::O_CLOEXEC;

/// How files are opened: a FIFO that nobody writes to must not make `open` wait, and what was opened is asked what
/// it is, so that nothing can be put in its place between question and answer.
#[cfg(unix)]
pub(super) fn options() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = OpenOptions::new();
    options.custom_flags(FLAGS);
    options
}

#[cfg(not(unix))]
pub(super) fn options() -> OpenOptions {
    OpenOptions::new()
}

/// Length of an open file. Errors: it is no regular one.
pub(super) fn regular_len(file: &File, path: &Path) -> Result<u64> {
    let metadata = file.metadata().map_err(|e| Error::reading(path, &e))?;
    if metadata.is_file() { Ok(metadata.len()) } else { Err(irregular(path)) }
}

pub(super) fn irregular(path: &Path) -> Error {
    let problem = if path.is_dir() { "a folder, not a file" } else { "not a regular file" };
    Error::bad_data(problem).file(path).next("name a regular file: pipes and devices are not read")
}

/// Length of a regular file.
pub fn len(path: &Path) -> Result<u64> {
    DataFile::open(path).map(|file| file.len)
}

/// Reads a whole file of at most `limit` bytes.
pub fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let DataFile { file, len, .. } = DataFile::open(path)?;
    let mut bytes = Vec::new();
    if len <= limit {
        // To the end and not to `len`: files under /proc give 0.
        file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| Error::reading(path, &e))?;
    }
    let found = len.max(bytes.len() as u64);
    if found > limit {
        return Err(Error::bad_data(format!("{found} bytes; at most {limit} are read")).file(path));
    }
    Ok(bytes)
}

/// The same as text.
pub fn read_text(path: &Path, limit: u64) -> Result<String> {
    utf8(read_small(path, limit)?, 0).map_err(|e| e.file(path))
}

/// Bytes from `offset` of a file on as text.
pub(crate) fn utf8(bytes: Vec<u8>, offset: u64) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| {
        let at = offset + e.utf8_error().valid_up_to() as u64;
        Error::bad_data("not UTF-8 text").offset(at).next("convert the file to UTF-8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn what_is_too_long_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparse");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let error = read_small(&path, 100).unwrap_err();
        assert_eq!((error.kind(), len(&path).unwrap()), (Kind::BadData, 1 << 40));
        std::fs::write(&path, b"ab\xff").unwrap();
        assert!(read_text(&path, 100).unwrap_err().to_string().contains("(at byte 2)"));
        assert!(read_small(&path, 2).is_err() && read_small(&path, 3).is_ok());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_that_says_it_is_empty_is_read_to_its_end() {
        assert!(read_text(Path::new("/proc/self/status"), 1 << 20).unwrap().contains("Name:"));
    }

    #[cfg(unix)]
    #[test]
    fn pipes_devices_sockets_and_folders_are_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (pipe, socket) = (dir.path().join("pipe"), dir.path().join("socket"));
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&pipe, &link).unwrap();
        for path in [&pipe, &socket, &link, Path::new("/dev/zero"), dir.path()] {
            let error = DataFile::open(path).unwrap_err();
            assert_eq!(error.kind(), Kind::BadData, "{error}");
            assert!(error.names_file(), "{error}");
        }
    }
}

//! Text from a local file: `.txt` (one document), `.jsonl` (one document a line, field `text`), either of them
//! compressed (`.gz`, `.zst`). Recognised by content, and measured before any of it is kept: what is refused
//! takes no memory. Too little text is an error of the caller; nothing is ever made up here.

use std::io::{BufRead, BufReader, Read, Take};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::disk::{DataFile, utf8};
use crate::error::{Error, Kind, Result};

/// Text beyond this is refused: a calibration set is megabytes, what a small model is trained on a gigabyte.
const MAX_BYTES: u64 = 2 << 30;
/// A document beyond this is refused: it is cut into tokens as a whole, which takes many times its bytes.
const MAX_DOCUMENT: u64 = 256 << 20;
/// Bytes that one compressed byte may stand for, past the first MiB. Text comes to ten, a decompression bomb to
/// thousands.
const MAX_RATIO: u64 = 1000;

/// One document of a calibration set.
pub type Document = String;

#[derive(Deserialize)]
struct Row {
    text: String,
}

/// The documents of a file, read one at a time.
pub struct Documents {
    path: PathBuf,
    reader: Take<Box<dyn BufRead>>,
    rest: Rest,
}

impl std::fmt::Debug for Documents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Documents").field("path", &self.path).field("rest", &self.rest).finish()
    }
}

/// What is still to be read.
#[derive(Debug, Clone, Copy)]
enum Rest {
    /// One text.
    Whole,
    /// Lines, of which so many are behind, and so many bytes.
    Lines {
        line: u64,
        offset: u64,
    },
    Nothing,
}

impl Documents {
    /// Opens a file and measures it. Errors: it is no regular file; more text than is read; a line that is
    /// longer than a document may be.
    pub fn open(path: &Path) -> Result<Self> {
        let total = measure(path)?;
        let rest = if is_json_lines(path)? { Rest::Lines { line: 0, offset: 0 } } else { Rest::Whole };
        if matches!(rest, Rest::Whole) && total > MAX_DOCUMENT {
            return Err(long_document(path));
        }
        Ok(Self { path: path.to_path_buf(), reader: decoded(path)?.0.take(total), rest })
    }

    fn whole(&mut self) -> Result<Document> {
        self.rest = Rest::Nothing;
        let mut bytes = Vec::new();
        self.reader.read_to_end(&mut bytes).map_err(|e| Error::reading(&self.path, &e))?;
        utf8(bytes, 0).map_err(|e| e.file(&self.path))
    }

    /// The next line that is not blank.
    fn row(&mut self, mut line: u64, mut offset: u64) -> Result<Option<Document>> {
        loop {
            let mut bytes = Vec::new();
            let read =
                self.reader.read_until(b'\n', &mut bytes).map_err(|e| Error::reading(&self.path, &e))?;
            if read == 0 {
                self.rest = Rest::Nothing;
                return Ok(None);
            }
            let text = utf8(bytes, offset).map_err(|e| e.file(&self.path))?;
            (line, offset) = (line + 1, offset + read as u64);
            if !text.trim().is_empty() {
                self.rest = Rest::Lines { line, offset };
                return parse_row(&text).map(Some).map_err(|e| e.file(&self.path).line(line));
            }
        }
    }
}

impl Iterator for Documents {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = match self.rest {
            Rest::Whole => self.whole().map(Some),
            Rest::Lines { line, offset } => self.row(line, offset),
            Rest::Nothing => Ok(None),
        };
        if next.is_err() {
            self.rest = Rest::Nothing;
        }
        next.transpose()
    }
}

/// Reads all documents of `path`.
pub fn read_documents(path: &Path) -> Result<Vec<Document>> {
    Documents::open(path)?.collect()
}

/// Reads a file as one text, whatever is in it.
pub fn read_text(path: &Path) -> Result<String> {
    let total = measure(path)?;
    if total > MAX_DOCUMENT {
        return Err(long_document(path));
    }
    Documents { path: path.to_path_buf(), reader: decoded(path)?.0.take(total), rest: Rest::Whole }.whole()
}

/// Opens a file, decompressed, and says how many bytes of it are read at most.
fn decoded(path: &Path) -> Result<(Box<dyn BufRead>, u64)> {
    let file = DataFile::open(path).map_err(|e| match e.kind() {
        Kind::Missing => e.next("give a .txt or .jsonl file"),
        _ => e,
    })?;
    let packed_limit = file.len().saturating_mul(MAX_RATIO).saturating_add(1 << 20).min(MAX_BYTES);
    let mut reader = file.into_reader();
    let magic = reader.fill_buf().map_err(|e| Error::reading(path, &e))?;
    Ok(if magic.starts_with(&[0x1f, 0x8b]) {
        (Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(reader))), packed_limit)
    } else if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let decoder = zstd::Decoder::with_buffer(reader).map_err(|e| Error::reading(path, &e))?;
        (Box::new(BufReader::new(decoder)), packed_limit)
    } else {
        (Box::new(reader), MAX_BYTES)
    })
}

/// Bytes of the text in a file, of which none is kept.
fn measure(path: &Path) -> Result<u64> {
    let (mut reader, limit) = decoded(path)?;
    let (mut total, mut line) = (0, 0);
    loop {
        let piece = reader.fill_buf().map_err(|e| Error::reading(path, &e))?;
        if piece.is_empty() {
            return Ok(total);
        }
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            line += part.len() as u64;
            if line > MAX_DOCUMENT {
                return Err(long_document(path));
            }
            if part.ends_with(b"\n") {
                line = 0;
            }
        }
        let read = piece.len();
        total += read as u64;
        reader.consume(read);
        if total > limit {
            return Err(too_much(path, limit));
        }
    }
}

/// Whether the first character that is not blank opens a JSON object.
fn is_json_lines(path: &Path) -> Result<bool> {
    let mut reader = decoded(path)?.0.take(MAX_BYTES);
    loop {
        let mut line = Vec::new();
        let read = reader.read_until(b'\n', &mut line).map_err(|e| Error::reading(path, &e))?;
        let text = String::from_utf8_lossy(&line);
        if read == 0 || !text.trim().is_empty() {
            return Ok(text.trim_start().starts_with('{'));
        }
    }
}

fn parse_row(line: &str) -> Result<Document> {
    serde_json::from_str::<Row>(line).map(|row| row.text).map_err(|e| {
        Error::bad_data(format!("not a JSON object with a string \"text\": {e}"))
            .next("write one {\"text\": ...} a line, or give a plain .txt file")
    })
}

fn long_document(path: &Path) -> Error {
    Error::bad_data(format!("one document of more than {} MiB", MAX_DOCUMENT >> 20))
        .file(path)
        .next("cut it into documents, one {\"text\": ...} a line, or give less text")
}

fn too_much(path: &Path, limit: u64) -> Error {
    if limit == MAX_BYTES {
        let problem = format!("more than {} GiB of text", MAX_BYTES >> 30);
        return Error::bad_data(problem)
            .file(path)
            .next("cut the file: a few megabytes are enough to calibrate");
    }
    Error::bad_data(format!("{limit} bytes and more come out of it, over {MAX_RATIO} times its size"))
        .file(path)
        .next("this is a decompression bomb or no text: decompress it yourself to see what it holds")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::error::Kind;

    fn read(bytes: &[u8]) -> Result<Vec<Document>> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        read_documents(file.path())
    }

    #[test]
    fn plain_text_is_one_document_and_json_lines_are_many() {
        assert_eq!(read(b"one\n\ntwo\n").unwrap(), ["one\n\ntwo\n"]);
        assert_eq!(read(b"{\"text\": \"a\", \"url\": 1}\n\n{\"text\": \"b\"}\n").unwrap(), ["a", "b"]);
    }

    #[test]
    fn compressed_text_reads_like_plain_text() {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(b"hello").unwrap();
        assert_eq!(read(&gz.finish().unwrap()).unwrap(), ["hello"]);
        assert_eq!(read(&zstd::encode_all(&b"hello"[..], 1).unwrap()).unwrap(), ["hello"]);
    }

    #[test]
    fn bad_text_is_named_with_its_line() {
        let error = read(b"{\"text\": \"a\"}\n{\"txt\": \"b\"}\n").unwrap_err();
        assert_eq!(error.kind(), Kind::BadData);
        assert!(error.to_string().contains(":2: "), "{error}");
        assert_eq!(read(b"ab\xff").unwrap_err().kind(), Kind::BadData);
        let truncated = &zstd::encode_all(&b"hello hello hello"[..], 1).unwrap()[..12];
        assert_eq!(read(truncated).unwrap_err().kind(), Kind::BadData);
    }

    #[test]
    fn whatever_is_blank_is_no_row_and_offsets_count_from_the_beginning() {
        assert_eq!(read(b"").unwrap(), [""]);
        assert_eq!(read(b" \n\n").unwrap(), [" \n\n"]);
        assert_eq!(read("\u{a0}\n\r\n {\"text\": \"a\"}\r\n".as_bytes()).unwrap(), ["a"]);
        let error = read(b"{\"text\": \"a\"}\n{\"text\": \"\xff\"}\n").unwrap_err().to_string();
        assert!(error.contains("(at byte 24)"), "{error}");
        let error = read(b"\n\n{\"text\": 1}\n").unwrap_err().to_string();
        assert!(error.contains(":3: "), "{error}");
    }

    /// 64 MiB of zeros come out of some 60 KB of gzip and out of 6 KB of zstd.
    #[test]
    fn a_bomb_is_refused_before_it_takes_memory() {
        let zeros = vec![0u8; 64 << 20];
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gz.write_all(&zeros).unwrap();
        for bomb in [gz.finish().unwrap(), zstd::encode_all(&zeros[..], 19).unwrap()] {
            let error = read(&bomb).unwrap_err();
            assert_eq!(error.kind(), Kind::BadData);
            assert!(error.names_file() && error.to_string().contains("bomb"), "{error}");
        }
    }

    #[test]
    fn a_sparse_file_is_refused_by_its_length() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MAX_DOCUMENT + 1).unwrap();
        for error in [read_documents(file.path()).unwrap_err(), read_text(file.path()).unwrap_err()] {
            assert!(error.to_string().contains("one document of more than 256 MiB"), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_device_has_no_end_and_is_refused() {
        assert_eq!(read_documents(Path::new("/dev/zero")).unwrap_err().kind(), Kind::BadData);
        assert_eq!(read_text(Path::new("/dev/zero")).unwrap_err().kind(), Kind::BadData);
    }

    #[test]
    fn a_text_is_read_as_it_is_even_where_it_looks_like_rows() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&zstd::encode_all(&b"{\"text\": 1}\n"[..], 1).unwrap()).unwrap();
        assert_eq!(read_text(file.path()).unwrap(), "{\"text\": 1}\n");
    }
}

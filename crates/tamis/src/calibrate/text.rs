//! Calibration text from a local file: `.txt` (one document), `.jsonl` (one document a
//! line, field `text`), either of them compressed (`.gz`, `.zst`). Recognised by content.
//! Too little text is an error of the caller; nothing is ever made up here.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};

/// Decompressed text beyond this is refused: a calibration set is megabytes, a
/// decompression bomb is not.
const MAX_BYTES: u64 = 2 << 30;

/// One document of a calibration set.
pub type Document = String;

#[derive(Deserialize)]
struct Row {
    text: String,
}

/// Reads all documents of `path`.
pub fn read_documents(path: &Path) -> Result<Vec<Document>> {
    let file = File::open(path).map_err(|e| Error::reading(path, &e).next("give a .txt or .jsonl file"))?;
    let mut reader = BufReader::new(file);
    let magic = reader.fill_buf().map_err(|e| Error::reading(path, &e))?;
    let plain: Box<dyn Read> = if magic.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::read::MultiGzDecoder::new(reader))
    } else if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(zstd::Decoder::new(reader).map_err(|e| Error::reading(path, &e))?)
    } else {
        Box::new(reader)
    };
    let mut bytes = Vec::new();
    plain.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| Error::reading(path, &e))?;
    if bytes.len() as u64 > MAX_BYTES {
        let problem = format!("more than {} GiB of text", MAX_BYTES >> 30);
        return Err(Error::bad_data(problem).file(path).next("cut the file: a few megabytes are enough"));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let offset = e.utf8_error().valid_up_to() as u64;
        Error::bad_data("not UTF-8 text").file(path).offset(offset).next("convert the file to UTF-8")
    })?;
    if text.trim_start().starts_with('{') { parse_lines(path, &text) } else { Ok(vec![text]) }
}

fn parse_lines(path: &Path, text: &str) -> Result<Vec<Document>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            serde_json::from_str::<Row>(line).map(|row| row.text).map_err(|e| {
                Error::bad_data(format!("not a JSON object with a string \"text\": {e}"))
                    .file(path)
                    .line(index as u64 + 1)
                    .next("write one {\"text\": ...} a line, or give a plain .txt file")
            })
        })
        .collect()
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
}

//! Event files that TensorBoard reads: scalars, appended one record at a time. Knows no training.
//!
//! A file is appended to and never renamed: TensorBoard follows it while it grows, and a record that a
//! killed run left half-written fails its checksum and ends the file. A run that goes on opens another file
//! in the same folder; TensorBoard shows them as one.
//!
//! Source: `tensorflow/core/lib/io/record_writer.h`, `tensorflow/core/util/event.proto`.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::disk::{Growing, create_folder, read_text};
use crate::error::{Error, Result};

/// What the first record says.
const VERSION: &str = "brain.Event:2";
/// Added to every rotated checksum: data that holds its own checksum is no weaker for it.
const MASK_DELTA: u32 = 0xa282_ead8;
/// Files that one second may bring.
const SAME_SECOND: u32 = 1000;

/// An event file that is being written.
#[derive(Debug)]
pub struct EventWriter {
    file: Growing,
}

impl EventWriter {
    /// Opens a new file in `folder`, `events.out.tfevents.SECONDS.HOST`. Errors: a folder that cannot be
    /// written.
    pub fn create(folder: &Path, started: SystemTime) -> Result<Self> {
        create_folder(folder)?;
        let stem = format!("events.out.tfevents.{:010.0}.{}", seconds(started).floor(), host());
        for count in 0..SAME_SECOND {
            let name = if count == 0 { stem.clone() } else { format!("{stem}.{count}") };
            if let Some(file) = Growing::create(&folder.join(name))? {
                let mut writer = Self { file };
                writer.append(&event(started, 0, Content::Version))?;
                return Ok(writer);
            }
        }
        Err(Error::usage(format!("{SAME_SECOND} event files of the same second"))
            .file(folder.join(stem))
            .next("wait a second and give the same command again"))
    }

    /// Appends a number under `tag`; when this returns, readers see it.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f32, at: SystemTime) -> Result<()> {
        self.append(&event(at, step, Content::Scalar(tag, value)))
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    fn append(&mut self, payload: &[u8]) -> Result<()> {
        // One call a record: records of one writer never mix.
        self.file.append(&record(payload))
    }
}

/// `length u64 | masked crc of length | payload | masked crc of payload`, little endian.
fn record(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_le_bytes();
    let mut bytes = length.to_vec();
    bytes.extend(masked(crc32c::crc32c(&length)).to_le_bytes());
    bytes.extend(payload);
    bytes.extend(masked(crc32c::crc32c(payload)).to_le_bytes());
    bytes
}

fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(MASK_DELTA)
}

enum Content<'a> {
    Version,
    Scalar(&'a str, f32),
}

/// `Event { wall_time: double = 1, step: int64 = 2, file_version: string = 3, summary: Summary = 5 }`,
/// `Summary { value: Value = 1 }`, `Value { tag: string = 1, simple_value: float = 2 }`.
fn event(at: SystemTime, step: u64, content: Content<'_>) -> Vec<u8> {
    let mut bytes = vec![0x09]; // field 1, eight bytes
    bytes.extend(seconds(at).to_le_bytes());
    if step > 0 {
        bytes.push(0x10); // field 2, varint; zero is left out, as protobuf does
        varint(step, &mut bytes);
    }
    match content {
        Content::Version => message(3, VERSION.as_bytes(), &mut bytes),
        Content::Scalar(tag, value) => {
            let (mut point, mut summary) = (Vec::new(), Vec::new());
            message(1, tag.as_bytes(), &mut point);
            point.push(0x15); // field 2, four bytes
            point.extend(value.to_le_bytes());
            message(1, &point, &mut summary);
            message(5, &summary, &mut bytes);
        }
    }
    bytes
}

/// A field with a length: text or a message.
fn message(field: u8, content: &[u8], out: &mut Vec<u8>) {
    out.push(field << 3 | 2);
    varint(content.len() as u64, out);
    out.extend(content);
}

/// Seven bits a byte, low ones first; the high bit says that more follow.
fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Name of this machine, in letters that a file name may have.
fn host() -> String {
    let read = || read_text(Path::new("/proc/sys/kernel/hostname"), 4096).ok();
    let name = read().or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let name: String = name.trim().chars().filter(plain).take(64).collect();
    if name.is_empty() { "localhost".into() } else { name }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;

    /// CRC-32C bit by bit.
    fn plain_crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { c >> 1 ^ 0x82f6_3b78 } else { c >> 1 })
        })
    }

    fn plain_mask(crc: u32) -> u32 {
        (crc / 0x8000 + crc % 0x8000 * 0x2_0000).wrapping_add(0xa282_ead8)
    }

    /// Payloads, every checksum recomputed.
    fn payloads(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes[..4].try_into().unwrap());
        while !bytes.is_empty() {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            assert_eq!(word(&bytes[8..]), plain_mask(plain_crc(&bytes[..8])));
            let payload = &bytes[12..12 + length];
            assert_eq!(word(&bytes[12 + length..]), plain_mask(plain_crc(payload)));
            all.push(payload.to_vec());
            bytes = &bytes[16 + length..];
        }
        all
    }

    #[test]
    fn every_byte_is_what_the_format_asks_for() {
        assert_eq!(plain_crc(b"123456789"), 0xe306_9283, "the check value of CRC-32C");
        let folder = tempfile::tempdir().unwrap();
        let at = |s: f64| UNIX_EPOCH + Duration::from_secs_f64(s);
        let mut writer = EventWriter::create(folder.path(), at(1_700_000_000.5)).unwrap();
        writer.scalar("loss", 300, -1.5, at(1_700_000_001.25)).unwrap();
        let name = writer.path().file_name().unwrap().to_str().unwrap().to_owned();
        assert!(name.starts_with("events.out.tfevents.1700000000."), "{name}");
        let found = payloads(&std::fs::read(writer.path()).unwrap());
        let first = [&[0x09][..], &1_700_000_000.5f64.to_le_bytes(), &[0x1a, 13], b"brain.Event:2"];
        assert_eq!(found[0], first.concat());
        let second = [
            &[0x09][..],
            &1_700_000_001.25f64.to_le_bytes(),
            &[0x10, 0xac, 0x02, 0x2a, 13, 0x0a, 11, 0x0a, 4],
            b"loss",
            &[0x15],
            &(-1.5f32).to_le_bytes(),
        ];
        assert_eq!(found[1], second.concat());
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn a_run_that_goes_on_opens_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> =
            (0..3).map(|_| EventWriter::create(folder.path(), UNIX_EPOCH).unwrap().path().into()).collect();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
        assert!(paths.iter().all(|path| payloads(&std::fs::read(path).unwrap()).len() == 1));
    }

    #[test]
    fn records_are_there_as_soon_as_they_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(folder.path(), UNIX_EPOCH).unwrap();
        for step in 0..5 {
            writer.scalar("a/b", step << 40, f32::NAN, UNIX_EPOCH).unwrap();
            assert_eq!(payloads(&std::fs::read(writer.path()).unwrap()).len(), step as usize + 2);
        }
    }
}

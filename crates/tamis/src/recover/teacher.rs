//! The dense teacher, and what it said about each sequence, kept on disk where sequences come again. Knows no
//! student.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::crown::Opinions;
use super::student::{Arithmetic, opinions};
use crate::artifact::digest::sha256;
use crate::error::{Error, Result};
use crate::model::Decoder;

/// Hex digits of a digest before each record.
const DIGEST: usize = 64;

/// A teacher for sequences of one length.
#[derive(Debug)]
pub struct Teacher {
    decoder: Decoder,
    top: usize,
    temperature: f32,
    cache: Option<(PathBuf, File)>,
}

impl Teacher {
    /// Asks `decoder` for its `top` likeliest tokens at `temperature`.
    pub fn new(decoder: Decoder, (top, temperature): (usize, f32)) -> Self {
        let top = top.min(decoder.config().vocab);
        Self { decoder, top, temperature, cache: None }
    }

    /// Keeps what it says in this file, one record a sequence, whose digest tells whether it is whole.
    pub fn keep(&mut self, path: &Path) -> Result<()> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        self.cache = Some((path.into(), file.map_err(|e| Error::writing(path, &e))?));
        Ok(())
    }

    /// The model.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// What it says about sequence `index`.
    pub fn ask(&mut self, how: Arithmetic<'_>, index: usize, tokens: &[u32]) -> Result<Opinions> {
        if let Some(known) = self.recall(index, tokens.len())? {
            return Ok(known);
        }
        let known = opinions(how, &self.decoder, (tokens, tokens.len()), (self.top, self.temperature))?;
        self.remember(index, &known)?;
        Ok(known)
    }

    fn bytes(&self, rows: usize) -> usize {
        rows * self.top * 8
    }

    fn recall(&mut self, index: usize, rows: usize) -> Result<Option<Opinions>> {
        let (size, top) = (self.bytes(rows), self.top);
        let Some((path, file)) = &mut self.cache else { return Ok(None) };
        let mut record = vec![0; DIGEST + size];
        let start = SeekFrom::Start((index * record.len()) as u64);
        match file.seek(start).and_then(|_| file.read_exact(&mut record)) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(Error::reading(path, &e)),
        }
        let (digest, payload) = record.split_at(DIGEST);
        if sha256(payload).as_bytes() != digest {
            return Ok(None);
        }
        let (ids, log_probs) = payload.split_at(size / 2);
        let words = |bytes: &[u8]| bytes.as_chunks::<4>().0.to_vec();
        Ok(Some(Opinions {
            ids: words(ids).into_iter().map(u32::from_le_bytes).collect(),
            log_probs: words(log_probs).into_iter().map(f32::from_le_bytes).collect(),
            top,
        }))
    }

    fn remember(&mut self, index: usize, known: &Opinions) -> Result<()> {
        let Some((path, file)) = &mut self.cache else { return Ok(()) };
        let mut payload: Vec<u8> = known.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        payload.extend(known.log_probs.iter().flat_map(|p| p.to_le_bytes()));
        let mut record = sha256(&payload).into_bytes();
        record.append(&mut payload);
        let start = SeekFrom::Start((index * record.len()) as u64);
        file.seek(start).and_then(|_| file.write_all(&record)).map_err(|e| Error::writing(path, &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Checkpoint;
    use crate::ops::{CacheType, Reference};
    use crate::recover::student::Checkpointing;

    #[test]
    fn what_was_said_is_recalled_and_damage_is_asked_again() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/models/llama-gqa");
        let checkpoint = Checkpoint::open(folder).unwrap();
        let load = || Teacher::new(Decoder::load(&checkpoint, &Reference).unwrap(), (4, 2.0));
        let how = Arithmetic {
            ops: &Reference,
            cache: CacheType::F32,
            exact: true,
            checkpointing: Checkpointing::Off,
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("teacher");
        let tokens: Vec<u32> = (1..9).collect();
        let fresh = load().ask(how, 3, &tokens).unwrap();
        let mut teacher = load();
        teacher.keep(&path).unwrap();
        assert_eq!(teacher.recall(3, 8).unwrap().map(|o| o.ids), None);
        assert_eq!(teacher.ask(how, 3, &tokens).unwrap().ids, fresh.ids);
        let known = teacher.recall(3, 8).unwrap().unwrap();
        assert_eq!((&known.ids, &known.log_probs), (&fresh.ids, &fresh.log_probs));
        assert!(teacher.recall(2, 8).unwrap().is_none(), "a hole in the file is no record");
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(teacher.recall(3, 8).unwrap().is_none());
        assert_eq!(teacher.ask(how, 3, &tokens).unwrap().log_probs, fresh.log_probs);
    }
}

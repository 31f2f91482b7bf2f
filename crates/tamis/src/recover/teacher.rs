//! The dense teacher, and what it said about each sequence, kept on disk where sequences come again. Knows no
//! student.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::crown::{self, Opinions};
use super::settings::Losses;
use super::student::{Arithmetic, opinions, streams};
use crate::disk::digest::sha256;
use crate::error::{Error, Result};
use crate::model::Decoder;

/// Hex digits of a digest: of the identity at the beginning, and before each record.
const DIGEST: usize = 64;

/// A teacher for sequences of one length.
#[derive(Debug)]
pub struct Teacher {
    decoder: Decoder,
    top: usize,
    temperature: f32,
    cache: Option<(PathBuf, File)>,
}

/// What a teacher has to say about some sequences; what is not learnt from is not said.
#[derive(Debug, Default)]
pub struct Said {
    /// The likeliest tokens after each.
    pub opinions: Option<Opinions>,
    /// The residual streams after each block.
    pub streams: Option<Vec<Vec<f32>>>,
}

/// Opens a file of what a teacher says: the digest `identity` of everything that decides it, then one record a
/// sequence, whose digest tells whether it is whole. Errors: a file with another identity.
pub fn open(path: &Path, identity: &str) -> Result<File> {
    assert_eq!(identity.len(), DIGEST, "an identity is a digest");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let mut file = file.map_err(|e| Error::creating(path, &e))?;
    let mut found = Vec::new();
    (&mut file).take(DIGEST as u64).read_to_end(&mut found).map_err(|e| Error::reading(path, &e))?;
    if !identity.as_bytes().starts_with(&found) {
        let problem = "this file keeps what another teacher said, or about another text";
        return Err(Error::usage(problem).file(path).next("name another file, or remove this one"));
    }
    // What is shorter was begun by a run that was killed.
    if found.len() < DIGEST {
        let written = file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(identity.as_bytes()));
        written.map_err(|e| Error::writing(path, &e))?;
    }
    Ok(file)
}

impl Teacher {
    /// Asks `decoder` for its `top` likeliest tokens at `temperature`.
    pub fn new(decoder: Decoder, (top, temperature): (usize, f32)) -> Self {
        let top = top.min(decoder.config().vocab);
        Self { decoder, top, temperature, cache: None }
    }

    /// Keeps what it says in this file: see [`open`].
    pub fn keep(&mut self, path: &Path, identity: &str) -> Result<()> {
        self.cache = Some((path.into(), open(path, identity)?));
        Ok(())
    }

    /// Whether it keeps what it says.
    pub fn keeps(&self) -> bool {
        self.cache.is_some()
    }

    /// What `losses` needs to know about the sequences at `places`, whose tokens follow one another.
    pub fn say(
        &mut self,
        how: Arithmetic<'_>,
        losses: Losses,
        (places, tokens): (&[usize], &[u32]),
    ) -> Result<Said> {
        let length = tokens.len() / places.len();
        let mut said = Said::default();
        if losses.feature > 0.0 {
            said.streams = Some(streams(how, &self.decoder, (tokens, length))?);
        }
        if losses.distillation > 0.0 {
            let mut all = Opinions { top: self.top, ..Opinions::default() };
            let width = length * self.decoder.config().hidden;
            for (i, (index, tokens)) in places.iter().zip(tokens.chunks(length)).enumerate() {
                let last = said.streams.as_ref().and_then(|s| s.last());
                let one = self.ask(how, *index, (tokens, last.map(|x| &x[i * width..][..width])))?;
                all.ids.extend(one.ids);
                all.log_probs.extend(one.log_probs);
            }
            said.opinions = Some(all);
        }
        Ok(said)
    }

    /// What it says about sequence `index`, whose last residual stream may be known.
    fn ask(
        &mut self,
        how: Arithmetic<'_>,
        index: usize,
        (tokens, last): (&[u32], Option<&[f32]>),
    ) -> Result<Opinions> {
        if let Some(known) = self.recall(index, tokens.len())? {
            return Ok(known);
        }
        let kept = (self.top, self.temperature);
        let known = match last {
            Some(x) => crown::opinions((how.ops, &self.decoder), x, kept),
            None => opinions(how, &self.decoder, (tokens, tokens.len()), kept)?,
        };
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
        let start = SeekFrom::Start((DIGEST + index * record.len()) as u64);
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
        let start = SeekFrom::Start((DIGEST + index * record.len()) as u64);
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
        let fresh = load().ask(how, 3, (&tokens, None)).unwrap();
        let losses = Losses { next_token: 0.0, distillation: 1.0, feature: 1.0, temperature: 2.0, top: 4 };
        let said = load().say(how, losses, (&[3, 5], &tokens.repeat(2))).unwrap();
        let opinions = said.opinions.unwrap();
        assert_eq!((opinions.ids, opinions.log_probs), (fresh.ids.repeat(2), fresh.log_probs.repeat(2)));
        assert_eq!(said.streams.unwrap().len(), checkpoint.config().layers.len());
        let mut teacher = load();
        let identity = sha256(b"teacher and text");
        teacher.keep(&path, &identity).unwrap();
        assert_eq!(teacher.recall(3, 8).unwrap().map(|o| o.ids), None);
        assert_eq!(teacher.ask(how, 3, (&tokens, None)).unwrap().ids, fresh.ids);
        let known = teacher.recall(3, 8).unwrap().unwrap();
        assert_eq!((&known.ids, &known.log_probs), (&fresh.ids, &fresh.log_probs));
        let error = load().keep(&path, &sha256(b"another text")).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Usage);
        let mut other = load();
        other.keep(&path, &identity).unwrap();
        assert_eq!(other.recall(3, 8).unwrap().unwrap().ids, fresh.ids, "another run finds it");
        assert!(teacher.recall(2, 8).unwrap().is_none(), "a hole in the file is no record");
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(teacher.recall(3, 8).unwrap().is_none());
        assert_eq!(teacher.ask(how, 3, (&tokens, None)).unwrap().log_probs, fresh.log_probs);
    }
}

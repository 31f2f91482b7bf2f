//! The dense teacher, and what it said about each sequence, kept on disk where sequences come again. Knows no
//! student.

use std::path::Path;

use super::crown::{self, Opinions};
use super::settings::Losses;
use super::student::{Arithmetic, opinions, streams};
use crate::disk::SlotFile;
use crate::disk::digest::sha256;
use crate::error::{Error, Result};
use crate::model::Decoder;

/// Hex digits of a digest: of the identity at the beginning, and before each record.
const DIGEST: usize = 64;
/// How far rounding may lift the sum of a row's probabilities above 1.
const ROUNDING: f64 = 1e-3;

/// A teacher for sequences of one length.
#[derive(Debug)]
pub struct Teacher {
    decoder: Decoder,
    top: usize,
    temperature: f32,
    cache: Option<Cache>,
}

/// What a teacher has to say about some sequences; what is not learnt from is not said.
#[derive(Debug, Default)]
pub struct Said {
    /// The likeliest tokens after each.
    pub opinions: Option<Opinions>,
    /// The residual streams after each block.
    pub streams: Option<Vec<Vec<f32>>>,
}

/// A file of what a teacher says: the digest of everything that decides it, then one record a sequence, whose own
/// digest tells whether it is whole.
#[derive(Debug)]
pub struct Cache(SlotFile);

/// Opens the file that belongs to `identity`, or begins it. Errors: it is about something else, and is left
/// as it is.
pub fn open(path: &Path, identity: &str) -> Result<Cache> {
    assert_eq!(identity.len(), DIGEST, "an identity is a digest");
    let mut file = SlotFile::open(path)?;
    let found = file.read(0, DIGEST)?;
    if !identity.as_bytes().starts_with(&found) {
        let problem = "this file keeps what another teacher said, or about another text, or is none of ours";
        return Err(Error::usage(problem).file(path).next("name another file, or remove this one"));
    }
    // What is shorter was begun by a run that was killed.
    if found.len() < DIGEST {
        file.write(0, identity.as_bytes())?;
    }
    Ok(Cache(file))
}

impl Cache {
    /// What was said about sequence `index`: `(rows, top)` tokens of a vocabulary. None where there is no whole
    /// record. Errors: a record that is whole, and that no teacher can have said.
    fn recall(
        &mut self,
        index: usize,
        (rows, top): (usize, usize),
        vocab: usize,
    ) -> Result<Option<Opinions>> {
        let count = rows * top;
        let start = place(index, count);
        let record = self.0.read(start, record_bytes(count))?;
        let Some((digest, payload)) = record.split_at_checked(DIGEST) else { return Ok(None) };
        if payload.len() != 8 * count || sha256(payload).as_bytes() != digest {
            return Ok(None);
        }
        let (ids, log_probs) = payload.as_chunks::<4>().0.split_at(count);
        let known = Opinions {
            ids: ids.iter().copied().map(u32::from_le_bytes).collect(),
            log_probs: log_probs.iter().copied().map(f32::from_le_bytes).collect(),
            top,
        };
        check(&known, vocab).map_err(|(row, problem)| {
            let problem = format!("record {index}: row {row} of what the teacher said: {problem}");
            let offset = start + (DIGEST + 4 * top * row) as u64;
            Error::bad_data(problem)
                .file(self.0.path())
                .offset(offset)
                .next("remove this file: it is written again, at the price of asking the teacher again")
        })?;
        Ok(Some(known))
    }

    fn remember(&mut self, index: usize, known: &Opinions) -> Result<()> {
        let mut payload: Vec<u8> = known.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        payload.extend(known.log_probs.iter().flat_map(|p| p.to_le_bytes()));
        let mut record = sha256(&payload).into_bytes();
        record.append(&mut payload);
        self.0.write(place(index, known.ids.len()), &record)
    }
}

/// Bytes of a record of `count` tokens: digest, ids, log-probabilities.
fn record_bytes(count: usize) -> usize {
    DIGEST + 8 * count
}

/// Where record `index` begins, all having `count` tokens.
fn place(index: usize, count: usize) -> u64 {
    (DIGEST + index * record_bytes(count)) as u64
}

/// Row and reason where opinions are none: ids must be of the vocabulary and ascend, probabilities must be
/// probabilities.
fn check(known: &Opinions, vocab: usize) -> Result<(), (usize, String)> {
    let rows = known.ids.chunks(known.top).zip(known.log_probs.chunks(known.top));
    for (row, (ids, log_probs)) in rows.enumerate() {
        let refuse = |problem: String| Err((row, problem));
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
            return refuse(format!("token {id} of a vocabulary of {vocab}"));
        }
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] >= pair[1]) {
            return refuse(format!("token {} after {}, and they ascend", pair[1], pair[0]));
        }
        if let Some(p) = log_probs.iter().find(|p| !p.is_finite()) {
            return refuse(format!("a log-probability of {p}"));
        }
        let sum: f64 = log_probs.iter().map(|p| f64::from(*p).exp()).sum();
        if sum > 1.0 + ROUNDING {
            return refuse(format!("probabilities that sum to {sum}"));
        }
    }
    Ok(())
}

impl Teacher {
    /// Asks `decoder` for its `top` likeliest tokens at `temperature`.
    pub fn new(decoder: Decoder, (top, temperature): (usize, f32)) -> Self {
        let top = top.min(decoder.config().vocab);
        Self { decoder, top, temperature, cache: None }
    }

    /// Keeps what it says in this file: see [`open`].
    pub fn keep(&mut self, path: &Path, identity: &str) -> Result<()> {
        self.cache = Some(open(path, identity)?);
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
        let vocab = self.decoder.config().vocab;
        let size = (tokens.len(), self.top);
        if let Some(cache) = &mut self.cache
            && let Some(known) = cache.recall(index, size, vocab)?
        {
            return Ok(known);
        }
        let kept = (self.top, self.temperature);
        let known = match last {
            Some(x) => crown::opinions((how.ops, &self.decoder), x, kept),
            None => opinions(how, &self.decoder, (tokens, tokens.len()), kept)?,
        };
        // A teacher that has diverged ends the run, and nothing of it is kept.
        if let Some(cache) = self.cache.as_mut().filter(|_| check(&known, vocab).is_ok()) {
            cache.remember(index, &known)?;
        }
        Ok(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Checkpoint;
    use crate::ops::{CacheType, Reference};
    use crate::recover::student::Checkpointing;

    fn recall(teacher: &mut Teacher, index: usize) -> Result<Option<Opinions>> {
        let vocab = teacher.decoder.config().vocab;
        teacher.cache.as_mut().unwrap().recall(index, (8, teacher.top), vocab)
    }

    fn sound() -> Opinions {
        Opinions { ids: vec![1, 4, 0, 9], log_probs: vec![-0.7, -0.7, -0.1, -9.0], top: 2 }
    }

    #[test]
    fn what_no_teacher_says_is_refused_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let change = |id: usize, to: u32, log_prob: f32| {
            let mut known = sound();
            (known.ids[id], known.log_probs[id]) = (to, log_prob);
            known
        };
        let wrong = [
            change(2, 10, -0.1),
            change(3, 0, -0.1),
            change(3, 9, f32::NAN),
            change(3, 9, f32::INFINITY),
            change(3, 9, f32::NEG_INFINITY),
            change(3, 9, 0.5),
        ];
        for (i, known) in wrong.iter().enumerate() {
            let path = dir.path().join(i.to_string());
            let mut cache = open(&path, &sha256(b"x")).unwrap();
            cache.remember(1, &sound()).unwrap();
            assert_eq!(cache.recall(1, (2, 2), 10).unwrap().unwrap().ids, sound().ids);
            cache.remember(1, known).unwrap();
            let error = cache.recall(1, (2, 2), 10).unwrap_err();
            let text = error.to_string();
            assert_eq!(error.kind(), crate::Kind::BadData);
            // The head, a record of two rows, a digest, the first row.
            let place = 64 + (64 + 32) + 64 + 8;
            assert!(
                text.contains("record 1: row 1") && text.contains(&format!("(at byte {place})")),
                "{text}"
            );
            assert!(error.names_file() && text.contains("remove this file"), "{text}");
        }
    }

    #[test]
    fn a_file_of_somebody_else_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (path, identity) = (dir.path().join("letter"), sha256(b"x"));
        for text in ["Dear reader", &"a letter of more than a digest's length. ".repeat(9)] {
            std::fs::write(&path, text).unwrap();
            let error = open(&path, &identity).unwrap_err();
            assert_eq!(error.kind(), crate::Kind::Usage);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), *text);
        }
        assert_eq!(open(dir.path(), &identity).unwrap_err().kind(), crate::Kind::BadData);
    }

    #[test]
    fn a_file_that_was_cut_anywhere_gives_whole_records_only() {
        let dir = tempfile::tempdir().unwrap();
        let (path, identity) = (dir.path().join("teacher"), sha256(b"x"));
        let mut cache = open(&path, &identity).unwrap();
        (0..2).for_each(|index| cache.remember(index, &sound()).unwrap());
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(whole.len(), 64 + 2 * 96);
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut cache = open(&path, &identity).unwrap();
            for index in 0..2 {
                let found = cache.recall(index, (2, 2), 10).unwrap().is_some();
                assert_eq!(found, cut >= 64 + (index + 1) * 96, "cut at {cut}, record {index}");
            }
        }
    }

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
        assert_eq!(recall(&mut teacher, 3).unwrap().map(|o| o.ids), None);
        assert_eq!(teacher.ask(how, 3, (&tokens, None)).unwrap().ids, fresh.ids);
        let known = recall(&mut teacher, 3).unwrap().unwrap();
        assert_eq!((&known.ids, &known.log_probs), (&fresh.ids, &fresh.log_probs));
        let error = load().keep(&path, &sha256(b"another text")).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Usage);
        let mut other = load();
        other.keep(&path, &identity).unwrap();
        assert_eq!(recall(&mut other, 3).unwrap().unwrap().ids, fresh.ids, "another run finds it");
        assert!(recall(&mut teacher, 2).unwrap().is_none(), "a hole in the file is no record");
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(recall(&mut teacher, 3).unwrap().is_none());
        assert_eq!(teacher.ask(how, 3, (&tokens, None)).unwrap().log_probs, fresh.log_probs);
    }
}

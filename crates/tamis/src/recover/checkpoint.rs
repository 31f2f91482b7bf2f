//! A training run on disk: masters and moments of the last validation, masters of the best ones, and a record
//! that names all. The record is replaced last, so a run that was killed finds the state before or after,
//! never between.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::parameters::Parameters;
use super::report::Point;
use crate::artifact::numbers;
use crate::disk::{Lock, atomic, create_folder};
use crate::error::{Error, Kind, Result};

/// Name of the folder inside the output folder.
pub const FOLDER: &str = ".training";
const RECORD: &str = "record.json";

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Digest of settings, model, texts and teacher.
    pub identity: String,
    /// Steps done.
    pub step: usize,
    /// Sequences of the order that were passed over.
    pub skipped: usize,
    /// Factor on the learning rate, halved after numbers that are not finite.
    pub rate: f64,
    /// Validations since the best one.
    pub stale: usize,
    /// All validations.
    pub history: Vec<Point>,
    /// Masters and moments.
    last: Saved,
    /// Masters of the best validations, the best first.
    best: Vec<Kept>,
}

/// A validation whose masters are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// Steps done.
    pub step: usize,
    /// Loss on the validation text.
    pub valid: f64,
    saved: Saved,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    file: String,
    sha256: String,
}

/// The folder of a run, locked for others.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: Lock,
}

impl Folder {
    /// Creates it in `output`. Errors: another process trains there.
    pub fn create(output: &Path) -> Result<Self> {
        let path = output.join(FOLDER);
        create_folder(&path)?;
        let lock = Lock::take(&path.join("lock"))?;
        atomic::remove_leftovers(&path)?;
        Ok(Self { path, _lock: lock })
    }
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The record of an earlier run as it was written; empty where there is none.
    pub fn record(&self) -> Result<Vec<u8>> {
        let path = self.path.join(RECORD);
        if !path.exists() {
            return Ok(Vec::new());
        }
        fs::read(&path).map_err(|e| Error::reading(&path, &e))
    }

    /// Removes everything.
    pub fn clear(&self) -> Result<()> {
        atomic::remove_folder(&self.path, RECORD)
    }

    /// Writes masters and moments, and the masters once more where they are among the `keep` best so far; then the
    /// record with all names in it, and removes what it no longer names.
    pub fn save(&self, parameters: &Parameters, record: &mut Record, keep: usize) -> Result<()> {
        let old = record.files();
        record.last =
            self.write(format!("step-{:07}.safetensors", record.step), &vectors(parameters, &ALL))?;
        if let Some((step, valid)) = record.history.last().map(|point| (point.step, point.valid)) {
            // Of equals the earlier one is better.
            let place = record.best.partition_point(|kept| kept.valid <= valid);
            if place < keep {
                let name = format!("best-{step:07}.safetensors");
                let saved = self.write(name, &vectors(parameters, &ALL[..1]))?;
                record.best.insert(place, Kept { step, valid, saved });
                record.best.truncate(keep);
            }
        }
        let json = serde_json::to_vec_pretty(record)
            .map_err(|e| Error::new(Kind::NonFinite, format!("the record cannot be written: {e}")))?;
        atomic::write(&self.path.join(RECORD), &json)?;
        let named = record.files();
        let gone = old.iter().filter(|file| !file.is_empty() && !named.contains(file));
        gone.into_iter().try_for_each(|file| atomic::remove(&self.path.join(file)))
    }

    fn write(&self, file: String, vectors: &[numbers::Array<'_>]) -> Result<Saved> {
        let sha256 = numbers::write(&self.path.join(&file), vectors)?;
        Ok(Saved { file, sha256 })
    }

    /// Reads masters and moments.
    pub fn restore(&self, parameters: &mut Parameters, record: &Record) -> Result<()> {
        self.read(parameters, &record.last, &ALL)
    }

    /// Reads the masters of the validation at `place` among the best, from 0; leaves them as they are where there
    /// is none.
    pub fn restore_kept(&self, parameters: &mut Parameters, record: &Record, place: usize) -> Result<()> {
        record.best.get(place).map_or(Ok(()), |kept| self.read(parameters, &kept.saved, &ALL[..1]))
    }

    fn read(&self, parameters: &mut Parameters, saved: &Saved, kinds: &[Part]) -> Result<()> {
        let file = numbers::Numbers::open(&self.path.join(&saved.file), &saved.sha256)?;
        for part in kinds {
            for p in parameters.all_mut() {
                let (name, len) = (format!("{part:?}.{}", p.name), p.values.len());
                // One array is there twice at any moment.
                *part.of_mut(p) = file.read(&name, len)?;
            }
        }
        Ok(())
    }
}

impl Record {
    /// Before the first step.
    pub fn new(identity: String) -> Self {
        let last = Saved { file: String::new(), sha256: String::new() };
        Self { identity, step: 0, skipped: 0, rate: 1.0, stale: 0, history: vec![], last, best: vec![] }
    }

    /// The best validations, the best first.
    pub fn kept(&self) -> &[Kept] {
        &self.best
    }

    fn files(&self) -> Vec<String> {
        self.best.iter().map(|kept| &kept.saved).chain([&self.last]).map(|saved| saved.file.clone()).collect()
    }

    /// What was written. Errors: a record of another run.
    pub fn parse(bytes: &[u8], identity: &str) -> Result<Self> {
        let record: Self = serde_json::from_slice(bytes)
            .map_err(|e| Error::bad_data(format!("{RECORD} is not a record of a training run: {e}")))?;
        if record.identity != identity {
            return Err(Error::usage(
                "this folder holds an unfinished run with other settings, model or text",
            )
            .next("give the same command again, another output folder, or --resume never"));
        }
        Ok(record)
    }
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Values,
    Mean,
    Square,
}

const ALL: [Part; 3] = [Part::Values, Part::Mean, Part::Square];

impl Part {
    fn of(self, p: &super::parameters::Parameter) -> &[f32] {
        match self {
            Self::Values => &p.values,
            Self::Mean => &p.m,
            Self::Square => &p.v,
        }
    }
    fn of_mut(self, p: &mut super::parameters::Parameter) -> &mut Vec<f32> {
        match self {
            Self::Values => &mut p.values,
            Self::Mean => &mut p.m,
            Self::Square => &mut p.v,
        }
    }
}

fn vectors<'a>(parameters: &'a Parameters, parts: &[Part]) -> Vec<numbers::Array<'a>> {
    let of = |part: &Part| {
        let part = *part;
        parameters
            .all()
            .iter()
            .map(move |p| (format!("{part:?}.{}", p.name), vec![p.values.len()], part.of(p)))
    };
    parts.iter().flat_map(of).collect()
}

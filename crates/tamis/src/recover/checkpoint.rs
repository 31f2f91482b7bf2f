//! A training run on disk: masters and moments of the last validation, masters of the best ones, and a record
//! that names all. The record is replaced last, so a run that was killed finds the state before or after,
//! never between.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::parameters::Parameters;
use super::report::{Account, Point};
use super::settings::Settings;
use crate::artifact::numbers;
use crate::disk::{self, RunFolder, atomic, inside, read_small};
use crate::error::{Error, Kind, Result};

/// Name of the folder inside the output folder.
pub const FOLDER: &str = ".training";
const RECORD: &str = "record.json";
const PUBLISHING: &str = "publishing";
/// Longest record that is read.
const LIMIT: u64 = 64 << 20;
/// Passes over the whole run that may have failed, over all its resumptions.
const RETREATS: usize = 64;

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

/// A file of arrays. Its name follows from the step, so that no name is ever taken from a record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    sha256: String,
}

/// The file of masters and moments after `step`.
fn last_file(step: usize) -> String {
    format!("step-{step:07}.safetensors")
}

/// The file of the masters of the validation at `step`.
fn best_file(step: usize) -> String {
    format!("best-{step:07}.safetensors")
}

/// The folder of a run, locked for others.
#[derive(Debug)]
pub struct Folder(RunFolder);

impl Folder {
    /// Creates it in `output`. Errors: another process trains there.
    pub fn create(output: &Path) -> Result<Self> {
        RunFolder::create(output, FOLDER).map(Self)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The record of an earlier run as it was written; empty where there is none.
    pub fn record(&self) -> Result<Vec<u8>> {
        let path = self.0.entry(RECORD)?;
        if path.exists() { read_small(&path, LIMIT) } else { Ok(Vec::new()) }
    }

    /// Notes that the result of the run `identity` is being written: from here on what is finished in the output
    /// folder is its own, or was to be replaced by it.
    pub fn publish(&self, identity: &str) -> Result<()> {
        atomic::write(&self.0.entry(PUBLISHING)?, identity.as_bytes())
    }

    /// Notes what the run `identity` reports, and removes everything.
    pub fn finish(self, identity: &str, account: &Account) -> Result<()> {
        self.0.report(identity, account)?;
        self.0.remove(RECORD)
    }

    /// Writes masters and moments, and the masters once more where they are among the `keep` best so far; then the
    /// record, and removes what it no longer names.
    pub fn save(&self, parameters: &Parameters, record: &mut Record, keep: usize) -> Result<()> {
        record.last = self.write(last_file(record.step), &vectors(parameters, &ALL))?;
        if let Some((step, valid)) = record.history.last().map(|point| (point.step, point.valid)) {
            // Of equals the earlier one is better.
            let place = record.best.partition_point(|kept| kept.valid <= valid);
            if place < keep {
                let saved = self.write(best_file(step), &vectors(parameters, &ALL[..1]))?;
                record.best.insert(place, Kept { step, valid, saved });
                record.best.truncate(keep);
            }
        }
        let json = serde_json::to_vec_pretty(record)
            .map_err(|e| Error::new(Kind::NonFinite, format!("the record cannot be written: {e}")))?;
        atomic::write(&self.0.entry(RECORD)?, &json)?;
        let named = record.files();
        self.0.sweep(&|name| name.ends_with(".safetensors") && !named.iter().any(|file| file == name))
    }

    fn write(&self, file: String, vectors: &[numbers::Array<'_>]) -> Result<Saved> {
        let sha256 = numbers::write(&self.0.entry(&file)?, vectors)?;
        Ok(Saved { sha256 })
    }

    /// Reads masters and moments.
    pub fn restore(&self, parameters: &mut Parameters, record: &Record) -> Result<()> {
        self.read(parameters, (&last_file(record.step), &record.last), &ALL)
    }

    /// Reads the masters of the validation at `place` among the best, from 0; leaves them as they are where there
    /// is none.
    pub fn restore_kept(&self, parameters: &mut Parameters, record: &Record, place: usize) -> Result<()> {
        let Some(kept) = record.best.get(place) else { return Ok(()) };
        self.read(parameters, (&best_file(kept.step), &kept.saved), &ALL[..1])
    }

    fn read(&self, parameters: &mut Parameters, (file, saved): (&str, &Saved), kinds: &[Part]) -> Result<()> {
        let file = numbers::Numbers::open(&self.0.entry(file)?, &saved.sha256)?;
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

/// Finishes the removal of a folder whose run was done; gives what it reported, where it was `identity`.
pub(super) fn reported(output: &Path, identity: &str) -> Result<Option<Account>> {
    disk::finished(output, (FOLDER, RECORD), identity)
}

/// The identity of the run that was writing its result to `output` when it was killed, if one was.
pub(super) fn publishing(output: &Path) -> Result<Option<Vec<u8>>> {
    let path = inside(&inside(output, FOLDER)?, PUBLISHING)?;
    path.exists().then(|| read_small(&path, LIMIT)).transpose()
}

/// Throws away what an unfinished run has left in `output`.
pub(crate) fn discard(output: &Path) -> Result<()> {
    disk::discard(output, FOLDER, RECORD)
}

impl Record {
    /// Before the first step.
    pub fn new(identity: String) -> Self {
        let last = Saved { sha256: String::new() };
        Self { identity, step: 0, skipped: 0, rate: 1.0, stale: 0, history: vec![], last, best: vec![] }
    }

    /// The best validations, the best first.
    pub fn kept(&self) -> &[Kept] {
        &self.best
    }

    /// The files that belong to it.
    fn files(&self) -> Vec<String> {
        self.best.iter().map(|kept| best_file(kept.step)).chain([last_file(self.step)]).collect()
    }

    /// Errors: what no run with these settings can have written.
    pub fn check(&self, settings: &Settings) -> Result<()> {
        let Settings { steps, batch, keep, .. } = *settings;
        let of = |what: &str| Error::bad_data(format!("{RECORD}: {what}")).next("--resume never begins anew");
        let passed_over = steps.saturating_mul(batch).saturating_mul(RETREATS);
        if self.step > steps || self.skipped > passed_over || self.stale > self.history.len() {
            return Err(of("more steps were done or passed over than there are"));
        }
        if !(self.rate > 0.0 && self.rate <= 1.0) {
            return Err(of("the factor on the learning rate is not in (0, 1]"));
        }
        if !self.history.is_sorted_by(|a, b| a.step < b.step)
            || self.history.last().map(|point| point.step) != Some(self.step)
        {
            return Err(of("the last validation is not that of the last step"));
        }
        if !self.history.iter().all(Point::is_sane) {
            return Err(of("a validation holds numbers that are no measurements"));
        }
        let is_known =
            |kept: &Kept| self.history.iter().any(|p| (p.step, p.valid) == (kept.step, kept.valid));
        let sorted = self.best.is_sorted_by(|a, b| a.valid <= b.valid && a.step != b.step);
        if self.best.is_empty() || self.best.len() > keep || !sorted || !self.best.iter().all(is_known) {
            return Err(of("the states that were kept are not those of the best validations"));
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::trainable::Method;
    use super::super::trainer_tests::settings;
    use super::*;

    fn point(step: usize, valid: f64) -> Value {
        json!({
            "step": step, "epoch": 0.5, "valid": valid, "also": null, "train": null, "divergence": null,
            "feature": null, "rate": 1e-3, "grad_norm": 1.0, "tokens_per_second": null, "seconds": 1.0,
        })
    }

    fn good() -> Value {
        json!({
            "identity": "a", "step": 4, "skipped": 0, "rate": 0.5, "stale": 0,
            "history": [point(0, 3.0), point(4, 2.0)], "last": { "sha256": "0" },
            "best": [{ "step": 4, "valid": 2.0, "saved": { "sha256": "1" } }],
        })
    }

    /// Places of a record and what a hostile or unlucky hand may put there.
    #[test]
    fn what_no_run_has_written_is_refused() {
        let settings = Settings { steps: 9, batch: 2, keep: 2, ..settings(Method::Masked) };
        let check = |record: &Value| {
            Record::parse(record.to_string().as_bytes(), "a").and_then(|record| record.check(&settings))
        };
        check(&good()).unwrap();
        for (place, value) in [
            ("/step", json!(10)),
            ("/step", json!(3)),
            ("/skipped", json!(u64::MAX)),
            ("/rate", json!(-1.0)),
            ("/rate", json!(0.0)),
            ("/rate", json!(2.0)),
            ("/stale", json!(3)),
            ("/history", json!([])),
            ("/history/0/step", json!(4)),
            ("/history/1/valid", json!(1e308)),
            ("/history/1/seconds", json!(-1.0)),
            ("/best", json!([])),
            ("/best/0/step", json!(0)),
            ("/best/0/valid", json!(1.0)),
            ("/best/0/saved", json!({ "file": "../../precious", "sha256": "1" })),
            ("/last", json!({ "file": "../../precious", "sha256": "0" })),
        ] {
            let mut record = good();
            *record.pointer_mut(place).unwrap() = value.clone();
            let error = check(&record).unwrap_err();
            assert_eq!(error.exit_code(), 65, "{place} = {value}: {error}");
        }
    }
}

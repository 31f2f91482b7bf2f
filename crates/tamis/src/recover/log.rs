//! `metrics.jsonl`: one line a step and one a validation, in order, without what a killed run did after its
//! last save. Knows no model.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::crown::Losses;
use super::report::Point;
use crate::artifact::atomic;
use crate::error::{Error, Result};

/// Name of the file.
pub const METRICS: &str = "metrics.jsonl";

/// An open log.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens the log of a run that stands at `step`; lines about later steps are dropped.
    pub fn open(output: &Path, step: usize) -> Result<Self> {
        let path = output.join(METRICS);
        truncate(&path, step)?;
        Ok(Self { file: append(&path)?, path })
    }

    /// Goes back to `step`.
    pub fn rewind(&mut self, step: usize) -> Result<()> {
        truncate(&self.path, step)?;
        self.file = append(&self.path)?;
        Ok(())
    }

    /// Means over the rows of a step.
    pub fn step(
        &mut self,
        step: usize,
        losses: &Losses,
        rows: usize,
        (rate, grad_norm): (f64, f64),
    ) -> Result<()> {
        let mean = |sum: f64| sum / rows as f64;
        self.line(json!({
            "step": step,
            "loss": mean(losses.next_token),
            "divergence": mean(losses.divergence),
            "rate": rate,
            "grad_norm": grad_norm,
        }))
    }

    /// A validation.
    pub fn point(&mut self, point: &Point) -> Result<()> {
        self.line(json!({ "step": point.step, "validation": point }))
    }

    fn line(&mut self, value: Value) -> Result<()> {
        writeln!(self.file, "{value}").map_err(|e| Error::writing(&self.path, &e))
    }
}

fn append(path: &Path) -> Result<File> {
    OpenOptions::new().append(true).create(true).open(path).map_err(|e| Error::writing(path, &e))
}

fn truncate(path: &Path, step: usize) -> Result<()> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::reading(path, &e)),
    };
    let early = |line: &&str| {
        let value: Option<Value> = serde_json::from_str(line).ok();
        value.and_then(|v| v["step"].as_u64()).is_some_and(|s| s <= step as u64 && (step > 0 || s > 0))
    };
    let kept: String = text.lines().filter(early).flat_map(|line| [line, "\n"]).collect();
    atomic::write(path, kept.as_bytes())
}

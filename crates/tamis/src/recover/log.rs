//! `metrics.jsonl`: one line a step and one a validation, in order, without what a killed run did after its
//! last save; and the same numbers as a TensorBoard event file. Knows no model.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Value, json};

use super::crown::Losses;
use super::report::Point;
use super::tensorboard::EventWriter;
use crate::disk::{Growing, atomic, read_text};
use crate::error::{Error, Result};

/// Name of the file.
pub const METRICS: &str = "metrics.jsonl";
/// Longest log that is read.
const LONGEST: u64 = 1 << 30;

/// An open log.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: Growing,
    events: EventWriter,
}

impl Log {
    /// Opens the log of a run that goes on after `step`, and drops lines about later ones; or of one that begins.
    pub fn open(output: &Path, step: Option<usize>) -> Result<Self> {
        let path = output.join(METRICS);
        match step {
            Some(step) => truncate(&path, step)?,
            None => atomic::remove(&path)?,
        }
        let events = EventWriter::create(output, SystemTime::now())?;
        Ok(Self { file: Growing::open(&path)?, path, events })
    }

    /// Goes back to `step`.
    pub fn rewind(&mut self, step: usize) -> Result<()> {
        truncate(&self.path, step)?;
        self.file = Growing::open(&self.path)?;
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
        let tags = [
            ("train/loss", mean(losses.next_token)),
            ("train/divergence", mean(losses.divergence)),
            ("train/feature", mean(losses.feature)),
            ("train/rate", rate),
            ("train/grad_norm", grad_norm),
        ];
        self.scalars(step, &tags)?;
        self.line(json!({
            "step": step,
            "loss": mean(losses.next_token),
            "divergence": mean(losses.divergence),
            "feature": mean(losses.feature),
            "rate": rate,
            "grad_norm": grad_norm,
        }))
    }

    /// A validation.
    pub fn point(&mut self, point: &Point) -> Result<()> {
        self.scalars(point.step, &validation(point))?;
        self.line(json!({ "step": point.step, "validation": point }))
    }

    /// A line of another log.
    fn replay(&mut self, step: usize, line: Value) -> Result<()> {
        if let Ok(point) = serde_json::from_value::<Point>(line["validation"].clone()) {
            self.scalars(step, &validation(&point))?;
        } else {
            for (name, value) in line.as_object().into_iter().flatten() {
                if let Some(value) = value.as_f64().filter(|_| name != "step" && name != "stage") {
                    self.scalars(step, &[(&format!("train/{name}"), value)])?;
                }
            }
        }
        self.line(line)
    }

    fn scalars(&mut self, step: usize, tags: &[(&str, f64)]) -> Result<()> {
        let now = SystemTime::now();
        tags.iter().try_for_each(|(tag, value)| self.events.scalar(tag, step as u64, *value as f32, now))
    }

    fn line(&mut self, value: Value) -> Result<()> {
        self.file.append(format!("{value}\n").as_bytes())
    }
}

/// What is drawn of a validation.
fn validation(point: &Point) -> Vec<(&'static str, f64)> {
    let mut tags = vec![("validation/loss", point.valid), ("validation/perplexity", point.perplexity())];
    tags.extend(point.also.map(|also| ("also/perplexity", also.exp())));
    tags.extend(point.tokens_per_second.map(|speed| ("train/tokens_per_second", speed)));
    tags
}

/// Writes the logs of runs that followed one another, each with its number of steps, as one: steps go on, and every
/// line names its run, counted from 1.
pub fn join(output: &Path, logs: &[(PathBuf, usize)]) -> Result<()> {
    let mut whole = Log::open(output, None)?;
    let mut before = 0;
    for (stage, (path, steps)) in (1..).zip(logs) {
        let text = read_text(path, LONGEST)?;
        for line in text.lines() {
            let damaged = |e| Error::bad_data(format!("a line is no line of a log: {e}")).file(path);
            let mut line: Value = serde_json::from_str(line).map_err(damaged)?;
            let step = before + line["step"].as_u64().unwrap_or(0) as usize;
            (line["stage"], line["step"]) = (stage.into(), step.into());
            if line["validation"].is_object() {
                line["validation"]["step"] = step.into();
            }
            whole.replay(step, line)?;
        }
        before += steps;
    }
    Ok(())
}

fn truncate(path: &Path, step: usize) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let text = read_text(path, LONGEST)?;
    let early = |line: &&str| {
        let value: Option<Value> = serde_json::from_str(line).ok();
        value.and_then(|v| v["step"].as_u64()).is_some_and(|s| s <= step as u64)
    };
    let kept: String = text.lines().filter(early).flat_map(|line| [line, "\n"]).collect();
    atomic::write(path, kept.as_bytes())
}

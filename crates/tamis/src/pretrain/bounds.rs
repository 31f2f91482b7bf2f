//! What the numbers of a configuration may be. Every one is looked at before anything is made of it; an error names
//! key and range, and the line where the text is at hand.

use std::fmt::Debug;
use std::ops::RangeInclusive;

use super::plan::{Data, NanoData, Plan, Shape, Training};
use crate::error::{Error, Kind, Result};

/// Most weights of a model: all sizes that follow from it are numbers of 64 bits.
const MOST_WEIGHTS: u128 = 1 << 36;

/// A number that is refused, and under which key it stands.
#[derive(Debug)]
pub(super) struct Refused {
    /// Its table, without the braces.
    table: &'static str,
    key: &'static str,
    problem: String,
}

impl Refused {
    /// As an error, with the line of the key in `text`.
    pub(super) fn error(self, text: Option<&str>) -> Error {
        let Self { table, key, problem } = self;
        let error = Error::new(Kind::Recipe, format!("{table}.{key} {problem}"))
            .next("change it; crates/tamis-cli/assets/nano-model/nano.toml is a configuration that works");
        match text.and_then(|text| line_of(text, table, key)) {
            Some(line) => error.line(line),
            None => error,
        }
    }
}

/// The line on which `key` of a table is set, counted from 1.
fn line_of(text: &str, table: &str, key: &str) -> Option<u64> {
    let mut within = String::new();
    let sets =
        |line: &str, key: &str| line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='));
    let found = text.lines().map(str::trim).position(|line| {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            name.trim().clone_into(&mut within);
        }
        within == table && sets(line, key) || within.is_empty() && sets(line, &format!("{table}.{key}"))
    });
    found.map(|index| index as u64 + 1)
}

/// Refuses numbers that make no model, no text and no training.
pub(super) fn check(plan: &Plan) -> Result<(), Refused> {
    shape(&plan.model)?;
    if let Data::Nano(NanoData { bytes, problem_share, .. }) = &plan.data {
        within("data.nano", "bytes", bytes, 1..=1 << 40)?;
        within("data.nano", "problem-share", problem_share, 0.0..=1.0)?;
    }
    let Training { epochs, batch, lr, warmup, weight_decay, every, windows, .. } = &plan.training;
    let table = "training";
    within(table, "epochs", epochs, 1e-6..=1e6)?;
    within(table, "batch", batch, 1..=1 << 16)?;
    within(table, "lr", lr, 1e-12..=10.0)?;
    within(table, "warmup", warmup, 0..=u32::MAX as usize)?;
    within(table, "weight-decay", weight_decay, 0.0..=10.0)?;
    within(table, "windows", windows, 1..=1 << 20)?;
    every.as_ref().map_or(Ok(()), |every| within(table, "every", every, 1..=u32::MAX as usize))
}

fn shape(shape: &Shape) -> Result<(), Refused> {
    let Shape { hidden, intermediate, layers, heads, kv_heads, context, rope_theta } = *shape;
    let table = "model";
    let refuse = |key, problem: String| Err(Refused { table, key, problem });
    for (key, n) in [("hidden", hidden), ("intermediate", intermediate), ("heads", heads)] {
        within(table, key, &n, 1..=1 << 20)?;
    }
    within(table, "layers", &layers, 1..=4096)?;
    within(table, "kv-heads", &kv_heads, 1..=heads)?;
    within(table, "context", &context, 2..=1 << 20)?;
    within(table, "rope-theta", &rope_theta, 1.0..=1e12)?;
    for (key, n) in [("hidden", hidden), ("intermediate", intermediate)] {
        if !n.is_multiple_of(16) {
            return refuse(key, format!("must be a multiple of 16, not {n}"));
        }
    }
    if !hidden.is_multiple_of(heads) || !(hidden / heads).is_multiple_of(2) {
        return refuse("heads", format!("must cut {hidden} features into {heads} heads of one even width"));
    }
    if !heads.is_multiple_of(kv_heads) {
        return refuse("kv-heads", format!("must divide {heads} heads, and {kv_heads} does not"));
    }
    let weights = weights(shape);
    if weights > MOST_WEIGHTS {
        return refuse(
            "layers",
            format!("of this width have {weights} weights, and at most {MOST_WEIGHTS} are trained"),
        );
    }
    Ok(())
}

/// Weights of all blocks, norms among them.
pub(super) fn weights(shape: &Shape) -> u128 {
    let [hidden, intermediate, layers, heads, kv_heads] =
        [shape.hidden, shape.intermediate, shape.layers, shape.heads, shape.kv_heads].map(|n| n as u128);
    let narrow = hidden / heads * kv_heads;
    layers * (hidden * (2 * hidden + 2 * narrow + 3 * intermediate) + 2 * hidden)
}

fn within<T: PartialOrd + Debug>(
    table: &'static str,
    key: &'static str,
    number: &T,
    range: RangeInclusive<T>,
) -> Result<(), Refused> {
    if range.contains(number) {
        return Ok(());
    }
    let problem = format!("must lie between {:?} and {:?}, not {number:?}", range.start(), range.end());
    Err(Refused { table, key, problem })
}

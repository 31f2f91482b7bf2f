//! `tamis inspect`: what a model is made of.

use std::collections::BTreeMap;

use tamis::artifact::{Inspection, inspect};
use tamis::load::Checkpoint;

use super::{print_json, print_text};
use crate::args;
use crate::table::Table;
use crate::terminal::human_bytes;

/// `tamis inspect`.
pub(crate) fn run(args: &args::Inspect) -> anyhow::Result<()> {
    let inspection = inspect(&Checkpoint::open(&args.model)?)?;
    if args.json {
        return print_json(&inspection);
    }
    let table = if args.tensors { every_tensor(&inspection) } else { by_kind(&inspection) };
    print_text(&format!(
        "architecture {}, {} parameters, {:.3} bits per weight, {}, ortho: {}\n{table}",
        serde_json::to_value(inspection.architecture)?.as_str().unwrap_or_default(),
        inspection.parameters,
        inspection.bits_per_weight,
        human_bytes(inspection.file_bytes),
        serde_json::to_value(inspection.ortho)?.as_str().unwrap_or_default(),
    ))
}

fn every_tensor(inspection: &Inspection) -> Table {
    let mut table = Table::new(&["tensor", "kind", "shape", "bits/weight", "bytes"]);
    for tensor in &inspection.tensors {
        table.row(vec![
            tensor.name.clone(),
            tensor.kind.clone(),
            format!("{:?}", tensor.shape),
            format!("{:.3}", tensor.bits_per_weight),
            tensor.bytes.to_string(),
        ]);
    }
    table
}

/// One line for all tensors that are stored alike; the ortho share is taken out of the kind.
fn by_kind(inspection: &Inspection) -> Table {
    let mut kinds: BTreeMap<&str, (usize, u64, u64, usize)> = BTreeMap::new();
    for tensor in &inspection.tensors {
        let kind = tensor.kind.split(" + ").next().unwrap_or(&tensor.kind);
        let sum = kinds.entry(kind).or_default();
        sum.0 += 1;
        sum.1 += tensor.shape.iter().map(|n| *n as u64).product::<u64>();
        sum.2 += tensor.bytes;
        sum.3 += tensor.ortho_entries;
    }
    let mut table = Table::new(&["kind", "tensors", "weights", "bits/weight", "ortho", "bytes"]);
    for (kind, (tensors, weights, bytes, ortho)) in kinds {
        table.row(vec![
            kind.into(),
            tensors.to_string(),
            weights.to_string(),
            format!("{:.3}", 8.0 * bytes as f64 / weights.max(1) as f64),
            if ortho == 0 { "-".into() } else { format!("{:.3} %", 100.0 * ortho as f64 / weights as f64) },
            human_bytes(bytes),
        ]);
    }
    table
}

//! `tamis inspect`: what a model is made of.

use std::collections::BTreeMap;

use tamis::artifact::{Inspection, inspect};
use tamis::load::Checkpoint;

use crate::args;
use crate::streams::{print_json, print_text};
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
        "architecture {}, {} parameters, {:.3} bits per weight, {}, ortho: {}\n{}{}{table}",
        serde_json::to_value(inspection.architecture)?.as_str().unwrap_or_default(),
        inspection.parameters,
        inspection.bits_per_weight,
        human_bytes(inspection.file_bytes),
        serde_json::to_value(inspection.ortho)?.as_str().unwrap_or_default(),
        pruned_line(&inspection),
        blocks_line(&inspection),
    ))
}

/// What pruning has saved, where there was any.
fn pruned_line(inspection: &Inspection) -> String {
    let Some(sparsity) = inspection.sparsity else { return String::new() };
    let share = |of: u64| inspection.file_bytes as f64 / of.max(1) as f64;
    format!(
        "{:.1} % of the linears' weights are left out; {:.2} of the file at 16 bits ({}), {:.2} of one with \
         linears at 4 bits ({})\n",
        100.0 * sparsity,
        share(inspection.dense_bytes),
        human_bytes(inspection.dense_bytes),
        share(inspection.int4_bytes),
        human_bytes(inspection.int4_bytes),
    )
}

/// What blocks look like, where some are not just thinned.
fn blocks_line(inspection: &Inspection) -> String {
    let Some(blocks) = inspection.blocks().filter(|blocks| blocks.thinned < blocks.total()) else {
        return String::new();
    };
    let share = |count: usize| 100.0 * count as f64 / blocks.total().max(1) as f64;
    format!(
        "blocks of 16 x 16: {:.1} % dense, {:.1} % 2:4, {:.1} % thinned otherwise, {:.1} % left out\n",
        share(blocks.dense),
        share(blocks.two_of_four),
        share(blocks.thinned),
        share(blocks.removed),
    )
}

fn zeros(sparsity: Option<f64>) -> String {
    sparsity.map_or("-".into(), |share| format!("{:.2} %", 100.0 * share))
}

fn every_tensor(inspection: &Inspection) -> Table {
    let mut table =
        Table::new(&["tensor", "kind", "shape", "bits/weight", "zeros", "dead out", "dead in", "bytes"]);
    for tensor in &inspection.tensors {
        table.row(vec![
            tensor.name.clone(),
            tensor.kind.clone(),
            format!("{:?}", tensor.shape),
            format!("{:.3}", tensor.bits_per_weight),
            zeros(tensor.holes.map(|holes| holes.sparsity)),
            tensor.holes.map_or("-".into(), |holes| holes.dead_outputs.to_string()),
            tensor.holes.map_or("-".into(), |holes| holes.dead_inputs.to_string()),
            tensor.bytes.to_string(),
        ]);
    }
    table
}

/// All tensors of a kind.
#[derive(Default)]
struct Sum {
    tensors: usize,
    weights: u64,
    bytes: u64,
    ortho: usize,
    /// Weights that are left out; none where nothing is pruned.
    holes: Option<u64>,
    /// Outputs and inputs without a kept weight.
    dead: usize,
}

/// One line for all tensors that are stored alike; the ortho share is taken out of the kind.
fn by_kind(inspection: &Inspection) -> Table {
    let mut kinds: BTreeMap<&str, Sum> = BTreeMap::new();
    for tensor in &inspection.tensors {
        let kind = tensor.kind.split(" + ").next().unwrap_or(&tensor.kind);
        let sum = kinds.entry(kind).or_default();
        let weights: u64 = tensor.shape.iter().map(|n| *n as u64).product();
        sum.tensors += 1;
        sum.weights += weights;
        sum.bytes += tensor.bytes;
        sum.ortho += tensor.ortho_entries;
        if let Some(holes) = tensor.holes {
            *sum.holes.get_or_insert(0) += weights - holes.kept as u64;
            sum.dead += holes.dead_outputs + holes.dead_inputs;
        }
    }
    let mut table =
        Table::new(&["kind", "tensors", "weights", "bits/weight", "zeros", "dead", "ortho", "bytes"]);
    for (kind, sum) in kinds {
        let share = |part: f64| part / sum.weights.max(1) as f64;
        table.row(vec![
            kind.into(),
            sum.tensors.to_string(),
            sum.weights.to_string(),
            format!("{:.3}", share(8.0 * sum.bytes as f64)),
            zeros(sum.holes.map(|holes| share(holes as f64))),
            if sum.holes.is_some() { sum.dead.to_string() } else { "-".into() },
            if sum.ortho == 0 { "-".into() } else { format!("{:.3} %", 100.0 * share(sum.ortho as f64)) },
            human_bytes(sum.bytes),
        ]);
    }
    table
}

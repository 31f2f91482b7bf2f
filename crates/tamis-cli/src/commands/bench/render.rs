//! Rows of `tamis bench` as text: Markdown, CSV, JSON, JSON lines. Measures nothing.

use serde::Serialize;
use serde_json::{Map, Value, json};
use tamis::bench::{LimitRow, Row};

use crate::args::BenchOutput;
use crate::table::Table;
use crate::terminal::human_bytes;

/// Tests, limits of the machine, or both, in the form asked for.
pub(super) fn text(
    output: BenchOutput,
    rows: Option<&[Row]>,
    limits: Option<&[LimitRow]>,
) -> anyhow::Result<String> {
    let (tests, machine) = (rows.map(objects).transpose()?, limits.map(objects).transpose()?);
    Ok(match output {
        BenchOutput::Md => {
            let parts = [rows.map(tests_table), limits.map(limits_table)];
            parts.into_iter().flatten().collect::<Vec<_>>().join("\n")
        }
        BenchOutput::Csv => csv(&[tests, machine].into_iter().flatten().flatten().collect::<Vec<_>>()),
        BenchOutput::Json => {
            let value = match (tests, machine) {
                (Some(tests), Some(machine)) => json!({ "tests": tests, "roofline": machine }),
                (tests, machine) => json!(tests.or(machine).unwrap_or_default()),
            };
            serde_json::to_string_pretty(&value)? + "\n"
        }
        BenchOutput::Jsonl => {
            let lines = tests.into_iter().chain(machine).flatten().map(|row| Value::Object(row).to_string());
            lines.map(|line| line + "\n").collect()
        }
    })
}

fn objects<T: Serialize>(rows: &[T]) -> anyhow::Result<Vec<Map<String, Value>>> {
    Ok(serde_json::from_value(serde_json::to_value(rows)?)?)
}

/// A header and a line a row. Lists are left out, nothing is an empty cell, and text with a comma,
/// a quote or a line end stands in quotes (RFC 4180).
fn csv(rows: &[Map<String, Value>]) -> String {
    let Some(first) = rows.first() else { return String::new() };
    let cell = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) if text.contains([',', '"', '\n', '\r']) => {
            format!("\"{}\"", text.replace('"', "\"\""))
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let line = |cells: Vec<String>| cells.join(",") + "\n";
    let mut text = line(first.iter().filter(|(_, v)| !v.is_array()).map(|(k, _)| k.clone()).collect());
    for row in rows {
        text += &line(row.values().filter(|v| !v.is_array()).map(cell).collect());
    }
    text
}

/// What is the same for all rows in a line, then the table, then what a reader must know.
fn tests_table(rows: &[Row]) -> String {
    let Some(first) = rows.first() else { return String::new() };
    let with_alpha = rows.iter().any(|row| row.alpha.is_some());
    let mut header = vec!["test", "depth", "threads", "tokens/s", "first token", "MB/token", "GB/s"];
    header.extend(["GFLOP/s", "roofline", "peak memory"]);
    if with_alpha {
        header.insert(2, "alpha");
    }
    let mut table = Table::new(&header);
    for row in rows {
        let mut cells = vec![
            row.test.clone() + if row.beyond_context { " *" } else { "" },
            row.depth.to_string(),
            row.threads.to_string(),
            format!("{:.2} ± {:.2}", row.mean_tokens_per_second, row.sd),
            row.time_to_first_token_seconds.map_or("-".into(), |s| format!("{:.1} ms", 1e3 * s)),
            format!("{:.3}", row.bytes_per_token / 1e6),
            format!("{:.2}", row.gb_per_second),
            format!("{:.1}", 1e3 * row.tflops_per_second),
            roofline(row),
            row.peak_memory_bytes.map_or("-".into(), human_bytes),
        ];
        if with_alpha {
            cells.insert(2, row.alpha.map_or("-".into(), |alpha| alpha.to_string()));
        }
        table.row(cells);
    }
    let mut text = format!("{}\n\n{}", about(first), table.markdown());
    if rows.iter().any(|row| row.beyond_context) {
        text += &format!(
            "\n* beyond the {} tokens that the model was made for: the speed is real, the text would not be\n",
            first.context
        );
    }
    text
}

fn about(row: &Row) -> String {
    let file = std::path::Path::new(&row.model)
        .file_name()
        .map_or(row.model.as_str().into(), |f| f.to_string_lossy());
    format!(
        "{file}: file {}, weights {}, loaded in {:.2} s\n{}, {}, batches of {}, {} repetitions{}, tamis {}",
        human_bytes(row.file_bytes),
        human_bytes(row.weight_bytes),
        row.load_seconds,
        row.isa,
        row.precision,
        row.batch,
        row.samples.len(),
        if row.warmup { " after a warm-up" } else { " without warm-up" },
        row.version,
    )
}

/// `42 % of 31.0 GB/s`, or of the peak arithmetic, or of both.
fn roofline(row: &Row) -> String {
    let read = row.read_bandwidth_gb_per_second.map(|gb| format!("{gb:.1} GB/s"));
    let peak = row.peak_tflops_per_second.map(|t| format!("{:.0} GFLOP/s", 1e3 * t));
    let limits: Vec<String> = [peak, read].into_iter().flatten().collect();
    format!("{:.1} % of {}", 100.0 * row.roofline_fraction, limits.join(" and "))
}

fn limits_table(rows: &[LimitRow]) -> String {
    let mut table = Table::new(&["limit", "threads", "buffer", "GB/s", "GOP/s"]);
    let number = |value: Option<f64>| value.map_or("-".into(), |v| format!("{v:.1}"));
    for row in rows {
        table.row(vec![
            row.limit.to_owned(),
            row.threads.to_string(),
            row.buffer_bytes.map_or("-".into(), |bytes| human_bytes(bytes as u64)),
            number(row.gb_per_second),
            number(row.gop_per_second),
        ]);
    }
    let isa = rows.first().map_or("", |row| row.isa);
    format!("this machine, {isa}\n\n{}", table.markdown())
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;

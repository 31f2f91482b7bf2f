//! `tamis verify`: check every byte of a compressed model.

use tamis::artifact::verify;

use crate::args;
use crate::streams::{print_json, print_text};
use crate::terminal::human_bytes;

/// `tamis verify`.
pub(crate) fn run(args: &args::Verify) -> anyhow::Result<()> {
    let report = verify(&args.path)?;
    if args.json {
        return print_json(&report);
    }
    print_text(&format!(
        "ok: {} files ({}) with the recorded SHA-256, {} tensors with finite values, ortho: {}\n",
        report.files.len(),
        human_bytes(report.bytes),
        report.tensors,
        serde_json::to_value(report.ortho)?.as_str().unwrap_or_default(),
    ))
}

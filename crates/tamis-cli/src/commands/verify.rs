//! `tamis verify`: check every byte of a model.

use std::path::Path;

use tamis::artifact::{MANIFEST, is_artifact, verify};
use tamis::load::examine::{Examination, Examined, examine};

use crate::args;
use crate::streams::{print_json, print_text};
use crate::terminal::human_bytes;

/// `tamis verify`.
pub(crate) fn run(args: &args::Verify) -> anyhow::Result<()> {
    let folder = Path::new(&args.path);
    if !(folder.join(MANIFEST).exists() && is_artifact(folder)) {
        let found = examine(&args.path)?;
        return if args.json { print_json(&found) } else { print_text(&told(&found)) };
    }
    let report = verify(folder)?;
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

fn told(found: &Examination) -> String {
    let what = match found.kind {
        Examined::Gguf => "a GGUF file",
        Examined::HuggingFace => "a folder in Hugging Face layout",
        Examined::Adapter => "a LoRA adapter",
    };
    let mut text = format!(
        "sound: {what}, {} files ({}): structure and lengths, {} tensors of the expected shapes with finite values\n",
        found.files.len(),
        human_bytes(found.bytes),
        found.tensors,
    );
    if !found.hashed.is_empty() {
        text += &format!("with the SHA-256 that the hub gave them: {}\n", found.hashed.join(", "));
    }
    for reason in &found.unverified {
        text += &format!("not verified: {reason}\n");
    }
    text
}

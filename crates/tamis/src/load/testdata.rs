//! Where tests find data that is not in the repository. Absent data skips a test, aloud.

use std::io::Write;
use std::path::PathBuf;

/// A file under `$TAMIS_DATA`.
pub(crate) fn data(file: &str) -> Option<PathBuf> {
    let path = std::env::var_os("TAMIS_DATA").map(|root| PathBuf::from(root).join(file));
    found(path, &format!("TAMIS_DATA/{file}"))
}

/// SmolLM2-135M-Instruct as GGUF: `$TAMIS_SMOLLM2`, or `models/` at the repository root.
pub(crate) fn smollm2() -> Option<PathBuf> {
    let name = "SmolLM2-135M-Instruct.Q4_1.gguf";
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models").join(name);
    found(Some(std::env::var_os("TAMIS_SMOLLM2").map_or(root, PathBuf::from)), name)
}

/// Tiny models of every family, made by `scripts/golden/tiny_models.py`.
pub(crate) fn golden_models() -> Option<PathBuf> {
    found(Some(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models")), "tests/golden/models")
}

fn found(path: Option<PathBuf>, what: &str) -> Option<PathBuf> {
    let path = path.filter(|p| p.exists());
    if path.is_none() {
        // not eprintln!, which the test runner swallows
        let _ = writeln!(std::io::stderr(), "SKIPPED: {what} is not there");
    }
    path
}

//! Where tests find models and data that are not in the repository. A test that lacks
//! them says so on standard error.

use std::io::Write;
use std::path::{Path, PathBuf};

/// A file or folder under `$TAMIS_DATA`.
pub(crate) fn data(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("TAMIS_DATA").map(|root| PathBuf::from(root).join(name));
    found(path, &format!("$TAMIS_DATA/{name}"))
}

/// The real model that `scripts/get-smollm2.sh` fetches, or `$TAMIS_SMOLLM2`.
pub(crate) fn smollm2() -> Option<PathBuf> {
    let file = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file);
    found(Some(std::env::var_os("TAMIS_SMOLLM2").map_or(fetched, PathBuf::from)), file)
}

fn found(path: Option<PathBuf>, what: &str) -> Option<PathBuf> {
    let path = path.filter(|path| path.exists());
    if path.is_none() {
        // not eprintln!, which the test runner swallows
        let _ = writeln!(std::io::stderr(), "SKIPPED: {what} is not there");
    }
    path
}

//! placeholder
use std::path::PathBuf;

use crate::error::Result;

pub(super) fn resolve(spec: &str) -> Result<PathBuf> {
    Ok(PathBuf::from(spec))
}

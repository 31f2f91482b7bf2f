//! The files that git tracks. The only part of tidy that touches git or the disk.

use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

/// Paths of all tracked files that are in the working tree, relative to `root`, with `/`.
pub(super) fn paths(root: &Path) -> Result<Vec<String>, String> {
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output();
    let output = output.map_err(|error| format!("cannot start git: {error}; install git"))?;
    if !output.status.success() {
        return Err(format!("git ls-files failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    let listing = String::from_utf8(output.stdout).map_err(|_| "a tracked path is not UTF-8; rename it")?;
    let mut paths = Vec::new();
    for path in listing.split('\0').filter(|path| !path.is_empty()) {
        match root.join(path).symlink_metadata() {
            Ok(found) if found.is_file() => paths.push(path.to_owned()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(format!("cannot look at {path}: {error}")),
        }
    }
    paths.dedup(); // an unmerged path is listed once a side
    Ok(paths)
}

/// Text of a tracked file; `None` where it is binary.
pub(super) fn read_text(root: &Path, path: &str) -> Result<Option<String>, String> {
    let bytes = std::fs::read(root.join(path)).map_err(|error| format!("cannot read {path}: {error}"))?;
    Ok(text(bytes))
}

fn text(bytes: Vec<u8>) -> Option<String> {
    if bytes.contains(&0) {
        return None;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn text_is_utf8_without_nul() {
        assert_eq!(text("naïve\n".into()), Some("naïve\n".to_owned()));
        assert_eq!(text(b"GGUF\0\0\0".to_vec()), None);
        assert_eq!(text(vec![b'a', 0xff]), None);
    }
}

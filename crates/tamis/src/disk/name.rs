//! Names of files that come from files: one plain component of a path, which leads nowhere else.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Whether a name is one component of a path on every system.
pub(crate) fn is_component(name: &str) -> bool {
    let odd = |c: char| c.is_control() || matches!(c, '/' | '\\' | ':');
    !matches!(name, "" | "." | "..") && !name.contains(odd)
}

/// The same, and not hidden: hidden names are those of run folders and of unfinished files.
pub(crate) fn is_plain_name(name: &str) -> bool {
    is_component(name) && !name.starts_with('.')
}

/// The path of `name` in a folder of ours. Errors: a name that leads elsewhere; a link, which nothing of ours is, and
/// which would lead what is read, written or removed elsewhere.
pub(crate) fn inside(folder: &Path, name: &str) -> Result<PathBuf> {
    if !is_component(name) {
        return Err(Error::bad_data(format!("{name:?} is not a plain file name")).file(folder));
    }
    let path = folder.join(name);
    if std::fs::symlink_metadata(&path).is_ok_and(|there| there.is_symlink()) {
        return Err(Error::bad_data("is a link, which tamis neither makes nor follows here")
            .file(&path)
            .next("remove the link, or choose another output folder"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_component_is_a_name_and_nothing_else_is() {
        for good in ["a", "model.safetensors", "..a", "step-0000001.safetensors", "ä b"] {
            assert!(is_component(good) && inside(Path::new("/nowhere"), good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "/a", "../a", "a\\b", "c:a", "a\0", "a\n", "a\u{9b}"] {
            assert!(!is_component(bad) && inside(Path::new("/nowhere"), bad).is_err(), "{bad:?}");
        }
        assert!(is_component(".hidden") && !is_plain_name(".hidden"));
    }

    #[cfg(unix)]
    #[test]
    fn links_are_refused_whatever_they_lead_to() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("home")).unwrap();
        std::os::unix::fs::symlink("home", dir.path().join("a")).unwrap();
        std::os::unix::fs::symlink("/nowhere", dir.path().join("b")).unwrap();
        for name in ["a", "b"] {
            let error = inside(dir.path(), name).unwrap_err();
            assert_eq!(error.kind(), crate::Kind::BadData);
            assert!(error.to_string().contains("link"), "{error}");
        }
        inside(dir.path(), "home").unwrap();
    }
}

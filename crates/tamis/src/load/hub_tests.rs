//! The cache layout on a made-up cache, and what is refused in it.

use std::os::unix::fs::symlink;

use super::*;
use crate::Kind;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

struct Cache(tempfile::TempDir);

impl Cache {
    /// A cache with one model whose `config.json` is a link to a blob.
    fn new() -> Self {
        let cache = Self(tempfile::tempdir().unwrap());
        let root = cache.repository();
        for folder in ["refs/refs/pr", "blobs", &format!("snapshots/{COMMIT}")] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        for name in ["main", "v1.0", "refs/pr/1"] {
            std::fs::write(root.join("refs").join(name), format!("{COMMIT}\n")).unwrap();
        }
        std::fs::write(root.join("blobs").join(COMMIT), "{}").unwrap();
        symlink(format!("../../blobs/{COMMIT}"), cache.snapshot().join("config.json")).unwrap();
        cache
    }
    fn repository(&self) -> PathBuf {
        self.0.path().join("hub/models--org--name")
    }
    fn snapshot(&self) -> PathBuf {
        self.repository().join("snapshots").join(COMMIT)
    }
    fn resolve(&self, spec: &str) -> Result<PathBuf> {
        resolve_in(spec, &|name| (name == "HF_HOME").then(|| self.0.path().into()))
    }
}

#[test]
fn a_snapshot_is_found_by_branch_tag_ref_and_commit() {
    let cache = Cache::new();
    for spec in ["", "@main", "@v1.0", "@refs/pr/1", &format!("@{COMMIT}")] {
        assert_eq!(cache.resolve(&format!("hf://org/name{spec}")).unwrap(), cache.snapshot(), "{spec}");
    }
    assert_eq!(cache.resolve("./a/b").unwrap(), Path::new("./a/b"));
}

#[test]
fn a_miss_says_what_to_run() {
    let cache = Cache::new();
    for (spec, command) in [
        ("hf://org/other", "hf download org/other"),
        ("hf://gpt2", "hf download gpt2"),
        ("hf://org/name@v2", "hf download org/name --revision v2"),
    ] {
        let error = cache.resolve(spec).unwrap_err();
        assert_eq!(error.kind(), Kind::Missing);
        assert!(error.to_string().contains(command), "{error}");
    }
    let offline = |name: &str| match name {
        "HF_HUB_OFFLINE" => Some("true".into()),
        "HOME" => Some("/nowhere".into()),
        _ => None,
    };
    let text = resolve_in("hf://org/name", &offline).unwrap_err().to_string();
    assert!(text.contains("HF_HUB_OFFLINE is set") && text.contains("hf download org/name"), "{text}");
    assert!(text.contains("/nowhere/.cache/huggingface/hub"), "{text}");
}

#[test]
fn names_cannot_climb() {
    let cache = Cache::new();
    for spec in [
        "hf://../name",
        "hf://org/..",
        "hf://org/na/me",
        "hf://",
        "hf:///etc",
        "hf://org/.git",
        "hf://a--b/c",
        "hf://org/name@../../x",
        "hf://org/name@/etc",
        "hf://org/name@",
        "hf://org/name@a//b",
        "hf://org/na\u{e9}",
        "hf://org/name@-x",
        "hf://org/name\0",
    ] {
        assert_eq!(cache.resolve(spec).unwrap_err().kind(), Kind::Usage, "{spec}");
    }
}

#[test]
fn links_may_only_lead_to_blobs_of_the_model() {
    for target in
        ["/etc/passwd", "../../../secret", "../../blobs/../refs/main", "../../blobs/short", "config.json"]
    {
        let cache = Cache::new();
        symlink(target, cache.snapshot().join("evil")).unwrap();
        assert_eq!(cache.resolve("hf://org/name").unwrap_err().kind(), Kind::BadData, "{target}");
    }
    // A link to a blob that is itself a link, and one whose blob is not there.
    let cache = Cache::new();
    let other = COMMIT.replace('0', "f");
    symlink(format!("../../blobs/{other}"), cache.snapshot().join("a")).unwrap();
    assert_eq!(cache.resolve("hf://org/name").unwrap_err().kind(), Kind::Missing);
    symlink("/etc/passwd", cache.repository().join("blobs").join(&other)).unwrap();
    assert_eq!(cache.resolve("hf://org/name").unwrap_err().kind(), Kind::BadData);
}

#[test]
fn a_ref_must_hold_a_commit() {
    let cache = Cache::new();
    std::fs::write(cache.repository().join("refs/main"), "../../../etc").unwrap();
    assert_eq!(cache.resolve("hf://org/name").unwrap_err().kind(), Kind::BadData);
}

#[test]
fn a_repository_of_one_gguf_is_that_file() {
    let cache = Cache::new();
    std::fs::write(cache.snapshot().join("a.gguf"), "").unwrap();
    assert_eq!(cache.resolve("hf://org/name").unwrap(), cache.snapshot().join("a.gguf"));
    std::fs::write(cache.snapshot().join("b.gguf"), "").unwrap();
    assert_eq!(cache.resolve("hf://org/name").unwrap_err().kind(), Kind::Usage);
}

//! `hf://org/name[@revision]` in the local cache of Hugging Face, read-only.
//!
//! Layout: `models--org--name/refs/<revision>` holds a commit, and
//! `snapshots/<commit>/` the files, each a link to `../../blobs/<hash>`. Nothing is
//! downloaded: a model that is not there is an error with the command that fetches it.
//!
//! Source: the cache page of the `huggingface_hub` manual.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use crate::disk::{DataFile, link, list, read_small};
use crate::error::{Error, Result};

const SCHEME: &str = "hf://";
/// Longest repository or revision name that is believed.
const NAME_LIMIT: usize = 96;

/// A model on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
struct HubModel {
    /// `org/name`.
    id: String,
    revision: String,
}

/// Environment variables, by name.
type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// A local path for a model as the user wrote it.
pub(super) fn resolve(spec: &str) -> Result<PathBuf> {
    resolve_in(spec, &|name| std::env::var_os(name))
}

fn resolve_in(spec: &str, env: Env) -> Result<PathBuf> {
    let Some(name) = spec.strip_prefix(SCHEME) else { return Ok(PathBuf::from(spec)) };
    HubModel::parse(name)?.find(env)
}

/// Adds the command that fetches `spec` again to an error about a missing file of it.
pub(super) fn explain(spec: &str, error: Error) -> Error {
    match spec.strip_prefix(SCHEME).map(HubModel::parse) {
        Some(Ok(model)) if error.kind() == crate::Kind::Missing => error.next(model.download(&|_| None)),
        _ => error,
    }
}

impl HubModel {
    fn parse(text: &str) -> Result<Self> {
        let (id, revision) = text.split_once('@').unwrap_or((text, "main"));
        let names: Vec<&str> = id.split('/').collect();
        if names.len() > 2 || !names.iter().all(|name| is_repository_name(name)) {
            return Err(Error::usage(format!("{id:?} is not a model of the hub"))
                .next("write it as hf://org/name or hf://org/name@revision"));
        }
        if !is_revision(revision) {
            return Err(Error::usage(format!("{revision:?} is not a branch, tag or commit"))
                .next("name a branch, a tag or a commit: hf://org/name@main"));
        }
        Ok(Self { id: id.to_string(), revision: revision.to_string() })
    }

    fn find(&self, env: Env) -> Result<PathBuf> {
        let cache = cache_folder(env)?;
        let repository = cache.join(format!("models--{}", self.id.replace('/', "--")));
        let commit = match is_commit(&self.revision) {
            true => Some(self.revision.clone()),
            false => read_ref(&repository.join("refs").join(&self.revision))?,
        };
        let snapshot = commit.map(|c| repository.join("snapshots").join(c)).filter(|p| p.is_dir());
        let Some(snapshot) = snapshot else {
            return Err(Error::missing(format!("{self} is not in the local cache"))
                .file(cache)
                .next(self.download(env)));
        };
        check_links(&snapshot)?;
        self.model_in(snapshot, env)
    }

    /// The folder, or the one GGUF file of a repository that holds nothing else to open.
    fn model_in(&self, snapshot: PathBuf, env: Env) -> Result<PathBuf> {
        if snapshot.join("config.json").exists() && !only_gguf_weights(&snapshot) {
            return Ok(snapshot);
        }
        let mut gguf = list(&snapshot)?;
        gguf.retain(|path| path.extension().is_some_and(|e| e == "gguf"));
        match &gguf[..] {
            [one] => Ok(one.clone()),
            [] => Err(Error::missing(format!("{self} is not complete in the local cache"))
                .file(snapshot)
                .next(self.download(env))),
            several => Err(Error::usage(format!("{self} holds {} GGUF files", several.len()))
                .file(snapshot)
                .next("give the path of one of them")),
        }
    }

    /// What to run to get the model.
    fn download(&self, env: Env) -> String {
        let truthy = |v: OsString| {
            matches!(v.to_string_lossy().to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
        };
        let offline =
            ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].iter().find(|&name| env(name).is_some_and(truthy));
        let revision = match self.revision.as_str() {
            "main" => String::new(),
            other => format!(" --revision {other}"),
        };
        let command = format!("run: hf download {}{revision}", self.id);
        match offline {
            Some(name) => {
                format!("{name} is set: unset it (or use a machine with a network), then {command}")
            }
            None => command,
        }
    }
}

impl std::fmt::Display for HubModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{SCHEME}{}", self.id)?;
        if self.revision == "main" { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

/// The hub's own rule for one part of an id.
fn is_repository_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let edge = |c: char| matches!(c, '.' | '-');
    (1..=NAME_LIMIT).contains(&name.len())
        && name.chars().all(plain)
        && !name.starts_with(edge)
        && !name.ends_with(edge)
        && !name.contains("--")
        && !name.contains("..")
}

/// A branch or tag may hold slashes (`refs/pr/1`), but no part that climbs.
fn is_revision(revision: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+');
    revision.len() <= NAME_LIMIT
        && revision
            .split('/')
            .all(|part| !part.is_empty() && !part.starts_with(['.', '-']) && part.chars().all(plain))
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The commit that a ref names; none if there is no such ref.
fn read_ref(path: &Path) -> Result<Option<String>> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&read_small(path, 4096)?).trim().to_string();
    if is_commit(&text) {
        return Ok(Some(text));
    }
    Err(Error::bad_data("does not hold a commit")
        .file(path)
        .next("delete the model from the cache and fetch it again"))
}

/// Where `huggingface_hub` keeps models, by the variables that it reads.
fn cache_folder(env: Env) -> Result<PathBuf> {
    let home = env("HOME").or_else(|| env("USERPROFILE")).map(PathBuf::from);
    let path = |name: &str| {
        let path = PathBuf::from(env(name).filter(|v| !v.is_empty())?);
        Some(match (path.strip_prefix("~"), &home) {
            (Ok(rest), Some(home)) => home.join(rest),
            _ => path,
        })
    };
    let in_home = || Some(home.as_ref()?.join(".cache"));
    path("HF_HUB_CACHE")
        .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| Some(path("HF_HOME")?.join("hub")))
        .or_else(|| Some(path("XDG_CACHE_HOME").or_else(in_home)?.join("huggingface/hub")))
        .ok_or_else(|| {
            Error::usage("no cache folder: neither HF_HUB_CACHE nor HF_HOME nor HOME is set")
                .next("export HF_HOME=FOLDER")
        })
}

fn only_gguf_weights(snapshot: &Path) -> bool {
    let has =
        |end: &str| list(snapshot).is_ok_and(|f| f.iter().any(|p| p.extension().is_some_and(|e| e == end)));
    has("gguf") && !has("safetensors")
}

/// Every link of a snapshot must lead to a plain blob of the same repository.
fn check_links(snapshot: &Path) -> Result<()> {
    for path in list(snapshot)? {
        let Some(target) = link(&path)? else { continue };
        let blob = snapshot.join(&target);
        if !is_blob_link(&target) {
            return Err(Error::bad_data(format!(
                "a link to {}, which is not a blob of this model",
                target.display()
            ))
            .file(&path)
            .next("delete the model from the cache and fetch it again"));
        }
        let incomplete = "fetch the model again: its download is not complete";
        if link(&blob).map_err(|e| e.next(incomplete))?.is_some() {
            return Err(Error::bad_data("a blob that is not a file").file(&blob));
        }
        DataFile::open(&blob)?;
    }
    Ok(())
}

/// `../../blobs/<40 or 64 hex digits>`.
fn is_blob_link(target: &Path) -> bool {
    let parts: Vec<Component> = target.components().collect();
    let [Component::ParentDir, Component::ParentDir, Component::Normal(folder), Component::Normal(name)] =
        parts[..]
    else {
        return false;
    };
    let hash =
        name.to_str().is_some_and(|n| matches!(n.len(), 40 | 64) && n.bytes().all(|b| b.is_ascii_hexdigit()));
    folder == "blobs" && hash
}

#[cfg(all(test, unix))]
#[path = "hub_tests.rs"]
mod tests;

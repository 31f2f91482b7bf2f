//! Leaving the sidecar out is the physical switch: the base does not know of it.

use super::*;
use crate::load::{Ortho, TensorSource as _};

fn without_ortho() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = open(dir.path()).unwrap();
    for (part, tensors) in model() {
        let bare: Tensors = tensors
            .into_iter()
            .map(|(name, stored)| match stored {
                Stored::Matrix(Weight::Sieved { base, .. }) => (name, Weight::Packed(base).into()),
                other => (name, other),
            })
            .collect();
        writer.put(part, &bare, receipts(part)).unwrap();
    }
    writer.finish(finish()).unwrap();
    dir
}

#[test]
fn base_and_config_are_the_same_bytes_with_and_without_ortho() {
    let (with, without) = (files(written().path()), files(without_ortho().path()));
    assert!(with.contains_key("ortho.safetensors") && !without.contains_key("ortho.safetensors"));
    assert_eq!(with["model.safetensors"], without["model.safetensors"]);
    assert_eq!(with["config.json"], without["config.json"]);
}

#[test]
fn a_removed_sidecar_serves_the_base_and_says_so() {
    let (dir, bare) = (written(), without_ortho());
    assert_eq!(source(dir.path()).ortho(), Ortho::Present);
    assert_eq!(source(bare.path()).ortho(), Ortho::None);
    fs::remove_file(dir.path().join("ortho.safetensors")).unwrap();
    let (switched, bare) = (source(dir.path()), source(bare.path()));
    assert_eq!(switched.ortho(), Ortho::Absent);
    for entry in bare.entries() {
        let name = &entry.name;
        assert_same(name, &switched.read(name).unwrap(), &bare.read(name).unwrap());
    }
}

#[test]
fn a_sidecar_from_elsewhere_is_refused() {
    let (dir, bare) = (written(), without_ortho());
    fs::copy(dir.path().join("ortho.safetensors"), bare.path().join("ortho.safetensors")).unwrap();
    let error = ArtifactSource::open(bare.path()).unwrap_err();
    assert!(error.to_string().contains("the manifest knows nothing of"), "{error}");
}

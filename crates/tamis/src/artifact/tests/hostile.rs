//! Damage and malice are found and named: file, tensor, offset.

use super::*;
use crate::artifact::{ORTHO, verify};
use crate::disk::digest::sha256;
use crate::error::Kind;
use crate::load::Ortho;

const Q: &str = "model.layers.0.self_attn.q_proj";

/// Offset and length of a tensor, read by an outside parser.
fn span(file: &[u8], name: &str) -> (usize, usize) {
    let start = file.as_ptr() as usize;
    let parsed = safetensors::SafeTensors::deserialize(file).unwrap();
    let data = parsed.tensor(name).unwrap();
    (data.data().as_ptr() as usize - start, data.data().len())
}

/// Changes a file and makes the manifest agree, so that only structure can find it.
pub(super) fn forge(folder: &Path, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let path = folder.join(name);
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(&path, &bytes).unwrap();
    let mut manifest = Manifest::read(folder).unwrap();
    let entry = manifest.files.get_mut(name).unwrap();
    (entry.bytes, entry.sha256) = (bytes.len() as u64, sha256(&bytes));
    fs::write(folder.join("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
}

#[test]
fn a_sound_artifact_verifies_with_and_without_its_sidecar() {
    let dir = written();
    let report = verify(dir.path()).unwrap();
    assert_eq!((report.files.len(), report.ortho), (4, Ortho::Present));
    assert_eq!(report.tensors, model().iter().map(|(_, t)| t.len()).sum::<usize>());
    fs::remove_file(dir.path().join(ORTHO)).unwrap();
    let report = verify(dir.path()).unwrap();
    assert_eq!((report.files.len(), report.ortho), (3, Ortho::Absent));
}

#[test]
fn one_flipped_byte_is_found_in_every_tensor() {
    let dir = written();
    for file in ["model.safetensors", ORTHO] {
        let path = dir.path().join(file);
        let good = fs::read(&path).unwrap();
        let names: Vec<String> = safetensors::SafeTensors::deserialize(&good)
            .unwrap()
            .names()
            .into_iter()
            .map(str::to_owned)
            .collect();
        for name in names {
            let (offset, length) = span(&good, &name);
            let mut bad = good.clone();
            bad[offset + length / 2] ^= 0x10;
            fs::write(&path, bad).unwrap();
            let message = verify(dir.path()).unwrap_err().to_string();
            for part in [file, &format!("tensor {name}:"), &format!("at byte {offset}")] {
                assert!(message.contains(part), "{message} lacks {part}");
            }
        }
        fs::write(&path, good).unwrap();
    }
}

#[test]
fn a_flipped_byte_in_a_header_or_a_text_file_is_found() {
    let dir = written();
    for (file, at) in [("model.safetensors", 30), ("config.json", 10), ("tokenizer.json", 0)] {
        let path = dir.path().join(file);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, bad).unwrap();
        let error = verify(dir.path()).unwrap_err();
        assert_eq!(error.kind(), Kind::BadData);
        assert!(error.to_string().contains(file), "{error}");
        fs::write(&path, good).unwrap();
    }
    verify(dir.path()).unwrap();
}

#[test]
fn truncated_files_are_refused_at_every_length() {
    let dir = written();
    for file in ["model.safetensors", ORTHO, "manifest.json"] {
        let path = dir.path().join(file);
        let good = fs::read(&path).unwrap();
        let step = (good.len() / 60).max(1);
        for length in (0..good.len()).step_by(step) {
            fs::write(&path, &good[..length]).unwrap();
            let error = ArtifactSource::open(dir.path()).unwrap_err();
            assert_eq!(error.kind(), Kind::BadData, "{file} {length}: {error}");
            assert!(verify(dir.path()).is_err());
        }
        fs::write(&path, good).unwrap();
    }
}

#[test]
fn a_missing_file_is_named() {
    let dir = written();
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    let error = verify(dir.path()).unwrap_err();
    assert_eq!(error.kind(), Kind::Missing);
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
}

#[test]
fn numbers_that_are_no_numbers_are_found_where_hashes_agree() {
    let dir = written();
    let name = format!("{Q}.weight_scale");
    let mut offset = 0;
    forge(dir.path(), "model.safetensors", |bytes| {
        offset = span(bytes, &name).0 + 6;
        bytes[offset..offset + 2].copy_from_slice(&f16::NAN.to_le_bytes());
    });
    for error in
        [verify(dir.path()).unwrap_err(), source(dir.path()).read(&format!("{Q}.weight")).unwrap_err()]
    {
        assert_eq!(error.kind(), Kind::NonFinite);
        for part in ["model.safetensors", &name, &format!("at byte {offset}")] {
            assert!(error.to_string().contains(part), "{error} lacks {part}");
        }
    }
}

#[test]
fn an_ortho_column_outside_the_matrix_is_refused() {
    let dir = written();
    forge(dir.path(), ORTHO, |bytes| {
        let (offset, _) = span(bytes, &format!("{Q}.ortho_columns"));
        bytes[offset..offset + 2].copy_from_slice(&u16::MAX.to_le_bytes());
    });
    let error = source(dir.path()).read(&format!("{Q}.weight")).unwrap_err();
    assert_eq!(error.kind(), Kind::BadData);
    assert!(error.to_string().contains("columns of a sparse row"), "{error}");
}

#[test]
fn bits_after_the_last_code_are_found() {
    let dir = written();
    // 40 columns of 3 bits take 120 of 128 bits.
    forge(dir.path(), "model.safetensors", |bytes| {
        let (offset, _) = span(bytes, "model.layers.0.mlp.down_proj.weight_packed");
        bytes[offset + 15] |= 0x80;
    });
    let error = verify(dir.path()).unwrap_err();
    assert!(error.to_string().contains("row 0 holds bits after its last code"), "{error}");
}

/// What the message must hold, and how the manifest is changed.
type Forgery<'a> = (&'a str, &'a dyn Fn(&mut serde_json::Value));

#[test]
fn hostile_manifests_are_refused() {
    let dir = written();
    let path = dir.path().join("manifest.json");
    let good: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let attempt = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut bad = good.clone();
        change(&mut bad);
        fs::write(&path, bad.to_string()).unwrap();
        ArtifactSource::open(dir.path()).unwrap_err().to_string()
    };
    let cases: [Forgery<'_>; 9] = [
        ("format version 2", &|m| m["format_version"] = json!(2)),
        ("format version None", &|m| m["format_version"] = json!(null)),
        ("not of a tamis artifact", &|m| m["format"] = json!("zip")),
        ("not a plain file name", &|m| m["files"]["../x"] = m["files"]["config.json"].clone()),
        ("listed twice", &|m| m["tensors"][1] = m["tensors"][0].clone()),
        ("is no vector and no matrix", &|m| m["tensors"][0]["shape"] = json!([usize::MAX, usize::MAX])),
        ("is no vector and no matrix", &|m| m["tensors"][0]["shape"] = json!([1, 2, 3])),
        ("expected", &|m| m["tensors"][0]["shape"] = json!([1, 2])),
        ("does not list it", &|m| {
            m["tensors"].as_array_mut().unwrap().pop();
        }),
    ];
    for (part, change) in cases {
        let message = attempt(change);
        assert!(message.contains(part), "{message} lacks {part}");
    }
    let group = |m: &mut serde_json::Value| {
        let packed = m["tensors"].as_array_mut().unwrap().iter_mut().find(|t| t["encoding"]["bits"] == 4);
        packed.unwrap()["encoding"]["group"] = json!(0);
    };
    assert!(attempt(&group).contains("a group of 0"));
}

#[test]
fn a_config_that_describes_another_model_is_found() {
    let dir = written();
    for (key, value) in [("hidden_size", json!(32)), ("quantization_config", json!(null))] {
        let good = fs::read(dir.path().join("config.json")).unwrap();
        forge(dir.path(), "config.json", |bytes| {
            let mut config: serde_json::Value = serde_json::from_slice(bytes).unwrap();
            config[key] = value;
            *bytes = config.to_string().into_bytes();
        });
        assert_eq!(verify(dir.path()).unwrap_err().kind(), Kind::BadData, "{key}");
        forge(dir.path(), "config.json", |bytes| *bytes = good);
    }
    verify(dir.path()).unwrap();
}

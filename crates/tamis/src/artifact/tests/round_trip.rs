//! What is read is what was written, in every encoding.

use super::*;
use crate::load::TensorSource as _;

#[test]
fn every_encoding_comes_back() {
    let dir = written();
    let source = source(dir.path());
    let mut names = 0;
    for (name, stored) in model().into_iter().flat_map(|(_, tensors)| tensors) {
        assert_same(&name, &source.read(&name).unwrap(), &stored);
        assert_eq!(source.tensors()[&name].shape, stored.shape());
        names += 1;
    }
    assert_eq!(source.tensors().len(), names);
}

#[test]
fn parts_come_back_before_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = open(dir.path()).unwrap();
    for (part, tensors) in model() {
        writer.put(part, &tensors, receipts(part)).unwrap();
        let read = writer.read(part).unwrap();
        assert_eq!(read.len(), tensors.len());
        for ((name, stored), (read_name, read)) in tensors.iter().zip(&read) {
            assert_eq!(name, read_name);
            assert_same(name, stored, read);
        }
    }
}

#[test]
fn the_manifest_lists_every_file_and_nothing_is_left_over() {
    let dir = written();
    let manifest = Manifest::read(dir.path()).unwrap();
    let mut listed: Vec<_> = manifest.files.keys().cloned().collect();
    listed.push("manifest.json".into());
    listed.sort();
    assert_eq!(files(dir.path()).into_keys().collect::<Vec<_>>(), listed);
    assert_eq!((manifest.seed, manifest.receipts.len()), (3, 4));
}

#[test]
fn config_says_what_others_have_to_know() {
    let dir = written();
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.path().join("config.json")).unwrap()).unwrap();
    let quantization = &config["quantization_config"];
    assert_eq!(quantization["format"], "pack-quantized");
    let group = &quantization["config_groups"]["group_0"];
    assert_eq!(
        group["targets"],
        json!(["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"])
    );
    assert_eq!(group["weights"]["group_size"], 32);
    assert_eq!(
        quantization["ignore"],
        json!(["model.embed_tokens", "model.layers.0.mlp.gate_proj", "model.layers.1.mlp.gate_proj"])
    );
}

#[test]
fn kinds_read_well() {
    let dir = written();
    let source = source(dir.path());
    let kind = |name: &str| source.tensors()[name].dtype.clone();
    assert!(kind("model.layers.0.self_attn.q_proj.weight").starts_with("int4 g32 sym + ortho 12."));
    assert_eq!(kind("model.layers.0.mlp.up_proj.weight"), "int2 row sym");
    assert_eq!(kind("model.layers.0.mlp.down_proj.weight"), "int3 g32 asym");
    assert_eq!(kind("model.embed_tokens.weight"), "bf16");
}

#[test]
fn a_folder_without_its_manifest_reads_as_the_bare_base() {
    let dir = written();
    let own = source(dir.path());
    let expected: Vec<_> = own.entries().map(|e| (e.name.clone(), e.encoding.base())).collect();
    for name in ["manifest.json", "ortho.safetensors"] {
        fs::remove_file(dir.path().join(name)).unwrap();
    }
    let foreign = source(dir.path());
    assert!(foreign.manifest().is_none());
    assert_eq!(foreign.entries().map(|e| (e.name.clone(), e.encoding)).collect::<Vec<_>>(), expected);
    let q = "model.layers.0.self_attn.q_proj.weight";
    let (own, foreign) = (own.read(q).unwrap(), foreign.read(q).unwrap());
    let (Stored::Matrix(Weight::Sieved { base, .. }), Stored::Matrix(Weight::Packed(bare))) = (own, foreign)
    else {
        panic!("expected a sieved and a packed weight");
    };
    assert_eq!(base, bare);
}

/// Run with `TAMIS_ARTIFACT=folder`; `scripts/golden/check_artifact.py` reads the folder and
/// its neighbour `folder-symmetric`, in which every grid is one that transformers loads.
#[test]
#[ignore = "writes a folder for scripts/golden/check_artifact.py"]
fn write_for_other_programs() {
    let folder = std::path::PathBuf::from(std::env::var_os("TAMIS_ARTIFACT").unwrap());
    complete(open(&folder).unwrap());
    write_expected(&folder);
    let mut name = folder.file_name().unwrap().to_owned();
    name.push("-symmetric");
    let folder = folder.with_file_name(name);
    let mut writer = open(&folder).unwrap();
    let mut dice = Dice(11);
    for (part, tensors) in model() {
        let tensors: Tensors = tensors.into_iter().map(|(n, s)| (n, symmetric(&mut dice, s))).collect();
        writer.put(part, &tensors, BTreeMap::new()).unwrap();
    }
    writer.finish(finish()).unwrap();
    write_expected(&folder);
}

fn symmetric(dice: &mut Dice, stored: Stored) -> Stored {
    let shape = (stored.shape()[0], stored.shape().last().copied().unwrap());
    let Stored::Matrix(Weight::Packed(old) | Weight::Sieved { base: old, .. }) = stored else {
        return stored;
    };
    let group = if shape.1 % 32 == 0 { old.group() } else { shape.1 };
    sieved(dice, shape, Grid(old.bits(), group, Zeros::Symmetric)).into()
}

fn write_expected(folder: &Path) {
    use crate::units::Alpha;
    let source = source(folder);
    let values = |name: &String, alpha: Alpha| {
        let values = match source.read(name).unwrap() {
            Stored::Matrix(weight) => weight.to_f32(alpha),
            Stored::Vector(_) => source.vector(name).unwrap(),
        };
        values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()
    };
    for (file, alpha) in [("base.f32", Alpha::ZERO), ("whole.f32", Alpha::ONE)] {
        let bytes: Vec<u8> = source.tensors().keys().flat_map(|name| values(name, alpha)).collect();
        fs::write(folder.with_extension(file), bytes).unwrap();
    }
}

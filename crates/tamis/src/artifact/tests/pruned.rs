//! Pruned tensors come back as they were, mask and all; a folder that holds some is for nobody else.

use tamis_kernels::pack::{BitmapKind, BitmapMatrix, BlockKind, BlockMatrix};

use super::hostile::forge;
use super::*;
use crate::artifact::{inspect, verify};
use crate::load::{Checkpoint, TensorSource as _};
use crate::units::Alpha;

/// Every layout of a matrix with holes; some kept weights are zero.
fn layouts() -> Vec<(&'static str, Weight)> {
    let (rows, cols) = (40, 72);
    let mut dice = Dice(11);
    let values: Vec<f32> =
        (0..rows * cols).map(|_| if dice.next().is_multiple_of(9) { 0.0 } else { dice.unit() }).collect();
    let mut flags = |len: usize| (0..len).map(|_| dice.next().is_multiple_of(3)).collect::<Vec<bool>>();
    let (kept, blocks) = (flags(rows * cols), flags(3 * 5));
    let bitmap = |kind| Weight::Bitmap(BitmapMatrix::from_dense((rows, cols), &values, &kept, kind).unwrap());
    let block = |kind| Weight::Blocks(BlockMatrix::from_dense((rows, cols), &values, &blocks, kind).unwrap());
    vec![
        ("bitmap bf16", bitmap(BitmapKind::Bf16)),
        ("bitmap int8 g32", bitmap(BitmapKind::Int8 { group: 32 })),
        ("bitmap int4 g32", bitmap(BitmapKind::Int4 { group: 32 })),
        ("blocks bf16", block(BlockKind::Bf16)),
        ("blocks int8", block(BlockKind::Int8)),
        ("blocks int4", block(BlockKind::Int4)),
        ("csr f16", Weight::Sparse(SparseRows::from_dense((rows, cols), &values, &kept).unwrap())),
    ]
}

fn name(index: usize) -> String {
    format!("model.layers.{index}.mlp.up_proj.weight")
}

fn written_pruned() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = open(dir.path()).unwrap();
    for (index, (_, weight)) in layouts().into_iter().enumerate() {
        writer.put(Part::Block(index), &[(name(index), weight.into())], BTreeMap::new()).unwrap();
    }
    writer.finish(finish()).unwrap();
    dir
}

/// A folder that holds only some tensors of its model.
fn partial(folder: &Path) -> Checkpoint {
    let config = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    let config = crate::model::Config::from_hf(&config).unwrap();
    Checkpoint::new(folder.to_path_buf(), config, Box::new(source(folder)))
}

#[test]
fn every_layout_comes_back_with_its_mask() {
    let dir = written_pruned();
    let source = source(dir.path());
    for (index, (kind, weight)) in layouts().into_iter().enumerate() {
        let back = source.weight(&name(index)).unwrap();
        assert_eq!(back.kept(), weight.kept(), "{kind}");
        assert_eq!(back.to_f32(Alpha::ONE), weight.to_f32(Alpha::ONE), "{kind}");
        assert_eq!((back.bytes(), source.tensors()[&name(index)].dtype.as_str()), (weight.bytes(), kind));
        assert!(source.is_pruned(&name(index)));
        let zeros = back.to_f32(Alpha::ONE).iter().filter(|w| **w == 0.0).count();
        let holes = back.kept().unwrap().iter().filter(|kept| !**kept).count();
        assert!(zeros > holes, "{kind}: no kept weight is zero");
    }
}

#[test]
fn others_are_told_to_keep_away() {
    let dir = written_pruned();
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.path().join("config.json")).unwrap()).unwrap();
    let quantization = config["quantization_config"].as_object().unwrap();
    // transformers warns of a method that it does not know, and refuses a folder that names none.
    assert!(!quantization.contains_key("quant_method"));
    assert_eq!(quantization["pruned"]["csr f16"], json!(["model.layers.6.mlp.up_proj"]));
}

#[test]
fn a_folder_with_holes_that_names_a_method_is_refused() {
    let kept: Vec<bool> = (0..INNER * HIDDEN).map(|i| i % 3 == 0).collect();
    let gate = BitmapMatrix::from_dense((INNER, HIDDEN), &[0.5; INNER * HIDDEN], &kept, BitmapKind::Bf16);
    let gate = Weight::Bitmap(gate.unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mut writer = open(dir.path()).unwrap();
    for (part, mut tensors) in model() {
        for (_, stored) in tensors.iter_mut().filter(|(name, _)| name.ends_with("gate_proj.weight")) {
            *stored = gate.clone().into();
        }
        writer.put(part, &tensors, BTreeMap::new()).unwrap();
    }
    writer.finish(finish()).unwrap();
    verify(dir.path()).unwrap();
    forge(dir.path(), "config.json", |bytes| {
        let mut config: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        config["quantization_config"]["quant_method"] = json!("compressed-tensors");
        *bytes = config.to_string().into_bytes();
    });
    assert!(verify(dir.path()).is_err());
}

#[test]
fn damaged_structure_is_refused() {
    let dir = written_pruned();
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let json: serde_json::Value = serde_json::from_slice(&whole[8..header]).unwrap();
    for (index, part) in [
        (0, "weight_bitmap"),
        (0, "weight_starts"),
        (3, "weight_columns"),
        (4, "weight_starts"),
        (6, "weight_columns"),
    ] {
        let slot = name(index).replace("weight", part);
        let at = header + json[&slot]["data_offsets"][0].as_u64().unwrap() as usize;
        let mut bytes = whole.clone();
        bytes[at..at + 4].copy_from_slice(&[0xff; 4]);
        fs::write(&path, bytes).unwrap();
        assert!(source(dir.path()).weight(&name(index)).is_err(), "{slot}");
    }
}

#[test]
fn blocks_are_told_apart() {
    let (rows, cols) = (32, 40);
    // Dense, 2:4 and left out; thinned, left out but for one weight, and an edge of 2:4.
    let kept: Vec<bool> = (0..rows * cols)
        .map(|i| match (i / cols / 16, i % cols / 16) {
            (0, 0) => true,
            (0, 1) | (1, 2) => i % 4 < 2,
            (0, 2) => false,
            (1, 0) => i % 3 == 0,
            _ => i == 16 * cols + 16,
        })
        .collect();
    let weight = BitmapMatrix::from_dense((rows, cols), &vec![1.0; rows * cols], &kept, BitmapKind::Bf16);
    let dir = tempfile::tempdir().unwrap();
    let mut writer = open(dir.path()).unwrap();
    let tensor = (name(0), Weight::Bitmap(weight.unwrap()).into());
    writer.put(Part::Block(0), &[tensor], BTreeMap::new()).unwrap();
    writer.finish(finish()).unwrap();
    let report = inspect(&partial(dir.path())).unwrap();
    let blocks = report.blocks().unwrap();
    assert_eq!((blocks.dense, blocks.two_of_four, blocks.thinned, blocks.removed), (1, 2, 2, 1));
}

#[test]
fn holes_are_counted() {
    let dir = written_pruned();
    let report = inspect(&partial(dir.path())).unwrap();
    for ((_, weight), tensor) in layouts().into_iter().zip(&report.tensors) {
        let kept = weight.kept().unwrap();
        let holes = tensor.holes.unwrap();
        assert_eq!(holes.kept, kept.iter().filter(|kept| **kept).count());
        assert_eq!(holes.dead_outputs, kept.chunks(72).filter(|row| row.iter().all(|k| !k)).count());
        assert_eq!(holes.dead_inputs, (0..72).filter(|c| kept.chunks(72).all(|row| !row[*c])).count());
    }
    let whole: Vec<_> = report.tensors.iter().map(|tensor| tensor.holes.unwrap().blocks).collect();
    assert!(whole.iter().all(|blocks| blocks.total() == 3 * 5));
    assert_eq!((whole[0].thinned, whole[4].thinned, whole[4].two_of_four), (15, 0, 0));
    assert!(whole[4].dense > 0 && whole[4].removed > 0 && report.blocks().unwrap().total() == 7 * 15);
    let weights = 7.0 * 40.0 * 72.0;
    let kept: usize = report.tensors.iter().map(|t| t.holes.unwrap().kept).sum();
    assert_eq!(report.sparsity, Some((weights - kept as f64) / weights));
    assert_eq!((report.dense_bytes, report.int4_bytes), (2 * 20_160, 20_160 * (4 * 64 + 16) / 512));
}

/// The index says how long a tensor is; what it says is held against the file before anything is read.
#[test]
fn codes_of_another_width_or_number_are_refused() {
    let dir = written_pruned();
    let path = dir.path().join(crate::artifact::MANIFEST);
    let text = fs::read_to_string(&path).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    let tensors = manifest["tensors"].as_array().unwrap();
    let at =
        tensors.iter().position(|t| t["encoding"]["bits"] == 4 && t["encoding"]["kind"] == "bitmap").unwrap();
    let refused = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut manifest = manifest.clone();
        change(&mut manifest["tensors"][at]["encoding"]);
        fs::write(&path, manifest.to_string()).unwrap();
        let opened = ArtifactSource::open(dir.path());
        opened.and_then(|source| source.weight(&name(2)).map(|_| ())).is_err()
    };
    assert!(!refused(&|_| {}));
    for bits in [2, 3, 8] {
        assert!(refused(&|encoding| encoding["bits"] = json!(bits)), "{bits}");
    }
    assert!(refused(&|encoding| drop(encoding.as_object_mut().unwrap().remove("bits"))));
    assert!(refused(&|encoding| drop(encoding.as_object_mut().unwrap().remove("group"))));
    // Eight codes share a word: one more or less of them is no other number of bytes.
    let true_kept = manifest["tensors"][at]["encoding"]["kept"].as_u64().unwrap();
    let near = if true_kept.is_multiple_of(8) { true_kept - 1 } else { true_kept + 1 };
    assert_eq!(near.div_ceil(8), true_kept.div_ceil(8));
    for kept in [near, 0, 100, 40 * 72, 40 * 72 + 1, u64::from(u32::MAX), u64::MAX / 2] {
        assert!(refused(&|encoding| encoding["kept"] = json!(kept)), "{kept}");
    }
}

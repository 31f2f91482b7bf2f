//! Any bytes in any file of an artifact, and any text as a recipe, end in a value or an
//! error: never a panic, never an allocation that the file does not back.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::f16;
use proptest::prelude::*;
use serde_json::{Value, json};
use tamis::artifact::{
    ArtifactSource, BASE, Finish, Identity, MANIFEST, ORTHO, Part, Stored, Writer, inspect, verify,
};
use tamis::compress::Threads;
use tamis::error::Kind;
use tamis::job::export;
use tamis::load::{Checkpoint, TensorSource as _};
use tamis::model::{Config, Weight};
use tamis::recipe::{Format, Pattern, Recipe};
use tamis::units::Alpha;
use tamis_kernels::pack::{
    BitmapKind, BitmapMatrix, BlockData, BlockKind, BlockMatrix, DenseF32, PackedMatrix, SparseRows,
};

/// What the small Llama of [`written`] has, with rows and columns.
const WHOLE: [(&str, usize, usize); 12] = [
    ("model.embed_tokens", 8, 64),
    ("lm_head", 8, 64),
    ("model.norm", 64, 1),
    ("model.layers.0.input_layernorm", 64, 1),
    ("model.layers.0.post_attention_layernorm", 64, 1),
    ("model.layers.0.self_attn.q_proj", 64, 64),
    ("model.layers.0.self_attn.k_proj", 16, 64),
    ("model.layers.0.self_attn.v_proj", 16, 64),
    ("model.layers.0.self_attn.o_proj", 64, 64),
    ("model.layers.0.mlp.gate_proj", 40, 64),
    ("model.layers.0.mlp.up_proj", 40, 64),
    ("model.layers.0.mlp.down_proj", 64, 40),
];

/// Writes these tensors, and those that they lack, as the only block of a small Llama.
fn written(given: &[(String, Stored)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = given.to_vec();
    for (name, rows, cols) in WHOLE {
        let name = format!("{name}.weight");
        let values = vec![0.5; rows * cols];
        let stored = match cols {
            1 => Stored::from(values),
            _ => Weight::F32(DenseF32::new(rows, cols, values).unwrap()).into(),
        };
        if given.iter().all(|(other, _)| *other != name) {
            tensors.push((name, stored));
        }
    }
    let identity = Identity::new("r".into(), "m".into(), None);
    let mut writer = Writer::create_or_resume(dir.path(), &identity, Default::default()).unwrap();
    writer.put(Part::Block(0), &tensors, BTreeMap::new()).unwrap();
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 8, "hidden_size": 64,
        "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "max_position_embeddings": 64,
        "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": false,
    });
    let Value::Object(config) = config else { panic!("it is an object") };
    writer.finish(Finish { config, ..Finish::default() }).unwrap();
    dir
}

fn artifact() -> tempfile::TempDir {
    let base =
        PackedMatrix::from_codes((3, 40), 3, 32, &[5; 120], vec![f16::ONE; 6], Some(vec![1; 6])).unwrap();
    let ortho = SparseRows::new((3, 40), vec![0, 1, 1, 2], vec![3, 39], vec![f16::ONE; 2]).unwrap();
    written(&[linear("up", Weight::Sieved { base, ortho })])
}

fn linear(name: &str, weight: Weight) -> (String, Stored) {
    (format!("model.layers.0.{name}.weight"), weight.into())
}

/// Every layout with holes.
fn pruned() -> tempfile::TempDir {
    let parts = |rows: usize, cols: usize| {
        let values: Vec<f32> = (0..rows * cols).map(|i| (i as f32 * 0.37).sin()).collect();
        let kept: Vec<bool> = (0..rows * cols).map(|i| i % 3 == 0).collect();
        let blocks: Vec<bool> = (0..rows.div_ceil(16) * cols.div_ceil(16)).map(|i| i % 2 == 0).collect();
        (values, kept, blocks)
    };
    let bitmap = |rows, cols, kind| {
        let (values, kept, _) = parts(rows, cols);
        Weight::Bitmap(BitmapMatrix::from_dense((rows, cols), &values, &kept, kind).unwrap())
    };
    let blocks = |rows, cols, kind| {
        let (values, _, blocks) = parts(rows, cols);
        Weight::Blocks(BlockMatrix::from_dense((rows, cols), &values, &blocks, kind).unwrap())
    };
    let (values, kept, _) = parts(64, 40);
    written(&[
        linear("self_attn.q_proj", bitmap(64, 64, BitmapKind::Bf16)),
        linear("self_attn.k_proj", bitmap(16, 64, BitmapKind::Int8 { group: 32 })),
        linear("self_attn.v_proj", bitmap(16, 64, BitmapKind::Int4 { group: 64 })),
        linear("self_attn.o_proj", blocks(64, 64, BlockKind::Bf16)),
        linear("mlp.gate_proj", blocks(40, 64, BlockKind::Int8)),
        linear("mlp.up_proj", blocks(40, 64, BlockKind::Int4)),
        linear("mlp.down_proj", Weight::Sparse(SparseRows::from_dense((64, 40), &values, &kept).unwrap())),
    ])
}

fn exported(folder: &Path) -> tamis::Result<()> {
    let output = tempfile::tempdir().unwrap();
    let (how, target) = ((Alpha::ONE, Threads::ONE), (output.path(), Default::default()));
    export(&Checkpoint::open(folder.to_str().unwrap())?, how, target, &mut |_, _| {}).map(drop)
}

/// Opens, reads, inspects and exports everything; the verdict does not matter.
fn exercise(folder: &Path) {
    verify(folder).ok();
    if let Ok(checkpoint) = Checkpoint::open(folder.to_str().unwrap()) {
        inspect(&checkpoint).ok();
        // Every layer is a file that is synchronised, and a damaged configuration may ask for many.
        if checkpoint.config().layers.len() < 4 {
            exported(folder).ok();
        }
    }
    if let Ok(source) = ArtifactSource::open(folder) {
        for name in source.tensors().keys() {
            source.weight(name).ok();
            source.vector(name).ok();
        }
    }
}

/// Overwrites, cuts or swaps digits, the last because they hit lengths and shapes.
fn damage(bytes: &mut Vec<u8>, edits: &[(u8, u32, u8)]) {
    for &(kind, at, byte) in edits {
        if bytes.is_empty() {
            return;
        }
        let at = at as usize % bytes.len();
        match kind % 4 {
            0 => bytes[at] = byte,
            1 => bytes.truncate(at),
            2 => bytes.insert(at, byte),
            _ => {
                let from = bytes[at..].iter().position(u8::is_ascii_digit);
                if let Some(digit) = from {
                    bytes[at + digit] = b'0' + byte % 10;
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn damaged_artifacts_never_panic(
        file in prop::sample::select(vec![BASE, ORTHO, MANIFEST, "config.json"]),
        edits in prop::collection::vec(any::<(u8, u32, u8)>(), 1..6),
    ) {
        let dir = artifact();
        let path = dir.path().join(file);
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes, &edits);
        fs::write(&path, bytes).unwrap();
        exercise(dir.path());
        // The same damage without a manifest goes through the reader of other programs' folders.
        fs::remove_file(dir.path().join(MANIFEST)).unwrap();
        exercise(dir.path());
    }

    #[test]
    fn damaged_holes_never_panic(
        file in prop::sample::select(vec![BASE, MANIFEST]),
        edits in prop::collection::vec(any::<(u8, u32, u8)>(), 1..6),
    ) {
        let dir = pruned();
        let path = dir.path().join(file);
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes, &edits);
        fs::write(&path, bytes).unwrap();
        exercise(dir.path());
    }

    #[test]
    fn damaged_recipes_never_panic(
        edits in prop::collection::vec(any::<(u8, u32, u8)>(), 0..8),
        name in prop::sample::select(vec!["int4-ortho", "rtn2"]),
    ) {
        let mut bytes = Recipe::named(name).unwrap().source_text().as_bytes().to_vec();
        bytes.extend(b"\n[[override]]\nmatch = \"a.*.b\"\nbits = 8\n");
        damage(&mut bytes, &edits);
        recipe(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_text_is_a_recipe_or_an_error(text in "\\PC{0,200}") {
        recipe(&text);
        recipe(&format!("name: {text}\n"));
    }

    #[test]
    fn patterns_match_themselves_and_what_they_say(name in "[a-z0-9_]{1,8}(\\.[a-z0-9_]{1,8}){0,4}") {
        prop_assert!(Pattern::new(&name).unwrap().matches(&name));
        prop_assert!(Pattern::new("**").unwrap().matches(&name));
        prop_assert_eq!(Pattern::new("*").unwrap().matches(&name), !name.contains('.'));
    }
}

#[test]
fn a_sound_artifact_with_holes_is_inspected_and_exported() {
    let dir = pruned();
    let report = inspect(&Checkpoint::open(dir.path().to_str().unwrap()).unwrap()).unwrap();
    assert_eq!(report.tensors.iter().filter(|tensor| tensor.holes.is_some()).count(), 7);
    exported(dir.path()).unwrap();
}

/// A matrix of which nothing is kept takes a few bytes a row, whatever it says of its size.
#[test]
fn places_that_no_file_backs_are_not_allocated() {
    let side = 1 << 20;
    let starts = vec![0; side / 16 + 1];
    let blocks = BlockMatrix::from_parts((side, side), starts, vec![], BlockData::Bf16(vec![])).unwrap();
    let dir = written(&[linear("mlp.up_proj", Weight::Blocks(blocks))]);
    // Opened as a model it would be refused for its shape.
    let config = serde_json::from_slice(&fs::read(dir.path().join("config.json")).unwrap()).unwrap();
    let source = Box::new(ArtifactSource::open(dir.path()).unwrap());
    let opened = Checkpoint::new(dir.path().into(), Config::from_hf(&config).unwrap(), source);
    let report = inspect(&opened).unwrap();
    let holes = report.tensors.iter().find_map(|tensor| tensor.holes).unwrap();
    assert_eq!((holes.kept, holes.blocks.removed), (0, (side / 16) * (side / 16)));
    let error = exported(dir.path()).unwrap_err();
    assert_eq!(error.kind(), Kind::BadData);
    assert!(error.to_string().contains("the configuration asks for [40, 64]"), "{error}");
    // No other linear of that name is known to the configuration.
    let blocks = BlockMatrix::from_parts((64, 64), vec![0; 5], vec![], BlockData::Bf16(vec![])).unwrap();
    let dir = written(&[linear("mlp.other_proj", Weight::Blocks(blocks))]);
    let error = exported(dir.path()).unwrap_err();
    assert!(error.to_string().contains("no linear of the configuration"), "{error}");
}

#[test]
fn sparse_rows_without_a_column_are_refused() {
    let nothing = SparseRows::from_dense((64, 40), &[0.0; 64 * 40], &[false; 64 * 40]).unwrap();
    let dir = written(&[linear("mlp.down_proj", Weight::Sparse(nothing))]);
    let path = dir.path().join(MANIFEST);
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let tensors = manifest["tensors"].as_array_mut().unwrap();
    let down =
        tensors.iter_mut().find(|t| t["name"].as_str().unwrap().ends_with("down_proj.weight")).unwrap();
    down["shape"] = json!([64, 0]);
    fs::write(&path, manifest.to_string()).unwrap();
    let source = ArtifactSource::open(dir.path()).unwrap();
    let error = source.weight("model.layers.0.mlp.down_proj.weight").unwrap_err();
    assert!(error.to_string().contains("0 columns"), "{error}");
    exercise(dir.path());
}

fn recipe(text: &str) {
    for format in [Format::Toml, Format::Yaml] {
        if let Ok(recipe) = Recipe::parse(text, format, Path::new("r")) {
            recipe.resolve(&["a.1.b", "model.layers.0.mlp.up_proj"]).ok();
        }
    }
}

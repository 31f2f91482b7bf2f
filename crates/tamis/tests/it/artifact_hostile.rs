//! Any bytes in any file of an artifact, and any text as a recipe, end in a value or an
//! error: never a panic, never an allocation that the file does not back.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::f16;
use proptest::prelude::*;
use tamis::artifact::{
    ArtifactSource, BASE, Finish, Identity, MANIFEST, ORTHO, Part, Stored, Writer, verify,
};
use tamis::load::TensorSource as _;
use tamis::model::Weight;
use tamis::recipe::{Format, Pattern, Recipe};
use tamis_kernels::pack::{PackedMatrix, SparseRows};

fn artifact() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::new("r".into(), "m".into(), None);
    let mut writer = Writer::create_or_resume(dir.path(), &identity, Default::default()).unwrap();
    let base =
        PackedMatrix::from_codes((3, 40), 3, 32, &[5; 120], vec![f16::ONE; 6], Some(vec![1; 6])).unwrap();
    let ortho = SparseRows::new((3, 40), vec![0, 1, 1, 2], vec![3, 39], vec![f16::ONE; 2]).unwrap();
    let tensors: [(String, Stored); 2] = [
        ("model.layers.0.up.weight".into(), Weight::Sieved { base, ortho }.into()),
        ("model.norm.weight".into(), vec![1.0f32; 4].into()),
    ];
    writer.put(Part::Block(0), &tensors, BTreeMap::new()).unwrap();
    writer.finish(Finish::default()).unwrap();
    dir
}

/// Opens and reads everything; the verdict does not matter.
fn exercise(folder: &Path) {
    verify(folder).ok();
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

fn recipe(text: &str) {
    for format in [Format::Toml, Format::Yaml] {
        if let Ok(recipe) = Recipe::parse(text, format, Path::new("r")) {
            recipe.resolve(&["a.1.b", "model.layers.0.mlp.up_proj"]).ok();
        }
    }
}

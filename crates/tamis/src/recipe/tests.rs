//! Recipes as people write them, right and wrong.

use std::path::Path;

use super::*;
use crate::compress::OnSingular;

fn names() -> Vec<String> {
    let linears = ["self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"];
    (0..3).flat_map(|i| linears.map(|l| format!("model.layers.{i}.{l}.weight"))).collect()
}

fn toml(text: &str) -> Result<Recipe> {
    Recipe::parse(text, Format::Toml, Path::new("r.toml"))
}

fn yaml(text: &str) -> Result<Recipe> {
    Recipe::parse(text, Format::Yaml, Path::new("r.yaml"))
}

const TOML: &str = r#"
name = "mine"
embedding = 8
on-singular = "fail"
[default]
bits = 3
group = "row"
[[override]]
match = "model.layers.*.mlp.*"
bits = 4
group = 32
[[override]]
match = "model.layers.0.**.weight"
bits = 8
"#;

const YAML: &str = r#"
name: mine
embedding: 8
on-singular: fail
default:
  bits: 3
  group: row
override:
  - match: model.layers.*.mlp.*
    bits: 4
    group: 32
  - match: model.layers.0.**.weight
    bits: 8
"#;

#[test]
fn both_formats_say_the_same() {
    let (toml, yaml) = (toml(TOML).unwrap(), yaml(YAML).unwrap());
    assert_eq!(toml.to_json(), yaml.to_json());
    assert_eq!(toml.hash(), yaml.hash());
    assert_eq!((toml.embedding, toml.head), (EndBits::Eight, EndBits::Sixteen));
    assert_eq!(toml.source_text(), TOML);
}

#[test]
fn later_overrides_win_field_by_field() {
    let plans = toml(TOML).unwrap().resolve(&names()).unwrap();
    let plan = |name: &str| &plans.iter().find(|(n, _)| n == name).unwrap().1;
    let q = plan("model.layers.1.self_attn.q_proj.weight");
    assert_eq!((q.bits.get(), q.group), (3, GroupSize::Row));
    let up = plan("model.layers.1.mlp.up_proj.weight");
    assert_eq!((up.bits.get(), up.group), (4, GroupSize::Of(32)));
    let first = plan("model.layers.0.mlp.up_proj.weight");
    assert_eq!((first.bits.get(), first.group), (8, GroupSize::Of(32)));
    assert!(plans.iter().all(|(_, p)| p.on_singular == OnSingular::Fail));
    assert_eq!(plans.len(), names().len());
}

/// Format, text, line, and what the message must hold.
const WRONG: [(Format, &str, u64, &[&str]); 11] = [
    (
        Format::Toml,
        "name = \"a\"\n[default]\n bist = 4\n",
        3,
        &["r.toml:3", "unknown field `bist`", "column 2", "did you mean `bits`?"],
    ),
    (
        Format::Yaml,
        "name: a\ndefault:\n  bist: 4\n",
        3,
        &["r.yaml:3", "`bist`", "column 3", "did you mean `bits`?"],
    ),
    (Format::Toml, "name = \"a\"\ndefalt = 1\n", 2, &["did you mean `default`?"]),
    (Format::Toml, "name = \"a\"\n[default]\nmethod = \"gptqq\"\n", 3, &["did you mean `gptq`?"]),
    (Format::Yaml, "name: a\ndefault:\n  method: gptqq\n", 3, &["did you mean `gptq`?"]),
    (Format::Toml, "name = \"a\"\n[default]\nbits = 5\n", 3, &["bits must be 2, 3, 4 or 8, not 5"]),
    (Format::Yaml, "name: a\ndefault:\n  bits: 5\n", 3, &["bits must be 2, 3, 4 or 8, not 5"]),
    (
        Format::Toml,
        "name = \"a\"\n[[override]]\nmatch = \"x\"\n[[overide]]\n",
        4,
        &["did you mean `override`?"],
    ),
    (Format::Toml, "name = \"a\"\nembedding = 3\n", 2, &["16, 8 or 4 bits, not 3"]),
    (Format::Toml, "name = \"a\"\nname = \"b\"\n", 2, &["duplicate key"]),
    (Format::Yaml, "name: a\nname: b\n", 2, &["duplicate"]),
];

#[test]
fn mistakes_are_named_with_their_place() {
    for (format, text, line, parts) in WRONG {
        let origin = if format == Format::Toml { "r.toml" } else { "r.yaml" };
        let error = Recipe::parse(text, format, Path::new(origin)).unwrap_err();
        let message = error.to_string();
        assert_eq!((error.kind(), error.exit_code()), (Kind::Recipe, 78), "{message}");
        assert!(message.starts_with(&format!("{origin}:{line}: ")), "{text}: {message}");
        for part in parts {
            assert!(message.contains(part), "{text}: {message} lacks {part}");
        }
    }
}

#[test]
fn an_unmatched_override_is_found_before_any_work() {
    let recipe = toml("name = \"a\"\n\n[[override]]\nmatch = \"model.layers.*.mlp.dwn_proj\"\n").unwrap();
    let message = recipe.resolve(&names()).unwrap_err().to_string();
    for part in
        ["r.toml:4", "matches none of the 12 linears", "did you mean \"model.layers.*.mlp.down_proj\"?"]
    {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn plans_without_meaning_are_refused_when_read() {
    let text = "name = \"a\"\n[[override]]\nmatch = \"x.*\"\nmethod = \"rtn\"\northo = \"joint\"\n";
    let error = toml(text).unwrap_err();
    assert_eq!(error.kind(), Kind::Recipe);
    assert!(error.to_string().starts_with("r.toml:3: "), "{error}");
    assert!(toml("name = \"a\"\n[default]\nmatch = \"x\"\n").is_err());
    assert!(toml("name = \"a\"\n[[override]]\nbits = 4\n").is_err());
    assert!(toml("name = \"a\"\n[calibration]\nsamples = 0\n").is_err());
}

#[test]
fn hostile_text_ends_quickly() {
    let bombs = [
        "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
         d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\nname: [*d,*d,*d,*d,*d,*d,*d,*d,*d]\n"
            .to_owned(),
        format!("name: {}", "[".repeat(100_000)),
        format!("name: {}", "{a: ".repeat(100_000)),
        "name: a\n---\nname: b\n".to_owned(),
    ];
    for bomb in &bombs {
        assert_eq!(yaml(bomb).unwrap_err().kind(), Kind::Recipe);
    }
    assert_eq!(toml(&format!("name = {}", "[".repeat(100_000))).unwrap_err().kind(), Kind::Recipe);
    let long = " ".repeat(MAX_BYTES as usize + 1);
    assert!(toml(&long).unwrap_err().to_string().contains("at most"));
}

#[test]
fn a_file_is_read_by_extension_and_else_by_content() {
    let dir = tempfile::tempdir().unwrap();
    let texts = [("a.toml", TOML), ("a.yaml", YAML), ("a.yml", YAML), ("a.recipe", TOML), ("b.recipe", YAML)];
    for (name, text) in texts {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        assert_eq!(Recipe::from_file(&path).unwrap().name, "mine", "{name}");
    }
    let error = Recipe::from_file(&dir.path().join("none.toml")).unwrap_err();
    assert_eq!(error.kind(), Kind::Missing);
    let binary = dir.path().join("b.toml");
    std::fs::write(&binary, [0xff, 0xfe]).unwrap();
    assert_eq!(Recipe::from_file(&binary).unwrap_err().kind(), Kind::Recipe);
}

#[test]
fn every_embedded_recipe_is_valid_and_called_by_its_name() {
    let list = Recipe::list();
    assert_eq!(list.len(), 16);
    for summary in list {
        let recipe = Recipe::named(&summary.name).unwrap();
        assert_eq!(recipe.name, summary.name);
        assert!(!recipe.description.is_empty());
        assert_eq!(recipe.resolve(&names()).unwrap().len(), names().len());
    }
    let message = Recipe::named("int4-orto").unwrap_err().to_string();
    assert!(message.contains("did you mean \"int4-ortho\"?"), "{message}");
}

#[test]
fn an_ortho_recipe_has_the_base_of_its_plain_one() {
    for bits in ["int4", "int3", "int2"] {
        let with = Recipe::named(&format!("{bits}-ortho")).unwrap().default;
        let without = Recipe::named(bits).unwrap().default;
        assert_ne!(with.ortho, OrthoMode::None);
        assert_eq!(TensorPlan { ortho: without.ortho, density: without.density, ..with }, without);
    }
}

#[test]
fn the_hash_follows_the_meaning_and_not_the_layout() {
    let plain = toml(TOML).unwrap();
    assert_eq!(toml(&format!("# a comment\n{TOML}")).unwrap().hash(), plain.hash());
    assert_ne!(toml(&TOML.replace("bits = 8", "bits = 2")).unwrap().hash(), plain.hash());
}

const PRUNING: &str = r#"
name = "holes"
[default]
method = "prune"
score = "diagonal"
pattern = "16x16"
sparsity = 0.4
kept = "int4"
update = "refit"
rounds = 3
[[override]]
match = "**.down_proj"
score = "sparsegpt"
pattern = "2:4"
order = "none"
kept = "bf16"
update = "none"
rounds = 1
[[override]]
match = "model.layers.0.**"
method = "keep"
"#;

#[test]
fn pruning_is_said_field_by_field() {
    let holes = toml(&PRUNING.replace("sparsity = 0.4\n", "")).unwrap();
    let plans = holes.resolve(&names()).unwrap();
    let plan = |name: &str| &plans.iter().find(|(n, _)| n == name).unwrap().1;
    let up = plan("model.layers.1.mlp.up_proj.weight");
    assert_eq!((up.method, up.pruning.share().get(), up.pruning.rounds.get()), (Method::Prune, 0.5, 3));
    let down = plan("model.layers.1.mlp.down_proj.weight");
    assert_eq!(down.pruning.pattern, Pruned::OfEach { keep: 2, of: 4 });
    assert_eq!(plan("model.layers.0.mlp.down_proj.weight").method, Method::Keep);
    // 2:4 leaves out a half, not what was asked for elsewhere.
    let error = toml(PRUNING).unwrap_err();
    assert!(error.to_string().contains("\"2:4\" leaves out 0.5 of the weights, not 0.4"), "{error}");
}

#[test]
fn pruning_without_meaning_is_refused() {
    let wrong = [
        ("pattern = \"16by16\"", "is no pattern"),
        ("pattern = \"4:2\"", "is no pattern"),
        ("score = \"diagonal\"", "does not fit the pattern"),
        ("pattern = \"16x16\"", "does not fit the pattern"),
        ("score = \"sparsegpt\"\nrounds = 2", "at once"),
        ("score = \"sparsegpt\"\npattern = \"matrix\"", "not by the whole matrix"),
        ("score = \"sparsegpt\"\npattern = \"2:4\"", "visits neighbours together"),
        ("pattern = \"tiers\"", "does not fit the pattern"),
        ("score = \"diagonal\"\npattern = \"tiers\"\nrounds = 2", "tiers are chosen at once"),
        ("score = \"diagonal\"\npattern = \"2:4, dense\"\nsparsity = 0.6", "leave out 0 to 0.5"),
        ("score = \"diagonal\"\npattern = \"2:4, dens\"", "is no tier"),
        ("score = \"sparsegpt\"\npattern = \"tiers\"", "visits neighbours together"),
        ("kept = \"int3\"", ""),
        ("permute = true", "sorted units are for blocks"),
        ("ortho = \"quality\"", "nothing is quantised"),
        ("sparsity = 1.0", "must lie in [0, 1)"),
        ("rounds = 0", ""),
    ];
    for (line, part) in wrong {
        let error = toml(&format!("name = \"a\"\n[default]\nmethod = \"prune\"\n{line}\n")).unwrap_err();
        assert!(error.to_string().contains(part), "{line}: {error}");
    }
}

#[test]
fn keys_that_do_nothing_are_refused_by_name() {
    let of_pruning = [
        ("score", "\"wanda\""),
        ("pattern", "\"rows\""),
        ("sparsity", "0.5"),
        ("kept", "\"int4\""),
        ("update", "\"refit\""),
        ("rounds", "2"),
        ("least", "1"),
        ("permute", "true"),
    ];
    let of_grids = [("bits", "4"), ("symmetry", "\"symmetric\""), ("clip", "\"off\""), ("density", "0.01")];
    let refused = |method: &str, (key, value): (&str, &str)| {
        let text = format!("name = \"a\"\n[default]\nmethod = \"{method}\"\n{key} = {value}\n");
        let error = toml(&text).unwrap_err();
        assert_eq!(error.kind(), Kind::Recipe);
        let (message, named) = (error.to_string(), format!("`{key}` in [default]"));
        assert!(message.contains(&named) && message.contains("next: leave it out"), "{message}");
    };
    for method in ["rtn", "gptq", "keep"] {
        of_pruning.iter().for_each(|key| refused(method, *key));
    }
    for method in ["prune", "keep"] {
        of_grids.iter().for_each(|key| refused(method, *key));
    }
    let kept = "name = \"a\"\n[[override]]\nmatch = \"x.*\"\nmethod = \"keep\"\nbits = 8\n";
    let message = toml(kept).unwrap_err().to_string();
    assert!(message.starts_with("r.toml:3: `bits` in override \"x.*\""), "{message}");
    // What one section leaves unused, another may inherit or ask for.
    let inherited =
        "[default]\nmethod = \"prune\"\nbits = 3\n[[override]]\nmatch = \"x.*\"\nmethod = \"gptq\"\n";
    let asked =
        "[[override]]\nmatch = \"x.*\"\nmethod = \"prune\"\n[[override]]\nmatch = \"x.y\"\nsparsity = 0.2\n";
    for text in [inherited, asked] {
        toml(&format!("name = \"a\"\n{text}")).unwrap();
    }
}

#[test]
fn what_is_refused_says_what_to_do_next() {
    let share = |share| Sparsity::new(share).unwrap();
    let error = Recipe::named("2of4").unwrap().leave_out(share(0.7)).unwrap_err();
    let message = error.to_string();
    assert_eq!(error.kind(), Kind::Recipe);
    assert!(message.starts_with("2of4.toml: \"2:4\" leaves out 0.5"), "{message}");
    assert!(message.contains("next: leave the sparsity out"), "{message}");
    Recipe::named("2of4").unwrap().leave_out(share(0.5)).unwrap();
    // 1 - 4 / 5 is not 0.2 in the last bit.
    let four_of_five = "name = \"a\"\n[default]\nmethod = \"prune\"\npattern = \"4:5\"\nsparsity = 0.2\n";
    toml(four_of_five).unwrap();
    assert!(toml(&four_of_five.replace("0.2", "0.21")).is_err());
}

#[test]
fn allocation_leaves_patterns_that_are_not_free_alone() {
    let text = "name = \"a\"\n[default]\nmethod = \"prune\"\n[[override]]\nmatch = \"**.down_proj\"\n\
                score = \"diagonal\"\npattern = \"dense, 3/4, 1/2, 1/4\"\n[[override]]\nmatch = \"**.up_proj\"\n\
                pattern = \"2:4\"\n";
    let recipe = toml(text).unwrap();
    for (name, plan) in recipe.resolve(&names()).unwrap() {
        assert_eq!(recipe.governs(&name, &plan), name.contains("self_attn"), "{name}");
    }
}

#[test]
fn an_allocation_is_read_checked_and_part_of_the_hash() {
    let of =
        |lines: &str| toml(&format!("name = \"a\"\n[default]\nmethod = \"prune\"\n[allocation]\n{lines}\n"));
    let level = of("").unwrap();
    assert!(level.allocation.is_level() && level.allocation.windows() == 0);
    let owl = of("over = \"owl\"\noutlier = 7\nends = [3, 2]").unwrap();
    assert_eq!((owl.allocation.over, owl.allocation.outlier, owl.allocation.lambda), (Over::Owl, 7.0, 0.08));
    assert_ne!(owl.hash(), level.hash());
    assert!(of("over = \"measured\"").unwrap().allocation.windows() > 0);
    let wrong = [
        ("over = \"owls\"", "did you mean `owl`?"),
        ("lamda = 0.1", "did you mean `lambda`?"),
        ("lambda = 1.0", "lambda must lie"),
        ("outlier = 0", "outlier"),
        ("candidates = []", "candidates"),
        ("candidates = [2.0]", "candidates"),
        ("over = \"owl\"\nper = \"linear\"", "only measured"),
        ("trial = 0", "at least one window"),
        ("ends = [-1, 0]", ""),
    ];
    for (lines, part) in wrong {
        let error = of(lines).unwrap_err();
        assert!(error.to_string().contains(part), "{lines}: {error}");
    }
    let mut fixed = Recipe::named("2of4").unwrap();
    assert!(fixed.allocate(Over::Owl).unwrap_err().to_string().contains("free to choose"));
    assert!(Recipe::named("int4").unwrap().allocate(Over::Owl).is_err());
    for over in [Over::Owl, Over::Slope, Over::Measured] {
        // Not every share is one that the tiers can make.
        let error = Recipe::named("tiers50").unwrap().allocate(over).unwrap_err();
        assert!(error.to_string().contains("free to choose"), "{over:?}: {error}");
    }
    assert!(Recipe::named("wanda50").unwrap().allocate(Over::Owl).is_ok());
}

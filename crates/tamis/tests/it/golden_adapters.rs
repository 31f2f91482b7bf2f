//! LoRA adapters: logits of Python peft on both op sets, several adapters over one decoder, and adapters
//! that tamis writes. `scripts/golden/peft_adapter.py` made the golden files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::SafeTensors;
use tamis::load::{Checkpoint, open_adapter};
use tamis::model::{Adapter, Decoder, Engine, LanguageModel, Rows, Weight};
use tamis::ops::{CacheType, Cpu, Isa, Ops, Precision, Reference};
use tamis::recover::peft::{Master, masters, write_adapter};
use tamis::recover::trainable::{Extras, LoraSpec, Method, Spec, prepare};
use tamis::units::Alpha;

/// Largest difference of a logit from peft's in f64, relative to the largest logit: f32 through two layers.
const TOLERANCE: f32 = 1e-5;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn open(model: &str) -> Checkpoint {
    Checkpoint::open(golden("models").join(model).to_str().unwrap()).unwrap()
}

fn expected(adapter: &Path) -> (Vec<u32>, Vec<f32>) {
    let bytes = std::fs::read(adapter.join("golden.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tokens = file.tensor("tokens").unwrap().data().as_chunks::<8>().0.to_vec();
    let logits = file.tensor("logits").unwrap().data().as_chunks::<4>().0.to_vec();
    let tokens = tokens.into_iter().map(|b| u64::from_le_bytes(b) as u32).collect();
    (tokens, logits.into_iter().map(f32::from_le_bytes).collect())
}

fn op_sets() -> Vec<Arc<dyn Ops>> {
    let mut sets: Vec<Arc<dyn Ops>> = vec![Arc::new(Reference)];
    for isa in Isa::available() {
        sets.push(Arc::new(Cpu::new(isa, 2, Precision::F32)));
    }
    sets
}

fn score(engine: &Engine, tokens: &[u32]) -> Vec<f32> {
    let mut logits = Vec::new();
    engine.start().push(tokens, Alpha::ONE, Rows::All, &mut logits).unwrap();
    logits
}

fn off(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest
}

#[test]
fn adapters_give_the_logits_of_peft() {
    for (model, name, linears) in [("llama-gqa", "llama-gqa", 8), ("qwen2", "qwen2-patterns", 12)] {
        let folder = golden("adapters").join(name);
        let (tokens, expected) = expected(&folder);
        let checkpoint = open(model);
        let adapter = open_adapter(&folder, checkpoint.config()).unwrap();
        assert_eq!(adapter.names().count(), linears);
        for ops in op_sets() {
            let decoder = Decoder::load(&checkpoint, &*ops).unwrap();
            let mut engine = Engine::new(decoder, ops.clone(), CacheType::F32);
            let plain = score(&engine, &tokens);
            engine.select(Some(&adapter)).unwrap();
            let worst = off(&score(&engine, &tokens), &expected);
            assert!(worst <= TOLERANCE, "{name} {ops:?}: {worst}");
            engine.select(None).unwrap();
            assert!(score(&engine, &tokens) == plain, "{name}: an adapter leaves no trace");
        }
    }
}

/// Where the numbers of the first linear lie in memory.
fn place(engine: &Engine) -> *const f32 {
    match &engine.decoder().blocks()[0].linear(tamis::model::block::Role::Q).unwrap().weight {
        Weight::F32(weight) => weight.data().as_ptr(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn adapters_take_turns_over_the_same_weights() {
    let checkpoint = open("llama-gqa");
    let first = open_adapter(&golden("adapters/llama-gqa"), checkpoint.config()).unwrap();
    let alone = |name: &str| {
        let part = first.get(name).unwrap();
        Adapter::new([(name.to_owned(), (**part).clone())])
    };
    let second = alone("model.layers.1.mlp.down_proj");
    let ops: Arc<dyn Ops> = Arc::new(Cpu::new(Isa::from_env().unwrap(), 2, Precision::F32));
    let fresh = || Engine::new(Decoder::load(&checkpoint, &*ops).unwrap(), ops.clone(), CacheType::F32);
    let tokens: Vec<u32> = (3..20).collect();
    let with = |adapter: Option<&Adapter>| {
        let mut engine = fresh();
        engine.select(adapter).unwrap();
        score(&engine, &tokens)
    };
    let mut engine = fresh();
    let before = place(&engine);
    for adapter in [Some(&first), Some(&second), None, Some(&second), Some(&first), None] {
        engine.select(adapter).unwrap();
        assert!(score(&engine, &tokens) == with(adapter));
        assert_eq!(place(&engine), before, "no weight is copied");
    }
    let other = engine.clone();
    assert!(engine.select(Some(&first)).is_err(), "a shared decoder does not change under its users");
    drop(other);
    let mut foreign =
        Engine::new(Decoder::load(&open("opt-125m-like"), &*ops).unwrap(), ops.clone(), CacheType::F32);
    let untouched = score(&foreign, &tokens);
    assert!(foreign.select(Some(&first)).is_err());
    assert!(score(&foreign, &tokens) == untouched, "a refused adapter changes nothing");
}

fn spec() -> LoraSpec {
    let targets = ["q_proj", "o_proj", "gate_proj", "1.mlp.down_proj"].map(str::to_owned).to_vec();
    LoraSpec { rank: 3, alpha: 5.0, rank_stabilised: true, targets }
}

#[test]
fn what_is_trained_can_be_written_and_read() {
    let checkpoint = open("llama-gqa");
    let ops: Arc<dyn Ops> = Arc::new(Reference);
    let decoder = Decoder::load(&checkpoint, &*ops).unwrap();
    let extras = Extras { norms: false, embedding: false };
    let plan = Spec { method: Method::Lora, lora: spec(), extras, seed: 7 };
    let mut student = prepare(decoder.clone(), &plan).unwrap();
    for (index, parameter) in student.parameters.all_mut().iter_mut().enumerate() {
        let value = |at: usize| ((at * 7 + index * 13) as f32).sin() * 0.3;
        parameter.values.iter_mut().enumerate().for_each(|(at, v)| *v = value(at));
    }
    let how = tamis::recover::student::Arithmetic {
        ops: &Reference,
        cache: CacheType::F32,
        exact: true,
        checkpointing: tamis::recover::student::Checkpointing::Off,
    };
    student.refresh(how).unwrap();
    let keep = std::env::var_os("TAMIS_KEEP_ADAPTER").map(PathBuf::from);
    let temporary = tempfile::tempdir().unwrap();
    let folder = keep.clone().unwrap_or_else(|| temporary.path().join("adapter"));
    write_adapter(
        &folder,
        &plan.lora,
        "llama-gqa",
        &masters(student.decoder.config(), (&student.plan, &student.parameters)),
    )
    .unwrap();
    let adapter = open_adapter(&folder, checkpoint.config()).unwrap();
    assert_eq!(adapter.names().count(), 7);

    let (tokens, _) = expected(&golden("adapters/llama-gqa"));
    let trained = score(&Engine::new(student.decoder, ops.clone(), CacheType::F32), &tokens);
    let mut engine = Engine::new(decoder, ops, CacheType::F32);
    assert!(off(&score(&engine, &tokens), &trained) > 0.01);
    engine.select(Some(&adapter)).unwrap();
    let read = score(&engine, &tokens);
    assert!(read == trained, "written numbers are read back bit for bit");
    if keep.is_some() {
        keep_logits(&folder.join("logits.safetensors"), &tokens, &read);
    }
}

/// For `scripts/golden/check_adapter.py`, which asks peft the same.
fn keep_logits(path: &Path, tokens: &[u32], logits: &[f32]) {
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;
    let ids: Vec<u8> = tokens.iter().flat_map(|t| u64::from(*t).to_le_bytes()).collect();
    let values: Vec<u8> = logits.iter().flat_map(|l| l.to_le_bytes()).collect();
    let (n, vocab) = (tokens.len(), logits.len() / tokens.len());
    let tensors = [
        ("tokens", TensorView::new(Dtype::I64, vec![n], &ids).unwrap()),
        ("logits", TensorView::new(Dtype::F32, vec![n, vocab], &values).unwrap()),
    ];
    safetensors::serialize_to_file(tensors, None, path).unwrap();
}

#[test]
fn pairs_that_are_none_are_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (vec![0.5; 3 * 8], vec![0.5; 6 * 3]);
    let pair = |layer: usize| {
        let name = |end: &str| format!("model.layers.{layer}.self_attn.q_proj.lora_{end}.weight");
        (name("A"), name("B"))
    };
    let (first, second) = (pair(0), pair(1));
    let master = |name, shape, values| Master { name, shape, values };
    let good = [master(&first.0, [3, 8], &a), master(&first.1, [6, 3], &b)];
    write_adapter(folder.path(), &spec(), "m", &good).unwrap();
    let nan = vec![f32::NAN; 18];
    let bad: [&[Master<'_>]; 6] = [
        &[],
        &good[..1],
        &[good[0], good[1], good[1]],
        &[good[0], master(&second.1, [6, 3], &b)],
        &[good[0], master(&first.1, [9, 2], &b)],
        &[good[0], master(&first.1, [6, 3], &nan)],
    ];
    for masters in bad {
        assert!(write_adapter(folder.path(), &spec(), "m", masters).is_err(), "{masters:?}");
    }
    let foreign = LoraSpec { targets: vec!["v_proj".into()], ..spec() };
    assert!(write_adapter(folder.path(), &foreign, "m", &good).is_err());
}

//! Gradients of whole decoders: against PyTorch on golden files, against central differences, and of
//! both op sets against each other. `scripts/golden/gradients.py` made the golden files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;

use super::crown::{self, Goal, Opinions};
use super::feature::Features;
use super::gradient::Dropout;
use super::parameters::Parameters;
use super::student::{Arithmetic, Batch, Checkpointing, Student, streams};
use super::trainable::{Extras, LoraSpec, Method, Spec, prepare};
use crate::load::Checkpoint;
use crate::model::Decoder;
use crate::model::block::Role;
use crate::ops::{Backward, CacheType, Cpu, Isa, Precision, Reference};

/// Largest difference of a gradient from PyTorch's, relative to the largest entry of its tensor: f32
/// sums through seven blocks and back against f64.
const GOLDEN: f32 = 3e-4;
/// Of a loss, relative.
const LOSS: f64 = 2e-6;
/// A slope measured by two losses in f32: their last bits over the step.
const SLOPE: f64 = 2e-2;

fn models() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models");
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    assert!(found.len() >= 10);
    found
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    file.tensor(name).unwrap().data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn tokens(folder: &Path) -> Vec<u32> {
    let bytes = std::fs::read(folder.join("golden.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensor("tokens")
        .unwrap()
        .data()
        .as_chunks::<8>()
        .0
        .iter()
        .map(|b| u64::from_le_bytes(*b) as u32)
        .collect()
}

fn golden_logits(folder: &Path) -> Vec<f32> {
    let bytes = std::fs::read(folder.join("golden.safetensors")).unwrap();
    floats(&SafeTensors::deserialize(&bytes).unwrap(), "logits")
}

fn decoder(folder: &Path) -> Decoder {
    Decoder::load(&Checkpoint::open(folder.to_str().unwrap()).unwrap(), &Reference).unwrap()
}

fn spec(method: Method) -> Spec {
    let lora = LoraSpec {
        rank: 3,
        alpha: 6.0,
        rank_stabilised: false,
        targets: ["q_proj", "v_proj", "o_proj", "out_proj", "up_proj", "fc1", "down_proj", "fc2"]
            .map(str::to_owned)
            .into(),
    };
    Spec { method, lora, extras: Extras { norms: true, embedding: method == Method::Full }, seed: 1 }
}

fn exact(ops: &dyn Backward) -> Arithmetic<'_> {
    Arithmetic { ops, cache: CacheType::F32, exact: true, checkpointing: Checkpointing::Off }
}

/// The next token alone.
/// With additions beside the linears of [`spec`] that the model has.
fn adapted(folder: &Path) -> Student {
    let (decoder, mut spec) = (decoder(folder), spec(Method::Lora));
    let config = decoder.config();
    let names: Vec<String> =
        Role::ALL.iter().filter(|r| r.is_in(config)).map(|r| r.name(config, 0)).collect();
    spec.lora.targets.retain(|target| names.iter().any(|name| name.ends_with(target.as_str())));
    prepare(decoder, &spec).unwrap()
}

fn goal(targets: &[u32]) -> Goal<'_> {
    Goal {
        targets,
        next_token: 1.0,
        teacher: None,
        distillation: 0.0,
        temperature: 1.0,
        features: None,
        rows: targets.len(),
    }
}

/// Mean losses of one batch of a single sequence.
fn learn(student: &mut Student, how: Arithmetic<'_>, tokens: &[u32], goal: Goal<'_>) -> (f64, f64) {
    let batch = Batch { tokens, length: tokens.len(), dropout: Dropout::default() };
    let losses = student.learn(how, batch, goal).unwrap();
    (losses.next_token / goal.rows as f64, losses.divergence / goal.rows as f64)
}

fn op_sets() -> Vec<Box<dyn Backward>> {
    let mut sets: Vec<Box<dyn Backward>> = vec![Box::new(Reference)];
    sets.extend(
        Isa::available()
            .into_iter()
            .map(|isa| Box::new(Cpu::new(isa, 2, Precision::F32)) as Box<dyn Backward>),
    );
    sets
}

fn grads(parameters: &Parameters) -> BTreeMap<String, Vec<f32>> {
    parameters.all().iter().map(|p| (p.name.clone(), p.grads.clone())).collect()
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    // Softmax cancels a key bias without rotary positions: its gradient is nothing but last bits.
    let largest = b.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest
}

#[test]
fn every_family_has_the_gradients_of_pytorch_on_every_op_set() {
    for folder in models() {
        let bytes = std::fs::read(folder.join("gradients.safetensors")).unwrap();
        let golden = SafeTensors::deserialize(&bytes).unwrap();
        let tokens = tokens(&folder);
        for ops in op_sets() {
            for checkpointing in [Checkpointing::Off, Checkpointing::Blocks] {
                let mut student = prepare(decoder(&folder), &spec(Method::Full)).unwrap();
                let how = Arithmetic { checkpointing, ..exact(&*ops) };
                let (loss, _) = learn(&mut student, how, &tokens[..23], goal(&tokens[1..]));
                let expected = f64::from(floats(&golden, "loss")[0]);
                assert!((loss - expected).abs() <= LOSS * expected, "{folder:?} {ops:?}: {loss} {expected}");
                let grads = grads(&student.parameters);
                for (name, expected) in golden
                    .names()
                    .into_iter()
                    .filter_map(|n| Some((n.strip_prefix("grad.")?, floats(&golden, n))))
                {
                    // Learned positions and the projections of OPT-350m are never trained.
                    if name.contains("embed_positions") || name.contains("project_") {
                        continue;
                    }
                    let worst = worst(&grads[name], &expected);
                    assert!(worst <= GOLDEN, "{folder:?} {ops:?} {name}: {worst}");
                }
            }
        }
    }
}

/// Moves one number of the masters and measures the loss; the slope is what the gradient says.
#[test]
fn adapters_and_distillation_have_the_slopes_of_central_differences() {
    for folder in models() {
        let tokens = tokens(&folder);
        let golden = golden_logits(&folder);
        let vocab = golden.len() / tokens.len();
        let known = teacher(&golden, vocab);
        let ops = Reference;
        let mut student = adapted(&folder);
        // B is zero at first, and then A has no gradient.
        for p in student.parameters.all_mut().iter_mut().filter(|p| p.name.contains("lora_B")) {
            p.values.iter_mut().enumerate().for_each(|(i, v)| *v = 0.05 * (i as f32).sin());
        }
        student.refresh(exact(&ops)).unwrap();
        let goal = Goal {
            teacher: Some(&known),
            distillation: 0.7,
            next_token: 0.3,
            temperature: 1.5,
            ..goal(&tokens[1..])
        };
        let batch = |seed| Batch { tokens: &tokens[..23], length: 23, dropout: Dropout { share: 0.2, seed } };
        student.learn(exact(&ops), batch(5), goal).unwrap();
        let found = grads(&student.parameters);
        let names: Vec<String> =
            found.keys().filter(|n| n.contains("lora") || n.contains("norm")).cloned().collect();
        for name in names.iter().step_by(5) {
            let at = found[name].iter().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).unwrap().0;
            let mut loss = |by: f32| {
                let id = student.parameters.all().iter().position(|p| p.name == *name).unwrap();
                student.parameters.all_mut()[id].values[at] += by;
                student.refresh(exact(&ops)).unwrap();
                let losses = student.learn(exact(&ops), batch(5), goal).unwrap();
                student.parameters.all_mut()[id].values[at] -= by;
                (0.3 * losses.next_token + 0.7 * 1.5 * 1.5 * losses.divergence) / 23.0
            };
            let step = 1e-2f32;
            let slope = (loss(step) - loss(-step)) / (2.0 * f64::from(step));
            let gradient = f64::from(found[name][at]);
            let near = (slope - gradient).abs() <= SLOPE * gradient.abs().max(1e-3);
            assert!(near, "{folder:?} {name}[{at}]: slope {slope}, gradient {gradient}");
        }
    }
}

/// Every op set and both ways of keeping give the same; a student that is its teacher has nothing to learn.
#[test]
fn outputs_of_blocks_are_pulled_along_the_slopes_of_central_differences() {
    for folder in models() {
        let tokens = tokens(&folder);
        let targets = &tokens[1..23];
        let said = streams(exact(&Reference), &decoder(&folder), (&tokens[..22], 11)).unwrap();
        let features = Some(Features { streams: &said, factor: 0.8 });
        let goal = Goal { next_token: 0.0, features, ..goal(targets) };
        let batch = Batch { tokens: &tokens[..22], length: 11, dropout: Dropout::default() };
        let mut student = prepare(decoder(&folder), &spec(Method::Full)).unwrap();
        let losses = student.learn(exact(&Reference), batch, goal).unwrap();
        assert_eq!(losses.feature, 0.0, "{folder:?}");
        assert!(student.parameters.all().iter().all(|p| p.grads.iter().all(|g| *g == 0.0)), "{folder:?}");

        for p in student.parameters.all_mut() {
            p.values.iter_mut().enumerate().for_each(|(i, v)| *v += 0.02 * (i as f32 * 0.7).sin());
        }
        student.refresh(exact(&Reference)).unwrap();
        student.learn(exact(&Reference), batch, goal).unwrap();
        let found = grads(&student.parameters);
        for ops in op_sets() {
            for checkpointing in [Checkpointing::Off, Checkpointing::Blocks] {
                student.parameters.clear_grads();
                student.learn(Arithmetic { checkpointing, ..exact(&*ops) }, batch, goal).unwrap();
                for (name, grads) in grads(&student.parameters) {
                    assert!(worst(&grads, &found[&name]) <= GOLDEN, "{folder:?} {ops:?} {name}");
                }
            }
        }
        for name in found.keys().step_by(7) {
            let at = found[name].iter().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).unwrap().0;
            let mut loss = |by: f32| {
                let id = student.parameters.all().iter().position(|p| p.name == *name).unwrap();
                student.parameters.all_mut()[id].values[at] += by;
                student.refresh(exact(&Reference)).unwrap();
                let losses = student.learn(exact(&Reference), batch, goal).unwrap();
                student.parameters.all_mut()[id].values[at] -= by;
                0.8 * losses.feature / 22.0
            };
            let step = 2e-3f32;
            let slope = (loss(step) - loss(-step)) / (2.0 * f64::from(step));
            let gradient = f64::from(found[name][at]);
            let near = (slope - gradient).abs() <= SLOPE * gradient.abs().max(1e-3);
            assert!(near, "{folder:?} {name}[{at}]: slope {slope}, gradient {gradient}");
        }
    }
}

/// The golden logits one position later, by their five likeliest tokens; the first 23 rows.
fn teacher(golden: &[f32], vocab: usize) -> Opinions {
    let mut known = Opinions { top: 5, ..Opinions::default() };
    let rows = golden.chunks_exact(vocab);
    for row in rows.clone().last().into_iter().chain(rows).take(23) {
        let all = crate::model::logits::log_sum_exp(row).unwrap();
        let mut order: Vec<u32> = (0..vocab as u32).collect();
        order.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]));
        known.ids.extend(&order[..5]);
        known.log_probs.extend(order[..5].iter().map(|id| (f64::from(row[*id as usize]) - all) as f32));
    }
    known
}

#[test]
fn the_divergence_is_that_of_pytorch() {
    for folder in models() {
        let bytes = std::fs::read(folder.join("gradients.safetensors")).unwrap();
        let golden = SafeTensors::deserialize(&bytes).unwrap();
        let tokens = tokens(&folder);
        let logits = golden_logits(&folder);
        let vocab = logits.len() / tokens.len();
        // All 24 rows count there; the last one has no next token, so any will do.
        let mut known = teacher(&logits, vocab);
        let last = logits.chunks_exact(vocab).nth(22).unwrap();
        let more = teacher(&last.repeat(2), vocab);
        known.ids.extend(&more.ids[..5]);
        known.log_probs.extend(&more.log_probs[..5]);
        let mut student = adapted(&folder);
        let targets = vec![0; 24];
        let goal = Goal { teacher: Some(&known), distillation: 1.0, ..goal(&targets) };
        let (_, divergence) = learn(&mut student, exact(&Reference), &tokens, goal);
        let expected = f64::from(floats(&golden, "divergence")[0]);
        assert!((divergence - expected).abs() <= 1e-5 * expected, "{folder:?}: {divergence} {expected}");
    }
}

#[test]
fn opinions_are_the_likeliest_tokens() {
    let folder = models().into_iter().find(|f| f.ends_with("gemma3-scaled")).unwrap();
    let (decoder, tokens) = (decoder(&folder), tokens(&folder));
    let golden = golden_logits(&folder);
    let vocab = golden.len() / tokens.len();
    let mut cache = crate::model::KvCache::new(decoder.config(), 24, CacheType::F32);
    let mut batch = [crate::model::Sequence { tokens: &tokens, cache: &mut cache }];
    let x = decoder.hidden(&Reference, &mut batch, crate::units::Alpha::ONE).unwrap();
    let found = crown::opinions((&Reference, &decoder), &x, (5, 1.0));
    for (row, (ids, log_probs)) in
        golden.chunks(vocab).zip(found.ids.chunks(5).zip(found.log_probs.chunks(5)))
    {
        let mut order: Vec<u32> = (0..vocab as u32).collect();
        order.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]));
        let mut best = order[..5].to_vec();
        best.sort_unstable();
        assert_eq!(ids, best);
        let all = crate::model::logits::log_sum_exp(row).unwrap();
        for (id, log_prob) in ids.iter().zip(log_probs) {
            assert!((f64::from(row[*id as usize]) - all - f64::from(*log_prob)).abs() < 1e-4);
        }
    }
}

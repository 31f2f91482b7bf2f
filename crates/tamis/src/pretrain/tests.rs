//! A model that is small enough to be trained in a test learns something, and again to the same bits.

use std::ops::ControlFlow;

use super::plan::Plan;
use super::*;
use crate::error::Kind;
use crate::ops::{CacheType, Cpu, Isa, Precision};
use crate::recover::run::Event;
use crate::recover::student::Checkpointing;

const PLAN: &str = r#"
[model]
hidden = 32
intermediate = 48
layers = 2
heads = 2
kv-heads = 1
context = 64
[data.nano]
seed = 3
bytes = 120_000
[training]
epochs = 1
batch = 8
lr = 1e-2
warmup = 10
windows = 8
"#;

const POLICY: (Resume, Existing) = (Resume::Auto, Existing::Refuse);

#[test]
fn a_model_learns_from_nothing_to_the_same_bits() {
    let plan: Plan = toml::from_str(PLAN).unwrap();
    let train = |threads| {
        let ops = Cpu::new(Isa::detect(), threads, Precision::Bf16);
        let how =
            Arithmetic { ops: &ops, cache: CacheType::Bf16, exact: false, checkpointing: Checkpointing::Off };
        let dir = tempfile::tempdir().unwrap();
        let account = pretrain(&plan, how, (dir.path(), POLICY), &mut |_| ControlFlow::Continue(())).unwrap();
        (account, std::fs::read(dir.path().join("model.safetensors")).unwrap(), dir)
    };
    let (account, bytes, dir) = train(1);
    // The first guess is one among the vocabulary; letters and words alone bring a tenth of that.
    assert!((800.0..1300.0).contains(&account.before), "{}", account.before);
    assert!(account.saved < 100.0, "{}", account.saved);
    assert!(!dir.path().join(START).exists());
    assert!(Checkpoint::open(dir.path().to_str().unwrap()).unwrap().tokenizer().is_ok());
    assert_eq!(train(2).1, bytes);
}

#[test]
fn an_unfinished_run_of_another_configuration_is_not_taken_over() {
    let plan: Plan = toml::from_str(PLAN).unwrap();
    let ops = Cpu::new(Isa::detect(), 2, Precision::Bf16);
    let dir = tempfile::tempdir().unwrap();
    let train = |plan: &Plan, resume, stop: bool| {
        let how =
            Arithmetic { ops: &ops, cache: CacheType::Bf16, exact: false, checkpointing: Checkpointing::Off };
        pretrain(plan, how, (dir.path(), (resume, Existing::Refuse)), &mut |event| match event {
            Event::Step(p) if stop && p.step == 1 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
    };
    assert_eq!(train(&plan, Resume::Auto, true).unwrap_err().kind(), Kind::Stopped);
    let deeper: Plan = toml::from_str(&PLAN.replace("layers = 2", "layers = 3")).unwrap();
    let error = train(&deeper, Resume::Auto, false).unwrap_err();
    assert!(error.to_string().contains("another configuration"), "{error}");
    let account = train(&deeper, Resume::Never, false).unwrap();
    assert!(account.saved < account.before);
    let layers = Checkpoint::open(dir.path().to_str().unwrap()).unwrap().config().layers.len();
    assert_eq!(layers, 3);
    let finished = train(&deeper, Resume::Auto, false).unwrap_err();
    assert!(finished.kind() == Kind::Usage && !dir.path().join(START).exists(), "{finished}");
}

#[test]
fn shapes_that_are_no_model_are_refused() {
    for (from, to) in
        [("heads = 2\n", "heads = 3\n"), ("hidden = 32", "hidden = 40"), ("layers = 2", "layers = 0")]
    {
        let plan: Plan = toml::from_str(&PLAN.replacen(from, to, 1)).unwrap();
        assert!(plan.check().is_err(), "{to}");
    }
    assert!(toml::from_str::<Plan>(&PLAN.replace("lr =", "rate =")).is_err());
}

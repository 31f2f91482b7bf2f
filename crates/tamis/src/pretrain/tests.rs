//! A model that is small enough to be trained in a test learns something, and again to the same bits.

use std::ops::ControlFlow;

use super::plan::Plan;
use super::*;
use crate::ops::{CacheType, Cpu, Isa, Precision};
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

#[test]
fn a_model_learns_from_nothing_to_the_same_bits() {
    let plan: Plan = toml::from_str(PLAN).unwrap();
    let train = |threads| {
        let ops = Cpu::new(Isa::detect(), threads, Precision::Bf16);
        let how =
            Arithmetic { ops: &ops, cache: CacheType::Bf16, exact: false, checkpointing: Checkpointing::Off };
        let dir = tempfile::tempdir().unwrap();
        let account = pretrain(&plan, how, dir.path(), &mut |_| ControlFlow::Continue(())).unwrap();
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
fn shapes_that_are_no_model_are_refused() {
    for (from, to) in
        [("heads = 2\n", "heads = 3\n"), ("hidden = 32", "hidden = 40"), ("layers = 2", "layers = 0")]
    {
        let plan: Plan = toml::from_str(&PLAN.replacen(from, to, 1)).unwrap();
        assert!(plan.check().is_err(), "{to}");
    }
    assert!(toml::from_str::<Plan>(&PLAN.replace("lr =", "rate =")).is_err());
}

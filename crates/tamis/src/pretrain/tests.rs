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
fn what_the_exam_needs_is_known_before_training() {
    let plan: Plan = toml::from_str(&PLAN.replace("context = 64", "context = 32")).unwrap();
    let ops = Cpu::new(Isa::detect(), 1, Precision::Bf16);
    let how =
        Arithmetic { ops: &ops, cache: CacheType::Bf16, exact: false, checkpointing: Checkpointing::Off };
    let dir = tempfile::tempdir().unwrap();
    let target = (dir.path(), POLICY);
    let error = pretrain(&plan, Some(Questions::default()), how, target, &mut |_| ControlFlow::Break(()))
        .unwrap_err();
    assert!(error.kind() == Kind::Recipe && error.to_string().contains("the exam"), "{error}");
    assert!(!dir.path().join(START).exists());
}

#[test]
fn a_model_learns_from_nothing_to_the_same_bits() {
    let plan: Plan = toml::from_str(PLAN).unwrap();
    let train = |threads| {
        let ops = Cpu::new(Isa::detect(), threads, Precision::Bf16);
        let how =
            Arithmetic { ops: &ops, cache: CacheType::Bf16, exact: false, checkpointing: Checkpointing::Off };
        let dir = tempfile::tempdir().unwrap();
        let account =
            pretrain(&plan, None, how, (dir.path(), POLICY), &mut |_| ControlFlow::Continue(())).unwrap();
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
        pretrain(plan, None, how, (dir.path(), (resume, Existing::Refuse)), &mut |event| match event {
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

/// Key, line and class of every number that makes no model, no text or no training.
#[test]
fn numbers_out_of_range_are_refused_with_their_key_and_line() {
    let (origin, theta, share) =
        (Path::new("a.toml"), "context = 64\nrope-theta = ", "seed = 3\nproblem-share = ");
    for (from, to, says) in [
        ("heads = 2\n", "heads = 3\n", "a.toml:6: model.heads"),
        ("hidden = 32", "hidden = 40", "a.toml:3: model.hidden"),
        ("hidden = 32", "hidden = 2_097_152", "a.toml:3: model.hidden"),
        ("intermediate = 48", "intermediate = 0", "a.toml:4: model.intermediate"),
        ("layers = 2", "layers = 0", "a.toml:5: model.layers must lie between 1 and 4096, not 0"),
        ("kv-heads = 1", "kv-heads = 3", "a.toml:7: model.kv-heads"),
        ("context = 64", "context = 9_000_000", "a.toml:8: model.context"),
        ("context = 64", &format!("{theta}inf"), "a.toml:9: model.rope-theta"),
        ("context = 64", &format!("{theta}0.0"), "a.toml:9: model.rope-theta"),
        ("bytes = 120_000", "bytes = 1_152_921_504_606_846_976", "a.toml:11: data.nano.bytes"),
        ("seed = 3", &format!("{share}1.5"), "a.toml:11: data.nano.problem-share"),
        ("seed = 3", &format!("{share}nan"), "a.toml:11: data.nano.problem-share"),
        ("epochs = 1", "epochs = inf", "a.toml:13: training.epochs"),
        ("epochs = 1", "epochs = nan", "a.toml:13: training.epochs"),
        ("batch = 8", "batch = 2_147_483_648", "a.toml:14: training.batch"),
        ("lr = 1e-2", "lr = inf", "a.toml:15: training.lr"),
        ("lr = 1e-2", "lr = 1e-2\nweight-decay = nan", "a.toml:16: training.weight-decay"),
        ("warmup = 10", "warmup = 9_223_372_036_854_775_807", "a.toml:16: training.warmup"),
        ("windows = 8", "windows = 1_152_921_504_606_846_976", "a.toml:17: training.windows"),
        ("windows = 8", "every = 0", "a.toml:17: training.every"),
    ] {
        let error = Plan::parse(&PLAN.replacen(from, to, 1), origin).unwrap_err();
        assert!(error.kind() == Kind::Recipe && error.to_string().starts_with(says), "{to}: {error}");
        let plan: Plan = toml::from_str(&PLAN.replacen(from, to, 1)).unwrap();
        assert_eq!(plan.check().unwrap_err().kind(), Kind::Recipe);
    }
    let wide = PLAN.replace("layers = 2", "layers = 4096").replace("hidden = 32", "hidden = 1_048_576");
    assert!(Plan::parse(&wide, origin).unwrap_err().to_string().contains("model.layers"));
    let dotted = format!("model.hidden = 8\n{}", PLAN.split("[data.nano]").nth(1).unwrap());
    assert!(Plan::parse(&dotted, origin).is_err());
    assert!(toml::from_str::<Plan>(&PLAN.replace("lr =", "rate =")).is_err());
}

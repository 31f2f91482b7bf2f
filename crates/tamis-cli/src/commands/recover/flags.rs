//! Flags of `tamis recover` that mean nothing to the method, and those that contradict each other. A flag is never
//! passed over in silence.

use tamis::error::{Error, Result};
use tamis::load::Checkpoint;

use crate::args::{self, RecoverMethod, TrainPart};

/// Flags of low-rank additions.
const LOW_RANK: [&str; 4] = ["rank", "lora_alpha", "rslora", "targets"];
/// Of additions that are kept apart.
const APART: [&str; 2] = ["dropout", "residual"];
/// Of those who learn from a teacher.
const TAUGHT: [&str; 2] = ["temperature", "top"];
/// Of training all blocks together.
const TOGETHER: [&str; 18] = [
    "stages",
    "teacher_cache",
    "valid",
    "also_valid",
    "steps",
    "batch",
    "scale_lr",
    "distill",
    "next_token",
    "feature",
    "temperature",
    "top",
    "every",
    "windows",
    "keep_best",
    "patience",
    "improvement",
    "recompute",
];

/// Refuses flags without a meaning.
pub(super) fn check(args: &args::Recover) -> Result<()> {
    let given = |name: &&str| args.given.iter().any(|given| given == name);
    let local = args.method == RecoverMethod::Local;
    let foreign: Vec<&str> = match args.method {
        RecoverMethod::Lora => vec![],
        RecoverMethod::Masklora => APART.into(),
        RecoverMethod::Masked | RecoverMethod::Full => [&LOW_RANK[..], &APART].concat(),
        RecoverMethod::Local => [&LOW_RANK[..], &APART, &TOGETHER].concat(),
    };
    if let Some(name) = foreign.into_iter().find(given) {
        let method = format!("{:?}", args.method).to_lowercase();
        let next = if local {
            "leave it out (blocks are told --sequences and --epochs, and judged by tamis eval), or choose another \
             method"
        } else {
            "leave it out, or choose another method"
        };
        return Err(Error::usage(format!("{} means nothing to the method {method}", flag(name))).next(next));
    }
    if local && args.train.as_ref().is_some_and(|parts| parts.contains(&TrainPart::Embedding)) {
        return Err(Error::usage("the embedding is in no block, so the method local cannot train it")
            .next("leave embedding out of --train"));
    }
    if let Some(name) = TAUGHT.into_iter().find(|name| args.teacher.is_none() && given(name)) {
        return Err(Error::usage(format!("{} means nothing without a teacher", flag(name)))
            .next("pass --teacher MODEL, or leave it out"));
    }
    if !local && args.epochs.is_some() && args.sequences.is_some() {
        return Err(
            Error::usage("--epochs and --sequences both say how long to train").next("give one of them")
        );
    }
    Ok(())
}

fn flag(name: &str) -> String {
    format!("--{}", name.replace('_', "-"))
}

/// Tokens of a sequence: what was asked for, or as many as the model can read where nothing was. Errors: more
/// than that.
pub(super) fn length(args: &args::Recover, checkpoint: &Checkpoint) -> Result<usize> {
    let context = checkpoint.config().context;
    if args.length > context && args.given.iter().any(|name| name == "length") {
        let problem = format!("sequences of {} tokens, and the model reads {context}", args.length);
        return Err(Error::usage(problem).next(format!("pass --length {context} or less")));
    }
    Ok(args.length.min(context))
}

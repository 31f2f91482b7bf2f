//! A model ready to run: checkpoint, tokenizer and decoder on this machine's kernels.

use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread::{Builder, ScopedJoinHandle};

use tamis::compress::Threads;
use tamis::error::Error;
use tamis::evaluate::CHUNK;
use tamis::load::{Checkpoint, Tokenizer, open_adapter};
use tamis::memory::Plan;
use tamis::model::footprint::Usage;
use tamis::model::{Decoder, Engine};
use tamis::ops::{CacheType, Cpu, Isa, Precision, default_threads};
use tamis::run::PREFILL_CHUNK;

use crate::args::{Adapted, PrecisionName, Running};

/// The arithmetic of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mode {
    pub(crate) precision: Precision,
    pub(crate) cache: CacheType,
}

impl Mode {
    /// Nothing is rounded.
    pub(crate) const EXACT: Self = Self { precision: Precision::F32, cache: CacheType::F32 };
    /// Training: products of bf16 numbers with f32 sums.
    pub(crate) const TRAINING: Self = Self { precision: Precision::Bf16, cache: CacheType::Bf16 };
    /// Matrix products of activations for calibration.
    pub(crate) const CALIBRATION: Self = Self { precision: Precision::Bf16, cache: CacheType::F32 };
}

impl Running {
    /// What was asked for; a command's own precision where nothing was.
    pub(crate) fn or(&self, usual: Precision) -> Mode {
        let precision = self.precision.map_or(usual, |name| match name {
            PrecisionName::F32 => Precision::F32,
            PrecisionName::Bf16 => Precision::Bf16,
            PrecisionName::Int8 => Precision::Int8,
        });
        let usual = if precision == Precision::F32 { CacheType::F32 } else { CacheType::Bf16 };
        Mode { precision, cache: self.cache.unwrap_or(usual) }
    }
}

/// An op set, and the type of the caches that it is run with.
#[derive(Debug, Clone)]
pub(crate) struct Kernels {
    pub(crate) ops: Arc<Cpu>,
    pub(crate) cache: CacheType,
}

/// What is to be run on a model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Sequences that are held at once.
    pub(crate) sequences: usize,
    /// Most tokens of each; those of the model's context where there are fewer.
    pub(crate) tokens: usize,
    /// Most tokens that are pushed at once.
    pub(crate) together: usize,
    /// Rows of logits.
    pub(crate) rows: usize,
    /// The settings that make it less.
    pub(crate) smaller: &'static str,
}

impl Room {
    /// For an answer of so many tokens.
    pub(crate) fn answer(tokens: usize) -> Self {
        let smaller = "use a smaller --max-tokens, --cache int8, or a model of fewer bits";
        Self { sequences: 1, tokens, together: PREFILL_CHUNK, rows: 1, smaller }
    }

    /// For as many windows at once, chunk by chunk.
    pub(crate) fn windows(sequences: usize, tokens: usize) -> Self {
        let smaller = "use a smaller --context, fewer of --alpha, or --cache int8";
        Self { sequences, tokens, together: CHUNK, rows: CHUNK, smaller }
    }

    /// For questions of an exam.
    pub(crate) fn exam() -> Self {
        Self { sequences: 1, tokens: EXAM, together: EXAM, rows: EXAM, smaller: "use a smaller model" }
    }

    /// Errors: models for which, one beside the other, there is no memory.
    pub(crate) fn check(&self, models: &[(&Checkpoint, &Kernels)]) -> Result<(), Error> {
        let bytes = |(checkpoint, kernels): &(&Checkpoint, &Kernels)| {
            let context = checkpoint.config().context;
            let tokens = self.tokens.min(context);
            let Kernels { ops, cache } = kernels;
            let usage = Usage {
                precision: ops.precision(),
                cache: *cache,
                threads: ops.threads(),
                sequences: self.sequences,
                tokens,
                together: self.together.min(context),
                rows: self.rows.min(context),
            };
            usage.bytes(checkpoint)
        };
        let bytes = models.iter().map(bytes).fold(0, u64::saturating_add);
        Plan { what: "running this model", bytes, smaller: self.smaller }.check_more()
    }
}

/// Most tokens of a question.
const EXAM: usize = 1024;

/// A loaded model.
pub(crate) struct Opened {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) engine: Engine,
}

/// Threads asked for, or as many as this process may use.
pub(crate) fn threads(asked: Option<NonZeroUsize>) -> NonZeroUsize {
    asked.or(NonZeroUsize::new(default_threads())).unwrap_or(NonZeroUsize::MIN)
}

/// As many threads for work that is not a kernel's.
pub(crate) fn crew(asked: Option<NonZeroUsize>) -> Result<Threads, Error> {
    Threads::started(threads(asked))
}

/// The instruction set to compute with: the best of this machine, or the plainer one that `TAMIS_ISA` asks for.
pub(crate) fn isa() -> Result<Isa, Error> {
    Isa::from_env()
        .map_err(|e| Error::usage(e).next("unset TAMIS_ISA, or set it to one that this machine has"))
}

/// Kernels of this machine; `TAMIS_ISA` may ask for a plainer instruction set.
pub(crate) fn kernels(asked: Option<NonZeroUsize>, mode: Mode) -> anyhow::Result<Kernels> {
    let ops = Arc::new(Cpu::started(isa()?, threads(asked).get(), mode.precision)?);
    Ok(Kernels { ops, cache: mode.cache })
}

impl Opened {
    pub(crate) fn load(spec: &str, kernels: Kernels, room: Room) -> anyhow::Result<Self> {
        Self::of(Checkpoint::open(spec)?, kernels, room)
    }

    /// Loads a model where there is room for it and for what is to be run on it.
    pub(crate) fn of(checkpoint: Checkpoint, kernels: Kernels, room: Room) -> anyhow::Result<Self> {
        room.check(&[(&checkpoint, &kernels)])?;
        let Kernels { ops, cache } = kernels;
        // Each takes about as long as the other.
        let (tokenizer, decoder) = std::thread::scope(|scope| {
            let tokenizer = Builder::new().spawn_scoped(scope, || checkpoint.tokenizer());
            let decoder = Decoder::load(&checkpoint, &*ops);
            let join =
                |thread: ScopedJoinHandle<_>| thread.join().unwrap_or_else(|panic| resume_unwind(panic));
            (tokenizer.map_or_else(|_| checkpoint.tokenizer(), join), decoder)
        });
        let named = |e: Error| e.or_file(checkpoint.path());
        let (tokenizer, engine) =
            (tokenizer.map_err(named)?, Engine::new(decoder.map_err(named)?, ops, cache));
        Ok(Self { checkpoint, tokenizer, engine })
    }

    /// Runs the model with the adapter that was asked for, if one was.
    pub(crate) fn adapted(mut self, adapted: &Adapted) -> Result<Self, Error> {
        if let Some(folder) = &adapted.adapter {
            let adapter = open_adapter(folder, self.checkpoint.config()).map_err(|e| e.or_file(folder))?;
            self.engine.select(Some(&adapter)).map_err(|e| e.or_file(folder))?;
        }
        Ok(self)
    }
}

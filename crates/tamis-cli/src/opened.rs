//! A model ready to run: checkpoint, tokenizer and decoder on this machine's kernels.

use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::sync::Arc;

use tamis::error::Error;
use tamis::load::{Checkpoint, Tokenizer, open_adapter};
use tamis::model::{Decoder, Engine};
use tamis::ops::{CacheType, Cpu, Isa, Precision, default_threads};

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

/// The instruction set to compute with: the best of this machine, or the plainer one that `TAMIS_ISA` asks for.
pub(crate) fn isa() -> Result<Isa, Error> {
    Isa::from_env()
        .map_err(|e| Error::usage(e).next("unset TAMIS_ISA, or set it to one that this machine has"))
}

/// Kernels of this machine; `TAMIS_ISA` may ask for a plainer instruction set.
pub(crate) fn kernels(asked: Option<NonZeroUsize>, mode: Mode) -> anyhow::Result<Kernels> {
    let ops = Arc::new(Cpu::new(isa()?, threads(asked).get(), mode.precision));
    Ok(Kernels { ops, cache: mode.cache })
}

impl Opened {
    pub(crate) fn load(spec: &str, Kernels { ops, cache }: Kernels) -> anyhow::Result<Self> {
        let checkpoint = Checkpoint::open(spec)?;
        // Each takes about as long as the other.
        let (tokenizer, decoder) = std::thread::scope(|scope| {
            let tokenizer = scope.spawn(|| checkpoint.tokenizer());
            let decoder = Decoder::load(&checkpoint, &*ops);
            (tokenizer.join().unwrap_or_else(|panic| resume_unwind(panic)), decoder)
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

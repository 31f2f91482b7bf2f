//! A model ready to run: checkpoint, tokenizer and decoder on this machine's kernels.

use std::num::NonZeroUsize;
use std::sync::Arc;

use tamis::error::Error;
use tamis::load::{Checkpoint, Tokenizer};
use tamis::model::{Decoder, Engine};
use tamis::ops::{CacheType, Cpu, Isa, Precision, default_threads};

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

/// Kernels of this machine; `TAMIS_ISA` may ask for a plainer instruction set.
pub(crate) fn kernels(asked: Option<NonZeroUsize>, precision: Precision) -> anyhow::Result<Arc<Cpu>> {
    let isa = Isa::from_env().map_err(Error::usage)?;
    Ok(Arc::new(Cpu::new(isa, threads(asked).get(), precision)))
}

impl Opened {
    pub(crate) fn load(spec: &str, ops: Arc<Cpu>) -> anyhow::Result<Self> {
        let checkpoint = Checkpoint::open(spec)?;
        let tokenizer = checkpoint.tokenizer()?;
        let engine = Engine::new(Decoder::load(&checkpoint)?, ops, CacheType::F32);
        Ok(Self { checkpoint, tokenizer, engine })
    }
}

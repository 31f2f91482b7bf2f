//! The processes that were started together: one, or as many as an MPI launcher started. Knows which commands
//! can share their work, and no arithmetic.

use std::process::ExitCode;

use tamis::error::Error;
#[cfg(feature = "mpi")]
use tamis::error::Kind;
use tamis::workers::{Alone, Workers};

#[cfg(feature = "mpi")]
use crate::mpi::Mpi;
use crate::opened::isa;

/// This process and those that it works with.
#[derive(Debug)]
pub(crate) enum Team {
    Alone(Alone),
    #[cfg(feature = "mpi")]
    Mpi(Mpi),
}

impl Team {
    /// Meets the others. Errors: there are others, and this program cannot speak to them.
    pub(crate) fn join() -> anyhow::Result<Self> {
        #[cfg(feature = "mpi")]
        if let Some(mpi) = Mpi::join() {
            return Ok(Self::Mpi(mpi));
        }
        let others = |name| std::env::var(name).is_ok_and(|size| size.trim() != "1");
        if others("OMPI_COMM_WORLD_SIZE") || others("PMI_SIZE") {
            return Err(Error::usage("this tamis was built without MPI, and mpirun started many of it")
                .next("cargo install --path crates/tamis-cli --features mpi")
                .into());
        }
        Ok(Self::Alone(Alone))
    }

    /// Who takes part.
    pub(crate) fn workers(&self) -> &dyn Workers {
        match self {
            Self::Alone(alone) => alone,
            #[cfg(feature = "mpi")]
            Self::Mpi(mpi) => mpi,
        }
    }

    /// Ends this process' part. A failure ends the others too, who would wait for ever; a stop that all agreed on
    /// does not need to: MPI ends when this value goes.
    pub(crate) fn leave(self, code: u8) -> ExitCode {
        #[cfg(feature = "mpi")]
        if let Self::Mpi(mpi) = &self
            && code != 0
            && code != Kind::Stopped.exit_code()
            && mpi.size() > 1
        {
            mpi.abort(code);
        }
        ExitCode::from(code)
    }
}

/// Other instructions give other last bits, and every process computes its own copy of the weights.
pub(crate) fn check_alike(workers: &dyn Workers) -> anyhow::Result<()> {
    let isa = isa()?;
    if workers.is_same(isa.name().as_bytes()) {
        return Ok(());
    }
    let problem =
        format!("the machines have different instruction sets; rank {} has {}", workers.rank(), isa.name());
    Err(Error::usage(problem).next("set TAMIS_ISA to one that all have").into())
}

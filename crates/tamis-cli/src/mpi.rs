//! Workers that speak MPI (rsmpi). Knows no model.
//!
//! A sum has one fixed order, which `MPI_Allreduce` does not promise: each rank owns a piece of the values, gets
//! that piece of everybody, adds them in the order of the ranks, and hands the sum back to all. Everybody sends
//! and receives as much as in a ring, and every rank holds the same bits afterwards.

use std::ops::AddAssign;

use mpi::Threading;
use mpi::datatype::Equivalence;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;
use tamis::error::Kind;
use tamis::workers::Workers;

/// Values that are summed at once: the buffers are three times as long.
const AT_ONCE: usize = 1 << 20;
/// Bytes that are handed round at once: counts of messages are 32-bit integers.
const BYTES: usize = 1 << 28;
/// Set by `mpirun` and `srun` for every process that they start.
const STARTED: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"];

/// This process among those that were started together.
pub(crate) struct Mpi {
    _universe: Universe, // ends MPI when it is dropped
    world: SimpleCommunicator,
}

impl Mpi {
    /// Takes part where an MPI launcher started this process.
    pub(crate) fn join() -> Option<Self> {
        STARTED.iter().find(|name| std::env::var_os(name).is_some())?;
        // Other threads compute; this one alone sends.
        let (universe, _) = mpi::initialize_with_threading(Threading::Funneled)?;
        let world = universe.world();
        Some(Self { _universe: universe, world })
    }

    /// Ends all processes at once.
    pub(crate) fn abort(&self, code: u8) -> ! {
        self.world.abort(code.into())
    }

    fn sum_in_order<T: Equivalence + Default + Copy + AddAssign>(&self, values: &mut [T]) {
        let size = self.size();
        for values in values.chunks_mut(AT_ONCE.next_multiple_of(size)) {
            let piece = values.len().div_ceil(size);
            let mut all = vec![T::default(); piece * size]; // [size, piece], the last short of values
            all[..values.len()].copy_from_slice(values);
            let mut theirs = vec![T::default(); piece * size]; // my piece of each rank
            self.world.all_to_all_into(&all[..], &mut theirs[..]);
            let (sum, others) = theirs.split_at_mut(piece);
            for other in others.chunks_exact(piece) {
                sum.iter_mut().zip(other).for_each(|(sum, other)| *sum += *other);
            }
            self.world.all_gather_into(&*sum, &mut all[..]);
            values.copy_from_slice(&all[..values.len()]);
        }
    }
}

impl Drop for Mpi {
    /// Without this a panic would wait for the others, who wait for this process.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.abort(Kind::Defect.exit_code());
        }
    }
}

impl std::fmt::Debug for Mpi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {}", self.rank(), self.size())
    }
}

impl Workers for Mpi {
    fn rank(&self) -> usize {
        self.world.rank() as usize
    }
    fn size(&self) -> usize {
        self.world.size() as usize
    }
    fn sum(&self, values: &mut [f32]) {
        self.sum_in_order(values);
    }
    fn sum_f64(&self, values: &mut [f64]) {
        self.sum_in_order(values);
    }
    fn share(&self, bytes: &mut [u8]) {
        let first = self.world.process_at_rank(0);
        bytes.chunks_mut(BYTES).for_each(|bytes| first.broadcast_into(bytes));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::Command;

    use super::*;

    /// Values whose sum depends on the order of additions.
    fn value(rank: usize, at: usize) -> f32 {
        ((at * 7 + rank * 3) % 11) as f32 * 10f32.powi((rank + at) as i32 % 9 - 4) + 0.1
    }

    /// Starts itself again as three processes, which then compare.
    #[test]
    fn sums_are_those_in_the_order_of_the_ranks() {
        if let Some(mpi) = Mpi::join() {
            return compare(&mpi);
        }
        let mut again = Command::new("mpirun");
        again.args(["-n", "3"]).arg(std::env::current_exe().unwrap());
        again.args(["--exact", "mpi::tests::sums_are_those_in_the_order_of_the_ranks"]);
        for name in ["ALLOW_RUN_AS_ROOT", "ALLOW_RUN_AS_ROOT_CONFIRM", "MCA_rmaps_base_oversubscribe"] {
            again.env(format!("OMPI_{name}"), "1");
        }
        match again.output() {
            Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "SKIPPED: mpirun: {error}");
            }
        }
    }

    fn compare(mpi: &Mpi) {
        assert_eq!(mpi.size(), 3);
        for length in [0, 1, 2, 3, 4, 1000, AT_ONCE + 5] {
            let mut sums: Vec<f32> = (0..length).map(|at| value(mpi.rank(), at)).collect();
            mpi.sum(&mut sums);
            let mut sums_f64: Vec<f64> = (0..length).map(|at| value(mpi.rank(), at).into()).collect();
            mpi.sum_f64(&mut sums_f64);
            for at in 0..length {
                assert_eq!(sums[at], value(0, at) + value(1, at) + value(2, at), "{length} {at}");
                let [a, b, c] = [0, 1, 2].map(|rank| f64::from(value(rank, at)));
                assert_eq!(sums_f64[at], a + b + c, "{length} {at}");
            }
            let mut bytes = vec![mpi.rank() as u8 + 1; length];
            mpi.share(&mut bytes);
            assert!(bytes.iter().all(|b| *b == 1));
        }
        let workers: &dyn Workers = mpi;
        assert!(!workers.is_same(&[mpi.rank() as u8]) && workers.is_same(b"alike"));
    }
}

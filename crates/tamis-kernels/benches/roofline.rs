//! The machine's two limits as criterion sees them: reading memory, and multiply-adds in registers.
//! What the other benches reach is to be compared with these. Every answer is compared with the
//! reference before it is timed. `cargo bench -p tamis-kernels --bench roofline`.

mod setup;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use setup::{Bench, STREAMED, bytes, elements, noise};
use tamis_kernels::roofline::{CHAINS, Unit, Work, arithmetic, read, scalar};
use tamis_kernels::{Cpu, Isa};

/// Steps of a chain: some tens of microseconds.
const ROUNDS: usize = 20_000;

criterion_group!(name = benches; config = setup::criterion(); targets = reading, chains);
criterion_main!(benches);

fn reading(c: &mut Criterion) {
    let make = |cpu: &Cpu| {
        let data = noise(STREAMED / 4, 1);
        // A maximum is not rounded.
        assert_eq!(read(cpu, &data, 1), scalar::largest(&data), "not the largest");
        data
    };
    Bench::new(c).time("read memory", bytes(STREAMED), make, |cpu, data| {
        black_box(read(cpu, data, 1));
    });
}

/// Operations of one thread by one round, to know the rate before the clock starts.
fn operations(unit: Unit, chains: usize) -> Option<u64> {
    let isa = Isa::from_env().expect("an instruction set of this CPU");
    arithmetic(&Cpu::new(isa, 1), unit, chains, 1).map(|work| work.operations)
}

/// Elements are operations of one thread; where all run, the rate is that of each.
fn chains(c: &mut Criterion) {
    let mut bench = Bench::new(c);
    let cases = Unit::ALL.into_iter().flat_map(|unit| CHAINS.map(|chains| (unit, chains)));
    for (unit, chains) in cases {
        let Some(round) = operations(unit, chains) else { continue };
        let make = |cpu: &Cpu| {
            let Work { operations, .. } = run(cpu, unit, chains);
            let threads = cpu.pool.threads() as u64;
            assert_eq!(operations, round * ROUNDS as u64 * threads, "work was left out");
            check(cpu, unit, chains);
        };
        let name = format!("{} {chains} chains", unit.name());
        bench.time(&name, elements(round as usize * ROUNDS), make, |cpu, ()| {
            black_box(run(cpu, unit, chains));
        });
    }
}

/// A few rounds against the reference. Dot products are exact; an f32 chain rounds every step to
/// 2^-24 of itself.
fn check(cpu: &Cpu, unit: Unit, chains: usize) {
    const FEW: usize = 37;
    const TOLERANCE: f64 = FEW as f64 / (1 << 24) as f64;
    let work = arithmetic(cpu, unit, chains, FEW).expect("the unit was there before");
    let pairs = match unit {
        Unit::F32 => 1,
        Unit::Bf16 => 2,
        Unit::Int8 => 4,
    };
    let lane = |chain: usize| match unit {
        Unit::F32 => scalar::f32_lane(chain as f64, FEW),
        _ => scalar::dot_lane(chain as f64, pairs, FEW),
    };
    let lanes = work.operations as f64 / (2 * pairs * chains * FEW * cpu.pool.threads()) as f64;
    let expected = lanes * (0..chains).map(lane).sum::<f64>();
    assert!((work.sum / expected - 1.0).abs() <= TOLERANCE, "{} is not {expected}", work.sum);
}

fn run(cpu: &Cpu, unit: Unit, chains: usize) -> Work {
    arithmetic(cpu, unit, chains, ROUNDS).expect("the unit was there before")
}

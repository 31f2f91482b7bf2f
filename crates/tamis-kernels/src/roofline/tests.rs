//! The roofline kernels against plain loops, on every instruction set and any number of threads.

use super::*;
use crate::linear::noise;

#[test]
fn reading_finds_the_largest_value_wherever_it_lies() {
    // none, one, a lane and a step of every width more and less; longer and shorter than a prefetch
    for len in [0usize, 1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 127, 128, 129, 2047, 5000] {
        for place in [0, len / 2, len.saturating_sub(1)] {
            let mut data = noise(len, 3);
            if let Some(value) = data.get_mut(place) {
                *value = 2.0; // noise stays below 1
            }
            let expected = scalar::largest(&data);
            for isa in Isa::available() {
                for threads in [1, 2, 3] {
                    let cpu = Cpu::new(isa, threads);
                    assert_eq!(read(&cpu, &data, 1), expected, "{} {len} {place}", isa.name());
                    assert_eq!(read(&cpu, &data, 3), expected);
                }
            }
        }
    }
}

#[test]
fn chains_do_the_arithmetic_they_count() {
    /// The sums are exact for the dot products; an f32 chain rounds each of 37 steps.
    const TOLERANCE: f64 = 1e-4;
    for isa in Isa::available() {
        for (unit, pairs) in [(Unit::F32, 1), (Unit::Bf16, 2), (Unit::Int8, 4)] {
            for chains in CHAINS {
                for rounds in [0, 1, 2, 37] {
                    let one = arithmetic(&Cpu::new(isa, 1), unit, chains, rounds);
                    let Some(one) = one else {
                        assert!(!unit.is_on(isa));
                        continue;
                    };
                    let lanes = one.operations as f64 / (2 * pairs * chains * rounds.max(1)) as f64;
                    let lanes = if rounds == 0 { 0.0 } else { lanes };
                    let lane = |c: usize| match unit {
                        Unit::F32 => scalar::f32_lane(c as f64, rounds),
                        _ => scalar::dot_lane(c as f64, pairs, rounds),
                    };
                    let expected: f64 = lanes * (0..chains).map(lane).sum::<f64>();
                    if rounds > 0 {
                        assert!([8.0, 16.0].contains(&lanes), "{lanes}");
                        let error = (one.sum - expected).abs() / expected;
                        assert!(error < TOLERANCE, "{} {}", isa.name(), unit.name());
                    }
                    let three = arithmetic(&Cpu::new(isa, 3), unit, chains, rounds).unwrap();
                    assert_eq!((three.operations, three.sum), (3 * one.operations, one.sum));
                }
            }
        }
    }
}

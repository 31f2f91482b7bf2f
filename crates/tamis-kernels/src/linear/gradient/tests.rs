//! The gradients on every instruction set against the references, the references against
//! differences of the map, and bits against other numbers of threads.

use super::super::{noise, scalar};
use super::*;
use crate::isa::Isa;
use crate::pack::{DenseF32, DenseHalf, HalfData};

/// Products of values below 1/2, summed in f32 in several lanes: as in the tests of the map.
const TOLERANCE: f64 = 1e-5;
/// The map is linear: a difference over a step of 1 has no error but the roundings of two
/// results below 8.
const DIFFERENCE: f64 = 2e-6;

fn near(a: &[f32], b: &[f32], tolerance: f64) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (f64::from(*a) - f64::from(*b)).abs() <= tolerance)
}

const SHAPES: [(usize, usize, usize); 10] = [
    (0, 3, 4),
    (1, 1, 1),
    (3, 17, 16),
    (5, 31, 33),
    (33, 32, 15),
    (97, 100, 172),
    (16, 1535, 5),
    (4, 1537, 20),
    (300, 97, 13),
    (1601, 13, 40),
];

#[test]
fn every_isa_agrees_with_the_references() {
    for (m, n, k) in SHAPES {
        let (dy, x) = (noise(m * n, 1), noise(m * k, 3));
        let w = DenseF32::new(n, k, noise(n * k, 2)).unwrap();
        for precision in [Precision::F32, Precision::Bf16] {
            let (mut dx, mut dw) = (vec![0.0; m * k], vec![1.0; n * k]);
            scalar::input_gradient(&dy, &w, precision, &mut dx);
            scalar::weight_gradient((&dy, n), (&x, k), precision, &mut dw);
            for isa in Isa::variants() {
                let cpu = Cpu::new(isa, 2);
                let mut y = vec![9.0; m * k];
                input_gradient(&cpu, &dy, &w, precision, &mut y);
                assert!(near(&y, &dx, TOLERANCE * (n as f64).sqrt()), "{} {m} {n} {k}", isa.name());
                let mut y = vec![1.0; n * k];
                weight_gradient(&cpu, (&dy, n), (&x, k), precision, &mut y);
                assert!(near(&y, &dw, TOLERANCE * (m as f64).sqrt().max(1.0)), "{} {m} {n} {k}", isa.name());
            }
        }
    }
}

#[test]
fn the_references_are_the_differences_of_the_map() {
    let (m, n, k) = (3, 7, 5);
    let (dy, x, w) = (noise(m * n, 1), noise(m * k, 2), noise(n * k, 3));
    let loss = |x: &[f32], w: &[f32]| -> f64 {
        let mut y = vec![0.0; m * n];
        let w = DenseF32::new(n, k, w.to_vec()).unwrap();
        scalar::linear(x, &w, Precision::F32, &mut y);
        y.iter().zip(&dy).map(|(y, dy)| f64::from(*y) * f64::from(*dy)).sum()
    };
    let moved = |v: &[f32], i: usize, by: f32| {
        let mut v = v.to_vec();
        v[i] += by;
        v
    };
    let (mut dx, mut dw) = (vec![0.0; m * k], vec![0.0; n * k]);
    scalar::input_gradient(&dy, &DenseF32::new(n, k, w.clone()).unwrap(), Precision::F32, &mut dx);
    scalar::weight_gradient((&dy, n), (&x, k), Precision::F32, &mut dw);
    for i in 0..m * k {
        let slope = (loss(&moved(&x, i, 0.5), &w) - loss(&moved(&x, i, -0.5), &w)) as f32;
        assert!((f64::from(slope) - f64::from(dx[i])).abs() < DIFFERENCE, "{slope} {}", dx[i]);
    }
    for i in 0..n * k {
        let slope = (loss(&x, &moved(&w, i, 0.5)) - loss(&x, &moved(&w, i, -0.5))) as f32;
        assert!((f64::from(slope) - f64::from(dw[i])).abs() < DIFFERENCE, "{slope} {}", dw[i]);
    }
}

#[test]
fn threads_and_layouts_do_not_change_bits() {
    let (m, n, k) = (103, 1600, 131);
    let (dy, x) = (noise(m * n, 1), noise(m * k, 3));
    let half = noise(n * k, 2).into_iter().map(half::bf16::from_f32).collect::<Vec<_>>();
    let dense = DenseF32::new(n, k, half.iter().map(|v| v.to_f32()).collect()).unwrap();
    let half = DenseHalf::new(n, k, HalfData::Bf16(half)).unwrap();
    for (isa, precision) in
        Isa::available().into_iter().flat_map(|isa| [(isa, Precision::F32), (isa, Precision::Bf16)])
    {
        let run = |threads, weights: &dyn RowSource| {
            let cpu = Cpu::new(isa, threads);
            let (mut dx, mut dw) = (vec![0.0; m * k], vec![0.0; n * k]);
            input_gradient(&cpu, &dy, weights, precision, &mut dx);
            weight_gradient(&cpu, (&dy, n), (&x, k), precision, &mut dw);
            (dx, dw)
        };
        let one = run(1, &dense);
        assert!([2, 3, 8].into_iter().all(|threads| run(threads, &half) == one), "{}", isa.name());
    }
}

/// Buffers are kept: a NaN of an earlier call must not come back through the half of a pair that
/// an odd number of rows leaves open, nor behind the last column.
#[test]
fn what_a_call_leaves_behind_does_not_matter() {
    for (isa, precision) in
        Isa::variants().into_iter().flat_map(|isa| [(isa, Precision::F32), (isa, Precision::Bf16)])
    {
        let run = |(m, n, k): (usize, usize, usize), dy: f32| {
            let (mut dx, mut dw) = (vec![0.0; m * k], vec![0.0; n * k]);
            let cpu = Cpu::new(isa, 1);
            let (x, w) = (vec![dy; m * k], DenseF32::new(n, k, vec![dy; n * k]).unwrap());
            input_gradient(&cpu, &vec![dy; m * n], &w, precision, &mut dx);
            weight_gradient(&cpu, (&vec![dy; m * n], n), (&x, k), precision, &mut dw);
            (dx, dw)
        };
        run((64, 64, 64), f32::NAN);
        let (dx, dw) = run((33, 31, 19), 1.0);
        assert!(dx.iter().all(|v| *v == 31.0) && dw.iter().all(|v| *v == 33.0), "{}", isa.name());
    }
}

/// The gradient of a row does not depend on the rows beside it.
#[test]
fn a_row_has_the_same_bits_alone() {
    let (m, n, k) = (37, 200, 64);
    let (dy, w) = (noise(m * n, 1), DenseF32::new(n, k, noise(n * k, 2)).unwrap());
    for isa in Isa::available() {
        let cpu = Cpu::new(isa, 2);
        let mut all = vec![0.0; m * k];
        input_gradient(&cpu, &dy, &w, Precision::Bf16, &mut all);
        for (dy, all) in dy.chunks_exact(n).zip(all.chunks_exact(k)) {
            let mut dx = vec![0.0; k];
            input_gradient(&cpu, dy, &w, Precision::Bf16, &mut dx);
            assert_eq!(dx, all);
        }
    }
}

#[test]
#[should_panic(expected = "dy must be 2x3")]
fn a_gradient_of_another_shape_is_refused() {
    let w = DenseF32::new(3, 4, vec![0.0; 12]).unwrap();
    let cpu = Cpu::new(Isa::SCALAR, 1);
    input_gradient(&cpu, &[0.0; 5], &w, Precision::F32, &mut [0.0; 8]);
}

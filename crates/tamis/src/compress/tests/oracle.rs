//! The sweep against column-by-column elimination in f64, and against itself at other
//! block lengths, strips and thread counts (arXiv 2210.17323).

use proptest::prelude::*;
use tamis_kernels::pack::RowSource;

use super::*;
use crate::compress::lanes::{LANES, Lanes, each};
use crate::compress::naive::sweep_row;
use crate::compress::sweep::{Column, Decide, SweepBlock, sweep};

/// Multiples of a step, and a note of what was decided.
struct Steps {
    step: f32,
    decided: Vec<Lanes>, // by original column
    entered: Vec<usize>,
}

impl Decide for Steps {
    fn enter(&mut self, at: usize, _ahead: &[Lanes]) {
        self.entered.push(at);
    }
    fn decide(&mut self, at: Column, w: &Lanes) -> Lanes {
        let q = each(|l| (w[l] / self.step).round() * self.step);
        self.decided[at.original] = q;
        q
    }
}

fn swept(layer: &Layer, order: ActivationOrder, block: SweepBlock) -> (Steps, Vec<Lanes>) {
    let order = Order::of(order, &layer.gram);
    let (u, _) = layer.gram.factor(damping(0.01), &order).unwrap();
    let mut steps = Steps { step: 0.02, decided: vec![[0.0; LANES]; layer.cols], entered: Vec::new() };
    let e = sweep(&mut layer.weights().gather(0, &order), &u, block, &mut steps);
    (steps, e)
}

#[test]
fn sweep_decides_as_elimination_does() {
    let layer = Layer::new(16, 48, 1);
    let lambda = 0.01 * layer.gram.scale();
    for choice in [ActivationOrder::None, ActivationOrder::Static] {
        let order = Order::of(choice, &layer.gram);
        let at = |i: usize, j: usize| layer.gram.at(order.original(i), order.original(j));
        let k = layer.cols;
        let h: Vec<f64> =
            (0..k * k).map(|n| at(n / k, n % k) + if n / k == n % k { lambda } else { 0.0 }).collect();
        let (steps, _) = swept(&layer, choice, SweepBlock::free());
        let mut different = 0;
        for (lane, row) in layer.data.chunks(k).enumerate() {
            let row: Vec<f64> = (0..k).map(|p| f64::from(row[order.original(p)])).collect();
            let step = f64::from(0.02f32);
            let q = sweep_row(&row, &h, &mut |j, w| (w[j] / step).round() * step);
            different += (0..k)
                .filter(|&p| (q[p] - f64::from(steps.decided[order.original(p)][lane])).abs() > 1e-3)
                .count();
        }
        assert!(different as f64 <= tolerance::CODES_DIFFERENT * (16 * k) as f64, "{different}");
    }
}

/// Decides on values that no rounding can flip, so the two sweeps must agree to f32.
struct Halves;

impl Decide for Halves {
    fn enter(&mut self, _at: usize, _ahead: &[Lanes]) {}
    fn decide(&mut self, _at: Column, w: &Lanes) -> Lanes {
        each(|l| w[l] / 2.0)
    }
}

#[test]
fn a_smooth_decision_agrees_with_elimination_to_f32() {
    let layer = Layer::new(3, 40, 2);
    let k = layer.cols;
    let (u, record) = layer.gram.factor(damping(0.05), &Order::natural(k)).unwrap();
    let mut w = layer.weights().gather(0, &Order::natural(k));
    sweep(&mut w, &u, SweepBlock::of_multiple(3, 2), &mut Halves);
    let h: Vec<f64> = (0..k * k)
        .map(|n| layer.gram.at(n / k, n % k) + if n / k == n % k { record.lambda } else { 0.0 })
        .collect();
    for (lane, row) in layer.data.chunks(k).enumerate() {
        let row: Vec<f64> = row.iter().map(|&w| f64::from(w)).collect();
        let q = sweep_row(&row, &h, &mut |j, w| w[j] / 2.0);
        for j in 0..k {
            assert!((q[j] - f64::from(w[j][lane]) / 2.0).abs() < tolerance::F32_SWEEP, "{j}");
        }
    }
}

#[test]
fn squares_of_e_are_the_price_of_the_decisions() {
    let layer = Layer::new(16, 40, 3);
    let (steps, e) = swept(&layer, ActivationOrder::Static, SweepBlock::free());
    let k = layer.cols;
    let h = layer.gram.damped_f32(0.01 * layer.gram.scale());
    for (lane, row) in layer.data.chunks(k).enumerate() {
        let d: Vec<f64> = (0..k).map(|j| f64::from(row[j] - steps.decided[j][lane])).collect();
        let loss: f64 = (0..k * k).map(|n| d[n / k] * f64::from(h[n]) * d[n % k]).sum();
        let price: f64 = e.iter().map(|e| f64::from(e[lane]).powi(2)).sum();
        assert!((loss - price).abs() < 1e-3 * loss, "{loss} {price}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn block_length_changes_no_bit(stride in 1usize..40, count in 1usize..6, seed in 0u64..4) {
        let layer = Layer::new(16, 61, seed);
        for order in [ActivationOrder::None, ActivationOrder::Static] {
            let (one, e_one) = swept(&layer, order, SweepBlock::of_multiple(stride, 1));
            let (other, e_other) = swept(&layer, order, SweepBlock::of_multiple(stride, count));
            prop_assert_eq!(&one.decided, &other.decided);
            prop_assert_eq!(&one.entered, &other.entered);
            prop_assert_eq!(e_one, e_other);
        }
    }
}

#[test]
fn threads_and_neighbouring_rows_change_no_bit() {
    let layer = Layer::new(37, 100, 4);
    for ortho in [OrthoMode::Quality, OrthoMode::Joint, OrthoMode::TopResidual] {
        let plan = TensorPlan { ortho, ..plan(3, GroupSize::Of(32)) };
        let one = layer.compress(&plan);
        for count in [2, 3, 8] {
            let other = layer.compress_with(&plan, threads(count));
            assert_eq!((one.base(), one.ortho()), (other.base(), other.ortho()), "{ortho:?} {count}");
            assert_eq!(one.receipt.error, other.receipt.error);
        }
    }
    // Row 20 alone is what it is among the others.
    let plan = plan(4, GroupSize::Of(64));
    let all = layer.compress(&plan);
    let code = |done: &Compressed, row, col| done.base().unwrap().code(row, col);
    let alone = Layer { data: layer.data[20 * 100..21 * 100].to_vec(), rows: 1, ..layer }.compress(&plan);
    assert!((0..100).all(|j| code(&all, 20, j) == code(&alone, 0, j)));
}

#[test]
fn weights_on_the_grid_are_kept_exactly() {
    for (group, order) in
        [(GroupSize::Of(32), ActivationOrder::None), (GroupSize::Row, ActivationOrder::Static)]
    {
        let mut layer = Layer::new(20, 72, 5);
        let plan = TensorPlan { order, ..plan(4, group) };
        let once = layer.compress(&plan);
        layer.data = once.weight.to_f32(Alpha::ONE);
        let base = once.base().unwrap();
        // A grid can be told from its points where both of its ends are in use.
        let (groups, length) = (base.groups(), base.group());
        for (at, scale) in base.scales().iter().map(|s| s.to_f32()).enumerate() {
            let first = at / groups * 72 + at % groups * length;
            layer.data[first..first + 2].copy_from_slice(&[-8.0 * scale, 7.0 * scale]);
        }
        let again = layer.compress(&plan);
        assert_eq!(again.weight.to_f32(Alpha::ONE), layer.data);
        assert_eq!(again.receipt.error, Some(0.0));
    }
}

#[test]
fn short_last_groups_and_all_shapes_go_through() {
    for (rows, cols, group) in [(1, 172, 64), (17, 576 / 4, 128), (5, 33, 32), (3, 20, 128)] {
        let layer = Layer::new(rows, cols, 6);
        for order in [ActivationOrder::None, ActivationOrder::Static] {
            for symmetry in [Symmetry::Symmetric, Symmetry::Asymmetric] {
                let plan = TensorPlan { order, symmetry, ..plan(4, GroupSize::Of(group)) };
                let done = layer.compress(&plan);
                let (base, receipt) = (done.base().unwrap(), &done.receipt);
                assert_eq!((base.rows(), base.cols(), base.groups()), (rows, cols, cols.div_ceil(group)));
                assert_eq!(base.zeros().is_some(), symmetry == Symmetry::Asymmetric);
                assert!(receipt.error.unwrap() < 0.05, "{receipt:?}");
            }
        }
    }
}

#[test]
fn dead_columns_are_rounded_and_kept() {
    let mut layer = Layer::new(16, 64, 7);
    let sum =
        (0..64 * 64).map(|n| if n / 64 == 5 || n % 64 == 5 { 0.0 } else { layer.gram.at(n / 64, n % 64) });
    layer.gram = Gram::new(64, 1, sum.collect()).unwrap();
    layer.data.iter_mut().skip(5).step_by(64).for_each(|w| *w = 0.07);
    for order in [ActivationOrder::None, ActivationOrder::Static] {
        let Compressed { weight, receipt } =
            layer.compress(&TensorPlan { order, ..plan(4, GroupSize::Of(32)) });
        assert_eq!(receipt.dead_columns, 1);
        let decoded = weight.to_f32(Alpha::ONE)[3 * 64 + 5];
        assert!((decoded - 0.07).abs() < 0.03, "{decoded}");
    }
}

//! Masks against plain sorting, SparseGPT against optimal brain surgery column by column, blocks
//! against the loss that they claim, and the order in which methods must stand.

use std::num::NonZeroUsize;

use proptest::prelude::*;

use super::pattern::Blocked;
use super::*;
use crate::compress::synthetic::{correlated_gram, weights};
use crate::compress::{
    ActivationOrder, Evidence, Gram, Method, TensorPlan, Threads, Weights, compress_tensor, metric, naive,
};
use crate::units::{Alpha, Damping, Sparsity};

const THREADS: Threads = Threads::ONE;

struct Layer {
    data: Vec<f32>,
    evidence: Evidence,
    shape: (usize, usize),
}

impl Layer {
    fn new(shape: (usize, usize), order: ActivationOrder, seed: u64) -> Self {
        Self::of(&correlated_gram(shape.1, 4 * shape.1, seed), shape.0, order, seed)
    }
    fn of(gram: &Gram, rows: usize, order: ActivationOrder, seed: u64) -> Self {
        let evidence = Evidence::prepare(gram, Damping::new(0.01).unwrap(), order);
        let shape = (rows, gram.size());
        Self { data: weights(shape.0, shape.1, seed + 1), evidence, shape }
    }
    fn w(&self) -> Weights<'_> {
        Weights { data: &self.data, rows: self.shape.0, cols: self.shape.1 }
    }
    /// `tr(D H D^T)` with the damped H, of the difference to other weights.
    fn loss(&self, other: &[f32]) -> f64 {
        let d: Vec<f32> = self.data.iter().zip(other).map(|(a, b)| a - b).collect();
        let dh = metric::times_h(&Weights { data: &d, ..self.w() }, &self.evidence, THREADS);
        d.iter().zip(&dh).map(|(d, dh)| f64::from(*d) * f64::from(*dh)).sum()
    }
    fn masked(&self, mask: &Mask) -> Vec<f32> {
        let mut data = self.data.clone();
        mask.apply(&mut data);
        data
    }
    fn scores(&self, score: Score) -> Vec<f32> {
        score::of_weights(score, &self.w(), &score::norms(&self.evidence))
    }
}

fn half() -> Sparsity {
    Sparsity::new(0.5).unwrap()
}

proptest! {
    #[test]
    fn rows_drop_what_a_stable_sort_puts_first(cols in 1usize..60, sparsity in 0.0f64..0.99, seed: u32) {
        let sparsity = Sparsity::new(sparsity).unwrap();
        // Few different scores, so that there are ties.
        let scores: Vec<f32> =
            (0..3 * cols).map(|i| ((i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 28) as f32).collect();
        let mask = pattern::weights(Pattern::Rows, &scores, cols, sparsity).unwrap();
        for row in 0..3 {
            let of_row = &scores[row * cols..][..cols];
            let mut order: Vec<usize> = (0..cols).collect();
            order.sort_by(|a, b| of_row[*a].total_cmp(&of_row[*b]));
            let mut expected = vec![true; cols];
            order[..sparsity.zeros(cols)].iter().for_each(|&at| expected[at] = false);
            prop_assert_eq!(mask.row(row), &expected[..]);
        }
    }

    #[test]
    fn blocks_keep_to_the_budget_and_the_floors(
        rows in 1usize..70, cols in 1usize..70, share in 0.0f64..0.95, least in 0usize..3, seed: u32,
    ) {
        let (r, c) = (16, 8);
        let sparsity = Sparsity::new(share).unwrap();
        let count = rows.div_ceil(r) * cols.div_ceil(c);
        let scores: Vec<f64> =
            (0..count).map(|i| f64::from((i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 20)).collect();
        let mask = pattern::blocks(&scores, Blocked { shape: (rows, cols), block: (r, c), least }, sparsity);
        let zeros = rows * cols - mask.kept();
        prop_assert!(zeros <= sparsity.zeros(rows * cols));
        for column in (0..cols).step_by(c) {
            let strips = (0..rows).step_by(r).filter(|&row| mask.row(row)[column]).count();
            prop_assert!(strips >= least.min(rows.div_ceil(r)));
        }
        for row in 0..rows {
            prop_assert_eq!(mask.row(row), mask.row(row / r * r));
            let blocks = mask.row(row).chunks(c).filter(|block| block[0]).count();
            prop_assert!(blocks >= least.min(cols.div_ceil(c)));
        }
        if least == 0 && rows.is_multiple_of(r) && cols.is_multiple_of(c) {
            prop_assert!(zeros + r * c > sparsity.zeros(rows * cols));
        }
    }
}

#[test]
fn neighbours_keep_their_number_and_others_are_refused() {
    let layer = Layer::new((20, 32), ActivationOrder::None, 3);
    let scores = layer.scores(Score::Wanda);
    let of_each = |keep, of| Pattern::OfEach { keep, of };
    for (keep, of) in [(2, 4), (4, 8), (1, 16), (0, 2)] {
        let mask = pattern::weights(of_each(keep, of), &scores, 32, half()).unwrap();
        for row in 0..20 {
            assert!(mask.row(row).chunks(of).all(|g| g.iter().filter(|kept| **kept).count() == keep));
        }
    }
    for (keep, of) in [(2, 5), (3, 2), (0, 0)] {
        assert!(pattern::weights(of_each(keep, of), &scores, 32, half()).is_err());
    }
}

#[test]
fn scores_are_those_of_their_papers() {
    let data = [1.0, -2.0, 0.0, 3.0, 0.0, -1.0];
    let w = Weights { data: &data, rows: 2, cols: 3 };
    let norms = [1.0, 4.0, 9.0];
    assert_eq!(score::of_weights(Score::Magnitude, &w, &norms), [1.0, 2.0, 0.0, 3.0, 0.0, 1.0]);
    assert_eq!(score::of_weights(Score::Wanda, &w, &norms), [1.0, 8.0, 0.0, 3.0, 0.0, 9.0]);
    // Rows sum to 3 and 4, columns to 4, 2 and 1.
    let ria: Vec<f32> =
        vec![1.0 / 3.0 + 0.25, 2.0 * (2.0 / 3.0 + 1.0), 0.0, 0.75 + 0.75, 0.0, 3.0 * (0.25 + 1.0)];
    let got = score::of_weights(Score::Ria, &w, &norms);
    assert!(got.iter().zip(&ria).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?} {ria:?}");
}

#[test]
fn sparsegpt_is_brain_surgery_with_the_same_choices() {
    for order in [ActivationOrder::None, ActivationOrder::Static] {
        let layer = Layer::new((19, 160), order, 7);
        let u = &layer.evidence.factored().unwrap().u;
        let (values, mask) = sparsegpt::prune(&layer.w(), u, (Pattern::Rows, half()), THREADS).unwrap();
        let k = 160;
        let at = |p: usize| u.order().original(p);
        let h: Vec<f64> =
            (0..k * k).map(|i| f64::from(layer.evidence.h()[at(i / k) * k + at(i % k)])).collect();
        for row in [0, 7, 18] {
            let w: Vec<f64> = (0..k).map(|p| f64::from(layer.data[row * k + at(p)])).collect();
            let kept = |p: usize| mask.row(row)[at(p)];
            let exact = naive::sweep_row(&w, &h, &mut |p, w| if kept(p) { w[p] } else { 0.0 });
            for p in 0..k {
                let got = f64::from(values[row * k + at(p)]);
                assert!((got - exact[p]).abs() < 2e-4, "row {row}, position {p}: {got} {}", exact[p]);
                assert!(kept(p) || got == 0.0);
            }
        }
        assert!((mask.sparsity() - 0.5).abs() < 1e-3);
    }
}

#[test]
fn the_bits_are_the_same_for_any_number_of_threads() {
    let layer = Layer::new((40, 96), ActivationOrder::None, 9);
    let u = &layer.evidence.factored().unwrap().u;
    let four = Threads::new(NonZeroUsize::new(4).unwrap());
    let pattern = (Pattern::OfEach { keep: 2, of: 4 }, half());
    assert_eq!(
        sparsegpt::prune(&layer.w(), u, pattern, THREADS).unwrap(),
        sparsegpt::prune(&layer.w(), u, pattern, four).unwrap()
    );
}

#[test]
fn methods_stand_in_their_known_order() {
    let layer = Layer::new((64, 128), ActivationOrder::None, 11);
    let u = &layer.evidence.factored().unwrap().u;
    for pattern in [Pattern::Rows, Pattern::OfEach { keep: 2, of: 4 }] {
        let loss = |score| {
            let mask = pattern::weights(pattern, &layer.scores(score), 128, half()).unwrap();
            layer.loss(&layer.masked(&mask))
        };
        let swept = layer.loss(&sparsegpt::prune(&layer.w(), u, (pattern, half()), THREADS).unwrap().0);
        let (magnitude, wanda) = (loss(Score::Magnitude), loss(Score::Wanda));
        assert!(swept < 0.6 * wanda && wanda < magnitude, "{pattern:?}: {swept} {wanda} {magnitude}");
    }
}

/// Inputs that were never there cost nothing, however large their weights: a factor gives them the mean diagonal.
#[test]
fn weights_of_dead_inputs_go_first() {
    let (rows, cols, dead) = (32, 64, 16);
    let whole = correlated_gram(cols, 4 * cols, 23);
    let live =
        |at: usize| if at / cols < dead || at % cols < dead { 0.0 } else { whole.at(at / cols, at % cols) };
    let gram = Gram::new(cols, 1, (0..cols * cols).map(live).collect()).unwrap();
    for (score, pattern, share) in [
        (Criterion::Sparsegpt, Pattern::Rows, 0.5),
        (Criterion::Sparsegpt, Pattern::OfEach { keep: 1, of: 2 }, 0.5),
        (Criterion::BrainSurgeon, Pattern::Blocks { rows: 16, cols: 16 }, 0.25),
    ] {
        let mut layer = Layer::of(&gram, rows, ActivationOrder::None, 23);
        layer.data.chunks_exact_mut(cols).for_each(|row| row[..dead].fill(100.0));
        let sparsity = Some(Sparsity::new(share).unwrap());
        let pruning = Pruning { score, pattern, sparsity, least: 0, ..Pruning::default() };
        let plan = TensorPlan {
            method: Method::Prune,
            order: ActivationOrder::None,
            damping: Damping::new(0.01).unwrap(),
            pruning,
            ..TensorPlan::default()
        };
        let made = compress_tensor(&layer.w(), Some(&layer.evidence), &plan, THREADS).unwrap();
        assert_eq!(made.receipt.dead_columns, dead);
        let (kept, values) = (made.weight.kept().unwrap(), made.weight.to_f32(Alpha::ONE));
        for at in (0..rows * cols).filter(|at| at % cols < dead) {
            assert_eq!(values[at], 0.0, "{score:?} {pattern:?}");
            assert!(!kept[at] || pattern == Pattern::OfEach { keep: 1, of: 2 }, "{score:?} {pattern:?}");
        }
    }
}

fn cut(layer: &Layer, least: usize) -> Blocked {
    Blocked { shape: layer.shape, block: (16, 16), least }
}

#[test]
fn a_refit_leaves_no_gradient_and_saves_most_of_the_loss() {
    let layer = Layer::new((48, 128), ActivationOrder::None, 13);
    let scores = score::of_blocks(BlockScore::Diagonal, &layer.w(), &layer.evidence, (16, 16)).unwrap();
    let mask = pattern::blocks(&scores, cut(&layer, 1), Sparsity::new(0.25).unwrap());
    let fitted = refit::strips(&layer.w(), &mask, &layer.evidence, 16, THREADS).unwrap();
    let d: Vec<f32> = layer.data.iter().zip(&fitted).map(|(a, b)| a - b).collect();
    let gradient = metric::times_h(&Weights { data: &d, ..layer.w() }, &layer.evidence, THREADS);
    let whole = metric::times_h(&layer.w(), &layer.evidence, THREADS);
    let size = whole.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    for (at, gradient) in gradient.iter().enumerate() {
        let kept = mask.row(at / 128)[at % 128];
        assert!(!kept || gradient.abs() < 1e-4 * size, "{gradient} of {size}");
        assert!(kept || fitted[at] == 0.0);
    }
    assert!(layer.loss(&fitted) < 0.7 * layer.loss(&layer.masked(&mask)));
}

#[test]
fn the_brain_surgeons_score_is_the_loss_of_the_best_repair() {
    for order in [ActivationOrder::None, ActivationOrder::Static] {
        let layer = Layer::new((16, 64), order, 17);
        let scores =
            score::of_blocks(BlockScore::BrainSurgeon, &layer.w(), &layer.evidence, (16, 16)).unwrap();
        for (block, score) in scores.iter().enumerate() {
            let kept = (0..16 * 64).map(|at| at % 64 / 16 != block).collect();
            let fitted =
                refit::strips(&layer.w(), &Mask::new(64, kept), &layer.evidence, 16, THREADS).unwrap();
            let loss = layer.loss(&fitted);
            assert!((loss / score - 1.0).abs() < 1e-2, "block {block}: {loss} {score}");
        }
    }
}

#[test]
fn where_inputs_do_not_correlate_the_diagonal_score_is_the_loss() {
    let mut sum = vec![0.0; 128 * 128];
    (0..128).for_each(|j| sum[j * 129] = f64::from((j % 7 + 1) as u32));
    let layer = Layer::of(&Gram::new(128, 1, sum).unwrap(), 64, ActivationOrder::None, 19);
    let dropped = |score| {
        let scores = score::of_blocks(score, &layer.w(), &layer.evidence, (16, 16)).unwrap();
        pattern::blocks(&scores, cut(&layer, 1), half())
    };
    let loss = |mask: &Mask| {
        let kept = layer.masked(mask);
        let gone = layer.data.iter().zip(&kept).enumerate();
        gone.map(|(at, (a, b))| f64::from(a - b).powi(2) * f64::from((at % 128 % 7 + 1) as u32)).sum::<f64>()
    };
    let scores = score::of_blocks(BlockScore::Diagonal, &layer.w(), &layer.evidence, (16, 16)).unwrap();
    let mask = dropped(BlockScore::Diagonal);
    let claimed: f64 =
        (0..scores.len()).filter(|b| !mask.row(b / 8 * 16)[b % 8 * 16]).map(|b| scores[b]).sum();
    assert!((loss(&mask) / claimed - 1.0).abs() < 1e-4);
    assert!(loss(&mask) < loss(&dropped(BlockScore::MeanMagnitude)));
}

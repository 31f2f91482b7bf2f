//! Tiers against every way to choose them, the loss that is claimed against the one that is there, and the sweep against
//! optimal brain surgery under the same mask (Hassibi 1993, as in Frantar 2023, arXiv 2301.00774).

use std::num::NonZeroUsize;

use proptest::prelude::*;

use super::pattern::Pattern;
use super::tiers::{Losses, Tier, Tiers, choose};
use super::*;
use crate::compress::synthetic::{correlated_gram, weights};
use crate::compress::{ActivationOrder, Evidence, Gram, Threads, Weights, metric, naive};
use crate::units::{Damping, Sparsity};

const THREADS: Threads = Threads::ONE;

fn share(share: f64) -> Sparsity {
    Sparsity::new(share).unwrap()
}

/// Losses of few different sizes, blocks being unlike each other.
fn losses(rows: usize, cols: usize, seed: u32) -> Vec<f64> {
    let dice = |i: usize| (i as u32).wrapping_add(seed).wrapping_mul(2_654_435_761) >> 24;
    let of_block = |i: usize| f64::from(dice(i / cols / 16 * 31 + i % cols / 16 + 7) % 8 + 1);
    (0..rows * cols).map(|i| f64::from(dice(i * 13)) * of_block(i)).collect()
}

/// Zeros and loss of one block in one tier, plainly.
fn plain(tier: Tier, data: &[f64], cols: usize, block: usize) -> (usize, f64) {
    let across = cols.div_ceil(16);
    let (top, left) = (block / across * 16, block % across * 16);
    let rows = top..(top + 16).min(data.len() / cols);
    let rows: Vec<Vec<f64>> =
        rows.map(|row| data[row * cols + left..row * cols + cols.min(left + 16)].to_vec()).collect();
    let sorted = |values: &[f64]| {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted
    };
    let gone: Vec<f64> = match tier {
        Tier::Dense => vec![],
        Tier::Removed => rows.concat(),
        Tier::OfEach { keep, of } => {
            let groups = rows.iter().flat_map(|row| row.chunks(of.into()));
            groups.flat_map(|group| sorted(group)[..usize::from(of - keep)].to_vec()).collect()
        }
        Tier::Best { keep, of } => {
            let all = sorted(&rows.concat());
            let kept = all.len() * usize::from(keep) / usize::from(of);
            all[..all.len() - kept].to_vec()
        }
    };
    (gone.len(), gone.iter().sum())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_other_choice_with_as_many_zeros_loses_less(
        rows in 1usize..40, across in 1usize..3, asked in 0.0f64..0.99, seed: u32, which in 0usize..3,
    ) {
        let cols = 16 * across;
        let tiers: Tiers = ["dense, 2:4, 1/4, none", "dense, none, 1:8, 3/4", "none, dense"][which].parse().unwrap();
        let data = losses(rows, cols, seed);
        let losses = Losses { data: &data, cols };
        let chosen = choose(tiers, losses, (share(asked), 0), THREADS).unwrap();
        let budget = share(asked).zeros(rows * cols);
        prop_assert!(chosen.zeros <= budget && budget - chosen.zeros < 256);
        let mask = chosen.mask(losses);
        let gone: f64 = data.iter().zip(mask.flags()).filter(|(_, kept)| !**kept).map(|(l, _)| l).sum();
        prop_assert_eq!(mask.flags().len() - mask.kept(), chosen.zeros);
        prop_assert!((gone - chosen.loss).abs() <= 1e-9 * gone);
        // All choices of a tier for each block.
        let blocks = chosen.tiers.len();
        let tiers: Vec<Tier> = tiers.all().collect();
        let table: Vec<Vec<(usize, f64)>> = (0..blocks)
            .map(|block| tiers.iter().map(|tier| plain(*tier, &data, cols, block)).collect()).collect();
        for number in 0..tiers.len().pow(blocks as u32) {
            let (mut rest, mut zeros, mut loss) = (number, 0, 0.0);
            for of_block in &table {
                let (z, l) = of_block[rest % tiers.len()];
                (rest, zeros, loss) = (rest / tiers.len(), zeros + z, loss + l);
            }
            prop_assert!(zeros < chosen.zeros || loss >= chosen.loss * (1.0 - 1e-9), "{} {}", loss, chosen.loss);
        }
    }

    #[test]
    fn floors_hold(rows in 16usize..80, cols in 16usize..80, asked in 0.5f64..0.99, least in 0usize..3, seed: u32) {
        let (rows, cols) = (rows / 16 * 16, cols / 16 * 16);
        let data = losses(rows, cols, seed);
        let tiers = "dense, none".parse().unwrap();
        let chosen = choose(tiers, Losses { data: &data, cols }, (share(asked), least), THREADS).unwrap();
        let there = |at: usize| usize::from(chosen.tiers[at] != Tier::Removed);
        let across = cols / 16;
        for strip in 0..rows / 16 {
            prop_assert!((0..across).map(|c| there(strip * across + c)).sum::<usize>() >= least.min(across));
        }
        for column in 0..across {
            prop_assert!((0..rows / 16).map(|s| there(s * across + column)).sum::<usize>() >= least.min(rows / 16));
        }
    }
}

#[test]
fn tiers_are_read_and_written() {
    for text in ["tiers", "dense, 1:2, none", "3/8, 15:16, dense", "dense, 2:4, 1/4, 1/8, 1:16, none"] {
        assert_eq!(text.parse::<Pattern>().unwrap().to_string(), text);
    }
    assert_eq!("dense,2:4,1/4,none".parse::<Pattern>().unwrap(), "tiers".parse().unwrap());
    for text in ["dense, dense", "dense, ", "2:3, none", "4:4, none", "0/4, none", "1/0, none", "5/4, dense"]
    {
        assert!(text.parse::<Pattern>().is_err(), "{text}");
    }
    assert!("dense, none, 1/2, 1/3, 1/4, 1/5, 1/6".parse::<Pattern>().is_err());
}

#[test]
fn shares_that_no_mixture_has_are_refused() {
    let data = losses(32, 32, 1);
    let ask = |tiers: &str, asked, cols| {
        choose(tiers.parse().unwrap(), Losses { data: &data, cols }, (share(asked), 0), THREADS).map(|_| ())
    };
    assert!(ask("dense, 2:4", 0.5, 32).is_ok());
    assert!(ask("dense, 2:4", 0.51, 32).is_err());
    assert!(ask("1/4, none", 0.7, 32).is_err());
    assert!(ask("dense, 2:4", 0.5, 2).is_err());
}

fn evidence(gram: &Gram, order: ActivationOrder) -> Evidence {
    Evidence::prepare(gram, Damping::new(0.01).unwrap(), order)
}

fn pruning(score: Criterion) -> Pruning {
    Pruning { score, pattern: "tiers".parse().unwrap(), ..Pruning::default() }
}

/// The layer that a plan makes of weights.
fn made(w: &Weights<'_>, evidence: &Evidence, pruning: Pruning, threads: Threads) -> crate::model::Weight {
    use crate::compress::{Method, TensorPlan, compress_tensor};
    let order = evidence.order();
    let plan = TensorPlan { method: Method::Prune, order, pruning, ..TensorPlan::default() };
    plan.check().unwrap();
    compress_tensor(w, Some(evidence), &plan, threads).unwrap().weight
}

#[test]
fn the_loss_that_is_claimed_is_the_loss_where_inputs_do_not_correlate() {
    let mut sum = vec![0.0; 96 * 96];
    (0..96).for_each(|j| sum[j * 97] = f64::from((j % 5 + 1) as u32));
    let evidence = evidence(&Gram::new(96, 1, sum).unwrap(), ActivationOrder::None);
    let data = weights(48, 96, 3);
    let w = Weights { data: &data, rows: 48, cols: 96 };
    let losses = score::losses(&w, &evidence);
    let chosen =
        choose(Tiers::default(), Losses { data: &losses, cols: 96 }, (share(0.5), 1), THREADS).unwrap();
    let pruned = made(&w, &evidence, pruning(Criterion::Diagonal), THREADS);
    let kept = pruned.kept().unwrap();
    let loss: f64 = (0..data.len())
        .filter(|at| !kept[*at])
        .map(|at| f64::from(data[at]).powi(2) * f64::from((at % 96 % 5 + 1) as u32))
        .sum();
    assert!((loss / chosen.loss - 1.0).abs() < 1e-4, "{loss} {}", chosen.loss);
    assert_eq!(kept.iter().filter(|kept| !**kept).count(), chosen.zeros);
}

#[test]
fn the_sweep_is_brain_surgery_under_the_mask_and_saves_loss() {
    let gram = correlated_gram(96, 400, 5);
    let data = weights(40, 96, 6);
    let w = Weights { data: &data, rows: 40, cols: 96 };
    let moved = evidence(&gram, ActivationOrder::Static);
    let evidence = evidence(&gram, ActivationOrder::None);
    let u = &evidence.factored().unwrap().u;
    let losses = score::losses(&w, &evidence);
    let losses = Losses { data: &losses, cols: 96 };
    let tiered = choose(Tiers::default(), losses, (share(0.5), 1), THREADS).unwrap();
    let (values, mask) = sparsegpt::within_tiers(&w, u, &tiered, THREADS).unwrap();
    assert!(sparsegpt::within_tiers(&w, &moved.factored().unwrap().u, &tiered, THREADS).is_err());
    assert_eq!(mask.kept(), tiered.mask(losses).kept());
    let h: Vec<f64> = evidence.h().iter().map(|h| f64::from(*h)).collect();
    for row in [0, 17, 39] {
        let of_row: Vec<f64> = data[row * 96..][..96].iter().map(|w| f64::from(*w)).collect();
        let kept = mask.row(row);
        let exact = naive::sweep_row(&of_row, &h, &mut |p, w| if kept[p] { w[p] } else { 0.0 });
        for p in 0..96 {
            let got = f64::from(values[row * 96 + p]);
            assert!((got - exact[p]).abs() < 2e-4, "row {row}, column {p}: {got} {}", exact[p]);
        }
    }
    let loss = |other: &[f32]| -> f64 {
        let d: Vec<f32> = data.iter().zip(other).map(|(a, b)| a - b).collect();
        let dh = metric::times_h(&Weights { data: &d, ..w }, &evidence, THREADS);
        d.iter().zip(&dh).map(|(d, dh)| f64::from(*d) * f64::from(*dh)).sum()
    };
    let mut masked = data.clone();
    tiered.mask(losses).apply(&mut masked);
    assert!(loss(&values) < 0.8 * loss(&masked), "{} {}", loss(&values), loss(&masked));
}

#[test]
fn the_bits_are_the_same_for_any_number_of_threads() {
    let evidence = evidence(&correlated_gram(64, 300, 8), ActivationOrder::None);
    let data = weights(70, 64, 9);
    let w = Weights { data: &data, rows: 70, cols: 64 };
    let three = Threads::new(NonZeroUsize::new(3).unwrap());
    for score in [Criterion::Diagonal, Criterion::Sparsegpt] {
        let [one, many] = [THREADS, three].map(|threads| made(&w, &evidence, pruning(score), threads));
        assert_eq!(one.kept(), many.kept());
        let values = |w: &crate::model::Weight| w.to_f32(crate::units::Alpha::ONE);
        assert_eq!(values(&one), values(&many));
    }
}

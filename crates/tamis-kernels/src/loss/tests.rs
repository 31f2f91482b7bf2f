//! The losses on every instruction set against the references, the references against
//! differences, and the cases in which a probability is 0.

use super::*;
use crate::isa::Isa;
use crate::linear::noise;

/// Probabilities and losses of f32 logits up to 15: `exp` and a few roundings of values near 1.
const TOLERANCE: f64 = 4e-6;
/// f64 over steps of 1e-4: the third derivative times 1e-8 / 6, and 1e-16 / 1e-4 of rounding.
const DIFFERENCE: f64 = 1e-8;

const WIDTHS: [usize; 10] = [2, 7, 8, 9, 16, 17, 511, 513, 1000, 49_152];

fn logits(len: usize) -> Vec<f32> {
    noise(len, 1).iter().map(|x| 30.0 * x).collect()
}

fn wide(row: &[f32]) -> Vec<f64> {
    row.iter().map(|&x| f64::from(x)).collect()
}

fn near(a: f32, b: f64) -> bool {
    (f64::from(a) - b).abs() <= TOLERANCE * (1.0 + b.abs())
}

/// The largest `top` of another row of logits, at its own softmax times `share`.
fn teacher_row(width: usize, top: usize, share: f64, seed: u32) -> Vec<(usize, f64)> {
    let row: Vec<f64> = noise(width, seed).iter().map(|&x| 8.0 * f64::from(x)).collect();
    let total = row.iter().map(|x| x.exp()).sum::<f64>().ln();
    let mut order: Vec<usize> = (0..width).collect();
    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
    let log_p = |id: usize| f64::from((row[id] - total + share.ln()) as f32);
    order[..top].iter().map(|&id| (id, log_p(id))).collect()
}

fn packed(rows: &[Vec<(usize, f64)>]) -> (Vec<u32>, Vec<f32>) {
    rows.iter().flatten().map(|&(id, log_p)| (id as u32, log_p as f32)).unzip()
}

#[test]
fn cross_entropy_agrees_with_the_reference_and_threads_do_not_change_bits() {
    for width in WIDTHS {
        let m = 3;
        let x = logits(m * width);
        let targets = [0, width as u32 - 1, width as u32 / 2];
        for isa in Isa::available() {
            let run = |threads| {
                let (mut y, mut losses) = (x.clone(), vec![0.0; m]);
                cross_entropy(&Cpu::new(isa, threads), &mut y, &targets, 0.25, &mut losses);
                (y, losses)
            };
            let (y, losses) = run(1);
            assert!([2, 3].into_iter().all(|threads| run(threads) == (y.clone(), losses.clone())));
            for i in 0..m {
                let row = i * width..(i + 1) * width;
                let (loss, gradient) =
                    scalar::cross_entropy(&wide(&x[row.clone()]), targets[i] as usize, 0.25);
                assert!(near(losses[i], loss), "{} {width}: {} {loss}", isa.name(), losses[i]);
                assert!(y[row].iter().zip(&gradient).all(|(a, b)| near(*a, *b)), "{}", isa.name());
            }
        }
    }
}

#[test]
fn the_divergence_agrees_with_the_reference_and_threads_do_not_change_bits() {
    for (width, top) in WIDTHS.into_iter().flat_map(|w| [(w, 1), (w, w.min(32)), (w, w.min(5))]) {
        let m = 3;
        let x = logits(m * width);
        let rows: Vec<_> = (0..m).map(|i| teacher_row(width, top, 1.0, 5 + i as u32)).collect();
        let (ids, log_probs) = packed(&rows);
        let teacher = Teacher { ids: &ids, log_probs: &log_probs, top };
        let weight = Weight { temperature: 2.0, scale: 0.5 };
        for isa in Isa::available() {
            let run = |threads| {
                let (mut y, mut losses) = (x.clone(), vec![0.0; m]);
                divergence(&Cpu::new(isa, threads), &mut y, teacher, weight, &mut losses);
                (y, losses)
            };
            let (y, losses) = run(1);
            assert!([2, 3].into_iter().all(|threads| run(threads) == (y.clone(), losses.clone())));
            for i in 0..m {
                let row = i * width..(i + 1) * width;
                let (loss, gradient) = scalar::divergence(&wide(&x[row.clone()]), &rows[i], weight);
                assert!(near(losses[i], loss), "{} {width} {top}: {} {loss}", isa.name(), losses[i]);
                assert!(y[row].iter().zip(&gradient).all(|(a, b)| near(*a, *b)), "{} {width}", isa.name());
            }
        }
    }
}

#[test]
fn the_references_are_the_differences_of_the_losses() {
    let x = wide(&logits(12));
    let teacher = teacher_row(12, 4, 0.9, 3);
    let weight = Weight { temperature: 3.0, scale: 1.0 };
    type Loss<'a> = &'a dyn Fn(&[f64]) -> (f64, Vec<f64>);
    let losses: [Loss<'_>; 2] =
        [&|x| scalar::cross_entropy(x, 3, 1.0), &|x| scalar::divergence(x, &teacher, weight)];
    for loss in losses {
        for (j, exact) in loss(&x).1.iter().enumerate() {
            let at = |by: f64| {
                let mut x = x.clone();
                x[j] += by;
                loss(&x).0
            };
            let slope = (at(1e-4) - at(-1e-4)) / 2e-4;
            assert!((slope - exact).abs() < DIFFERENCE, "{j}: {slope} {exact}");
        }
    }
}

/// The teacher has no tail left, or the student's tail is too small for f32, or either of the K is.
#[test]
fn probabilities_of_0_give_finite_losses_and_gradients() {
    let (ln_half, none) = (-std::f32::consts::LN_2, f32::NEG_INFINITY);
    let cases: [([f32; 4], [f32; 2], f64); 4] = [
        // No tail: p = q on the two, the tail of q is 0 for f32.
        ([300.0, 300.0, 0.0, 0.0], [ln_half, ln_half], 0.0),
        // A tail of one half, where the student has e^-300.
        ([0.0, 300.0, 0.0, 0.0], [none, ln_half], 0.5 * (300.0 - 2f64.ln()) - 2f64.ln()),
        // An impossible logit in the tail.
        ([0.0, 0.0, none, none], [ln_half, ln_half], 0.0),
        // More than all of the mass, by rounding.
        ([0.0, 0.0, -200.0, -200.0], [ln_half + 1e-6, ln_half + 1e-6], 1e-6),
    ];
    for isa in Isa::available() {
        for (x, log_probs, expected) in cases {
            let (mut y, mut loss) = (x, [0.0]);
            let teacher = Teacher { ids: &[0, 1], log_probs: &log_probs, top: 2 };
            let weight = Weight { temperature: 1.0, scale: 1.0 };
            divergence(&Cpu::new(isa, 1), &mut y, teacher, weight, &mut loss);
            assert!(near(loss[0], expected), "{x:?}: {} {expected}", loss[0]);
            assert!(y.iter().all(|v| v.is_finite()), "{x:?}: {y:?}");
            // A shift of all logits changes nothing: the gradient sums to 0.
            assert!(near(y.iter().sum(), 0.0), "{x:?}: {y:?}");
        }
    }
}

#[test]
#[should_panic(expected = "stands twice")]
fn an_id_that_stands_twice_is_refused() {
    let teacher = Teacher { ids: &[1, 1], log_probs: &[-1.0, -1.0], top: 2 };
    let weight = Weight { temperature: 1.0, scale: 1.0 };
    divergence(&Cpu::new(Isa::SCALAR, 1), &mut [0.0; 4], teacher, weight, &mut [0.0]);
}

#[test]
#[should_panic(expected = "target 4 of 4 logits")]
fn a_target_outside_the_row_is_refused() {
    cross_entropy(&Cpu::new(Isa::SCALAR, 1), &mut [0.0; 4], &[4], 1.0, &mut [0.0]);
}

//! The gradient on every instruction set against the reference, the reference against
//! differences of the reference of attention, and bits against other numbers of threads.

use super::*;
use crate::attention::{CacheType, KvLayer, scalar};
use crate::isa::Isa;
use crate::linear::noise;

/// Gradients are sums of up to 300 products below 1 with weights that sum to 1; scores are up
/// to 4 and their exponentials lose a few units of 2^-24.
const TOLERANCE: f64 = 1e-5;
/// Weights and their gradients are rounded to 2^-9 of themselves, and gradients stay below 4.
const ROUNDED: f64 = 1e-2;
/// Steps of 2^-5: the third derivative, below 20 here, times 2^-10 / 6; f32 outputs add 1e-5.
const DIFFERENCE: f64 = 3e-3;

fn params(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionParams {
    let scale = 2.0 / (head_dim as f32).sqrt();
    AttentionParams { heads, kv_heads, head_dim, scale, softcap: None, window: None }
}

fn shapes() -> Vec<AttentionParams> {
    let mut all = vec![];
    for (heads, kv, dim) in [(1, 1, 8), (4, 4, 16), (6, 2, 80), (3, 1, 5)] {
        let plain = params(heads, kv, dim);
        all.extend([None, Some(1), Some(16), Some(33)].map(|window| AttentionParams { window, ..plain }));
        all.push(AttentionParams { softcap: Some(1.5), ..plain });
        all.push(AttentionParams { softcap: Some(1.5), window: Some(7), ..plain });
    }
    all
}

/// q, k, v and dout, which bf16 holds exactly.
fn inputs(m: usize, p: &AttentionParams) -> [Vec<f32>; 4] {
    let (width, kv_width) = (p.heads * p.head_dim, p.kv_heads * p.head_dim);
    let round = |v: Vec<f32>| v.into_iter().map(|v| half::bf16::from_f32(v).to_f32()).collect();
    [(width, 1), (kv_width, 2), (kv_width, 3), (width, 4)].map(|(w, seed)| round(noise(m * w, seed)))
}

fn run(
    cpu: &Cpu,
    [q, k, v, dout]: &[Vec<f32>; 4],
    p: &AttentionParams,
    precision: Precision,
) -> [Vec<f32>; 3] {
    let mut to = [vec![9.0; q.len()], vec![9.0; k.len()], vec![9.0; v.len()]];
    let [dq, dk, dv] = &mut to;
    let to_all = SequenceGradient { q: dq, k: dk, v: dv };
    attend_gradient(cpu, Sequence { q, k, v }, p, precision, dout, to_all);
    to
}

fn exact([q, k, v, dout]: &[Vec<f32>; 4], p: &AttentionParams) -> [Vec<f64>; 3] {
    scalar::attend_gradient(Sequence { q, k, v }, p, dout)
}

#[test]
fn every_isa_agrees_with_the_reference() {
    for (p, m) in shapes().into_iter().flat_map(|p| [0, 1, 15, 17, 32, 33, 127, 129, 300].map(|m| (p, m))) {
        let inputs = inputs(m, &p);
        let expected = exact(&inputs, &p);
        for isa in Isa::variants() {
            let cpu = Cpu::new(isa, 2);
            for (precision, tolerance) in [(Precision::F32, TOLERANCE), (Precision::Bf16, ROUNDED)] {
                let found = run(&cpu, &inputs, &p, precision);
                for (which, (a, b)) in found.iter().zip(&expected).enumerate() {
                    let far = a.iter().zip(b).find(|(a, b)| (f64::from(**a) - **b).abs() > tolerance);
                    let name = isa.name();
                    assert!(far.is_none(), "{name} {precision:?} {p:?} {m} gradient {which}: {far:?}");
                }
            }
        }
    }
}

#[test]
fn the_reference_is_the_difference_of_attention() {
    let m = 7;
    let plain = params(4, 2, 3);
    let capped = AttentionParams { softcap: Some(0.5), window: Some(4), ..plain };
    for p in [plain, capped] {
        let inputs = inputs(m, &p);
        let step = 1.0 / 32.0;
        for (which, gradient) in exact(&inputs, &p).iter().enumerate() {
            for (i, exact) in gradient.iter().enumerate() {
                let loss = |by: f32| -> f64 {
                    let mut at = inputs.clone();
                    at[which][i] += by;
                    let mut cache = KvLayer::new(p.kv_heads, p.head_dim, m, CacheType::F32);
                    cache.append(&at[1], &at[2]).unwrap();
                    let mut out = vec![0.0; at[0].len()];
                    scalar::attend(&at[0], 0, &cache, &p, &mut out);
                    out.iter().zip(&at[3]).map(|(y, dy)| f64::from(*y) * f64::from(*dy)).sum()
                };
                let slope = (loss(step) - loss(-step)) / (2.0 * f64::from(step));
                assert!((slope - exact).abs() < DIFFERENCE, "{which} {i}: {slope} {exact}");
            }
        }
    }
}

#[test]
fn threads_do_not_change_bits() {
    let p = AttentionParams { window: Some(150), ..params(6, 2, 24) };
    let inputs = inputs(260, &p);
    for (isa, precision) in
        Isa::available().into_iter().flat_map(|isa| [(isa, Precision::F32), (isa, Precision::Bf16)])
    {
        let one = run(&Cpu::new(isa, 1), &inputs, &p, precision);
        for threads in [2, 3, 8] {
            assert!(run(&Cpu::new(isa, threads), &inputs, &p, precision) == one, "{}", isa.name());
        }
    }
}

/// Buffers are kept: a NaN of an earlier call must not come back, whatever is odd.
#[test]
fn what_a_call_leaves_behind_does_not_matter() {
    let p = AttentionParams { softcap: Some(2.0), window: Some(11), ..params(4, 2, 5) };
    let clean = inputs(37, &p);
    for (isa, precision) in
        Isa::variants().into_iter().flat_map(|isa| [(isa, Precision::F32), (isa, Precision::Bf16)])
    {
        let cpu = Cpu::new(isa, 1);
        let before = run(&cpu, &clean, &p, precision);
        let nan = inputs(64, &p).map(|values| vec![f32::NAN; values.len()]);
        run(&cpu, &nan, &p, precision);
        let after = run(&cpu, &clean, &p, precision);
        assert!(before == after, "{} {precision:?}", isa.name());
    }
}

#[test]
#[should_panic(expected = "must be 2x8")]
fn keys_of_another_length_are_refused() {
    let p = params(2, 1, 8);
    let mut inputs = inputs(2, &p);
    inputs[1].pop();
    run(&Cpu::new(Isa::SCALAR, 1), &inputs, &p, Precision::F32);
}

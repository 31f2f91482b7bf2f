//! Attention on every instruction set against the reference, and its bits against
//! themselves for other chunks and other numbers of threads.

use super::*;
use crate::isa::Isa;
use crate::linear::noise;

/// Outputs are averages of values below 1/2; exponentials and sums of some hundred
/// terms lose a few units of 2^-24 each.
const TOLERANCE: f32 = 3e-6;

fn params(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionParams {
    let scale = 4.0 / (head_dim as f32).sqrt();
    AttentionParams { heads, kv_heads, head_dim, scale, softcap: None, window: None }
}

fn filled(p: &AttentionParams, len: usize) -> KvLayer {
    let mut cache = KvLayer::new(p.kv_heads, p.head_dim, len, CacheType::F32);
    let width = p.kv_heads * p.head_dim;
    cache.append(&noise(len * width, 1), &noise(len * width, 2)).unwrap();
    cache
}

fn shapes() -> Vec<AttentionParams> {
    let mut all = vec![];
    for (heads, kv, dim) in
        [(1, 1, 8), (4, 4, 16), (9, 3, 64), (6, 2, 80), (2, 1, 128), (3, 3, 5), (2, 2, 256)]
    {
        for window in [None, Some(1), Some(16), Some(33)] {
            all.push(AttentionParams { window, ..params(heads, kv, dim) });
        }
        all.push(AttentionParams { softcap: Some(1.5), ..params(heads, kv, dim) });
        all.push(AttentionParams { softcap: Some(1.5), window: Some(7), ..params(heads, kv, dim) });
    }
    all
}

#[test]
fn every_isa_agrees_with_the_reference() {
    for p in shapes() {
        for (len, m) in [(1, 0), (1, 1), (15, 15), (16, 3), (17, 17), (33, 2), (150, 12)] {
            let cache = filled(&p, len);
            let q = noise(m * p.heads * p.head_dim, 3);
            let mut expected = vec![0.0; q.len()];
            scalar::attend(&q, len - m, &cache, &p, &mut expected);
            for isa in Isa::available() {
                let mut y = vec![9.0; q.len()];
                attend(&Cpu::new(isa, 2), &q, len - m, &cache, &p, &mut y);
                for (a, b) in y.iter().zip(&expected) {
                    assert!((a - b).abs() < TOLERANCE, "{} {p:?} {len} {m}: {a} {b}", isa.name());
                }
            }
        }
    }
}

#[test]
fn attention_received_agrees_with_the_reference_for_any_threads() {
    for p in shapes() {
        for (len, start, step, m) in
            [(1, 0, 1, 0), (1, 0, 1, 1), (40, 3, 8, 5), (150, 5, 16, 10), (90, 0, 1, 90)]
        {
            let cache = filled(&p, len);
            let q = noise(m * p.heads * p.head_dim, 3);
            let mut expected = vec![9.0; len];
            scalar::received(&q, (start, step), &cache, &p, &mut expected);
            let total: f32 = expected.iter().sum();
            let all = (m * p.heads) as f32;
            // Up to 150 numbers, each rounded to f32 and added in f32: 150 x 2^-24.
            assert!((total - all).abs() <= 1e-5 * all, "{total} {all}");
            for isa in Isa::available() {
                let run = |threads| {
                    let mut y = vec![9.0; len];
                    received(&Cpu::new(isa, threads), &q, (start, step), &cache, &p, &mut y);
                    y
                };
                let y = run(2);
                for (a, b) in y.iter().zip(&expected) {
                    // Sums of up to `all` weights of at most one.
                    assert!((a - b).abs() <= TOLERANCE * b.max(1.0), "{} {p:?} {len}: {a} {b}", isa.name());
                }
                assert!(run(1).iter().zip(&y).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
        }
    }
}

#[test]
fn steps_chunks_and_threads_give_the_same_bits() {
    for mut p in [params(9, 3, 64), params(4, 1, 80), params(2, 2, 8)] {
        for window in [None, Some(40)] {
            p.window = window;
            let (len, width) = (200, p.heads * p.head_dim);
            let (cache, q) = (filled(&p, len), noise(len * width, 3));
            for isa in Isa::available() {
                let mut alone = vec![0.0; q.len()];
                let one = Cpu::new(isa, 1);
                for (i, (q, y)) in q.chunks_exact(width).zip(alone.chunks_exact_mut(width)).enumerate() {
                    attend(&one, q, i, &cache, &p, y);
                }
                for (threads, chunk) in [(1, 200), (2, 200), (3, 64), (8, 7)] {
                    let cpu = Cpu::new(isa, threads);
                    let mut y = vec![0.0; q.len()];
                    for (i, (q, y)) in q.chunks(chunk * width).zip(y.chunks_mut(chunk * width)).enumerate() {
                        attend(&cpu, q, i * chunk, &cache, &p, y);
                    }
                    assert!(y.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits()), "{p:?}");
                }
            }
        }
    }
}

#[test]
fn what_a_query_may_not_see_does_not_reach_it() {
    let p = AttentionParams { window: Some(20), ..params(3, 1, 16) };
    let q = noise(40 * 48, 3);
    for isa in Isa::available() {
        let cpu = Cpu::new(isa, 1);
        let mut clean = vec![0.0; q.len()];
        attend(&cpu, &q, 0, &filled(&p, 40), &p, &mut clean);
        // Position 25 is not a number: 0..=24 come before it, the rest may see it.
        let (mut k, mut v) = (noise(40 * 16, 1), noise(40 * 16, 2));
        k[25 * 16..26 * 16].fill(f32::NAN);
        v[25 * 16..26 * 16].fill(f32::INFINITY);
        let mut cache = KvLayer::new(1, 16, 40, CacheType::F32);
        cache.append(&k, &v).unwrap();
        let mut y = vec![0.0; q.len()];
        attend(&cpu, &q, 0, &cache, &p, &mut y);
        assert_eq!(y[..25 * 48], clean[..25 * 48]);
        assert!(y[25 * 48..].iter().all(|x| x.is_nan()));
    }
}

#[test]
#[should_panic(expected = "keys are missing")]
fn a_query_beyond_the_cache_is_refused() {
    let p = params(1, 1, 8);
    attend(&Cpu::new(Isa::SCALAR, 1), &[0.0; 16], 3, &filled(&p, 4), &p, &mut [0.0; 16]);
}

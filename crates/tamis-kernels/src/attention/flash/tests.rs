//! Compact caches on every instruction set against the reference, and their bits against
//! themselves for other cuts of the same sequence and other numbers of threads.

use super::visits::CHUNK;
use crate::attention::{AttentionParams, CacheType, KvLayer, attend, received, scalar};
use crate::isa::Isa;
use crate::linear::noise;
use crate::pool::Cpu;

const COMPACT: [CacheType; 3] = [CacheType::Bf16, CacheType::F16, CacheType::Int8];

/// How far outputs may be from the reference over the same stored numbers. Values are below
/// 1/2, so outputs are averages below 1/2, and queries of the tests are bf16 already.
fn tolerance(kind: CacheType) -> f32 {
    match kind {
        // Nothing is rounded but f32: 2.9e-6 of the exponential, sums of some hundred terms.
        CacheType::F32 | CacheType::F16 => 6e-6,
        // Each weight is rounded to bf16, by up to 2^-8 of itself: 2^-8 of 1/2, and the above.
        CacheType::Bf16 | CacheType::Int8 => 1.96e-3,
    }
}

fn params(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionParams {
    let scale = 4.0 / (head_dim as f32).sqrt();
    AttentionParams { heads, kv_heads, head_dim, scale, softcap: None, window: None }
}

/// Queries that bf16 holds as they are.
fn queries(p: &AttentionParams, m: usize) -> Vec<f32> {
    let rounded = |x: f32| half::bf16::from_f32(x).to_f32();
    noise(m * p.heads * p.head_dim, 3).into_iter().map(rounded).collect()
}

fn filled(p: &AttentionParams, kind: CacheType, len: usize) -> KvLayer {
    let mut cache = KvLayer::new(p.kv_heads, p.head_dim, len, kind);
    let width = p.kv_heads * p.head_dim;
    cache.append(&noise(len * width, 1), &noise(len * width, 2)).unwrap();
    cache
}

fn shapes() -> Vec<AttentionParams> {
    let shapes = [(1, 1, 8), (3, 1, 16), (9, 3, 64), (8, 1, 80), (2, 2, 128), (3, 3, 5), (10, 2, 96)];
    let mut all = vec![];
    for (heads, kv, dim) in shapes {
        let plain = params(heads, kv, dim);
        all.extend([None, Some(1), Some(16), Some(70)].map(|window| AttentionParams { window, ..plain }));
        all.push(AttentionParams { softcap: Some(1.5), ..plain });
        all.push(AttentionParams { softcap: Some(1.5), window: Some(7), ..plain });
    }
    all
}

fn agrees(p: &AttentionParams, kind: CacheType, len: usize, m: usize) {
    let (cache, q) = (filled(p, kind, len), queries(p, m));
    let mut expected = vec![0.0; q.len()];
    scalar::attend(&q, len - m, &cache, p, &mut expected);
    for isa in Isa::variants() {
        let mut y = vec![9.0; q.len()];
        attend(&Cpu::new(isa, 2), &q, len - m, &cache, p, &mut y);
        for (a, b) in y.iter().zip(&expected) {
            assert!((a - b).abs() < tolerance(kind), "{} {kind} {p:?} {len} {m}: {a} {b}", isa.name());
        }
    }
}

#[test]
fn every_isa_agrees_with_the_reference() {
    let lengths = if cfg!(miri) {
        vec![(1, 1), (66, 2)]
    } else {
        vec![
            (1, 0),
            (1, 1),
            (15, 15),
            (16, 3),
            (17, 17),
            (31, 1),
            (32, 5),
            (33, 33),
            (63, 2),
            (64, 7),
            (65, 18),
        ]
    };
    for p in shapes().iter().take(if cfg!(miri) { 6 } else { usize::MAX }) {
        for kind in COMPACT {
            for &(len, m) in &lengths {
                agrees(p, kind, len, m);
            }
        }
    }
}

#[test]
fn every_isa_agrees_with_the_reference_at_the_edges_of_a_chunk() {
    for mut p in [params(9, 3, 64), params(5, 1, 8)] {
        for kind in COMPACT {
            for len in [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 1] {
                for window in [None, Some(CHUNK), Some(CHUNK + 2)] {
                    p.window = window;
                    agrees(&p, kind, len, if cfg!(miri) { 1 } else { 9 });
                }
            }
        }
    }
}

#[test]
fn queries_are_rounded_to_bf16_where_keys_are() {
    // A score is a sum of 64 products, each off by at most 2^-8 of 1/4, times 1/2: 0.03 at
    // the very worst, 0.002 where the errors are independent; an output moves by at most that.
    let (p, len) = (params(9, 3, 64), 100);
    let q = noise(len * 576, 3);
    for kind in COMPACT {
        let cache = filled(&p, kind, len);
        let (mut y, mut expected) = (vec![0.0; q.len()], vec![0.0; q.len()]);
        scalar::attend(&q, 0, &cache, &p, &mut expected);
        for isa in Isa::variants() {
            attend(&Cpu::new(isa, 2), &q, 0, &cache, &p, &mut y);
            let worst = y.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 2e-3, "{} {kind}: {worst}", isa.name());
        }
    }
}

/// Keys, values and queries of a sequence, and the outputs of all its positions where it
/// comes in pieces of these lengths (the last as often as it takes).
struct Fed<'a> {
    p: &'a AttentionParams,
    kind: CacheType,
    k: &'a [f32],
    v: &'a [f32],
    q: &'a [f32],
}

impl Fed<'_> {
    fn outputs(&self, cpu: &Cpu, pieces: &[usize]) -> Vec<u32> {
        let Self { p, kind, k, v, q } = *self;
        let (width, wide) = (p.kv_heads * p.head_dim, p.heads * p.head_dim);
        let len = k.len() / width;
        let mut cache = KvLayer::new(p.kv_heads, p.head_dim, len, kind);
        let (mut y, mut at, mut pieces) = (vec![0.0; q.len()], 0, pieces.iter().peekable());
        while at < len {
            let piece = if pieces.len() > 1 { pieces.next() } else { pieces.peek().copied() };
            let end = (at + piece.unwrap()).min(len);
            cache.append(&k[at * width..end * width], &v[at * width..end * width]).unwrap();
            attend(cpu, &q[at * wide..end * wide], at, &cache, p, &mut y[at * wide..end * wide]);
            at = end;
        }
        y.iter().map(|y| y.to_bits()).collect()
    }
}

#[test]
fn cuts_of_a_sequence_and_threads_do_not_change_a_bit() {
    let len = if cfg!(miri) { 70 } else { CHUNK + 75 };
    for mut p in [params(9, 3, 64), params(8, 1, 80), params(2, 2, 8)] {
        for window in [None, Some(100)] {
            p.window = window;
            let width = p.kv_heads * p.head_dim;
            let (k, v, q) =
                (noise(len * width, 1), noise(len * width, 2), noise(len * p.heads * p.head_dim, 3));
            for kind in COMPACT {
                let fed = Fed { p: &p, kind, k: &k, v: &v, q: &q };
                for isa in Isa::variants() {
                    let alone = fed.outputs(&Cpu::new(isa, 1), &[1]);
                    let cuts: [(usize, &[usize]); 5] =
                        [(1, &[len]), (2, &[len]), (3, &[64]), (8, &[7]), (2, &[200, 1])];
                    for (threads, pieces) in cuts {
                        let cut = fed.outputs(&Cpu::new(isa, threads), pieces);
                        assert!(cut == alone, "{} {kind} {p:?} {threads} {pieces:?}", isa.name());
                    }
                }
            }
        }
    }
}

#[test]
fn what_a_query_may_not_see_does_not_reach_it() {
    let p = AttentionParams { window: Some(20), ..params(3, 1, 16) };
    let q = noise(80 * 48, 3);
    for kind in COMPACT {
        // Position 25 is not a number: 0..=24 come before it, 25..=44 see it, the rest no more.
        let (k, v) = (noise(80 * 16, 1), noise(80 * 16, 2));
        let (mut bad_k, mut bad_v) = (k.clone(), v.clone());
        bad_k[25 * 16..26 * 16].fill(f32::NAN);
        bad_v[25 * 16..26 * 16].fill(f32::INFINITY);
        for isa in Isa::variants() {
            let cpu = Cpu::new(isa, 1);
            let clean = Fed { p: &p, kind, k: &k, v: &v, q: &q }.outputs(&cpu, &[80]);
            for (k, v) in [(&bad_k, &bad_v), (&bad_k, &v), (&k, &bad_v)] {
                let y = Fed { p: &p, kind, k, v, q: &q }.outputs(&cpu, &[80]);
                assert!(y[..25 * 48] == clean[..25 * 48] && y[45 * 48..] == clean[45 * 48..]);
                assert!(y[25 * 48..45 * 48].iter().all(|y| !f32::from_bits(*y).is_finite()), "{kind}");
            }
        }
    }
}

#[test]
fn what_was_truncated_leaves_no_trace() {
    let p = params(3, 1, 16);
    let (k, v, q) = (noise(90 * 16, 1), noise(90 * 16, 2), noise(90 * 48, 3));
    let outputs = |cpu: &Cpu, cache: &KvLayer| {
        let mut y = vec![0.0; 48];
        attend(cpu, &q[..48], cache.len() - 1, cache, &p, &mut y);
        y
    };
    for kind in COMPACT {
        for isa in Isa::variants() {
            let cpu = Cpu::new(isa, 1);
            let fresh = {
                let mut cache = KvLayer::new(1, 16, 90, kind);
                cache.append(&k[..70 * 16], &v[..70 * 16]).unwrap();
                outputs(&cpu, &cache)
            };
            for left_over in [1.0, f32::INFINITY] {
                let mut cache = KvLayer::new(1, 16, 90, kind);
                cache.append(&k[..50 * 16], &v[..50 * 16]).unwrap();
                cache.append(&[left_over; 40 * 16], &[left_over; 40 * 16]).unwrap();
                cache.truncate(50);
                cache.append(&k[50 * 16..70 * 16], &v[50 * 16..70 * 16]).unwrap();
                assert_eq!(outputs(&cpu, &cache), fresh);
                cache.reset();
                cache.append(&k[..70 * 16], &v[..70 * 16]).unwrap();
                assert_eq!(outputs(&cpu, &cache), fresh);
            }
        }
    }
}

#[test]
fn attention_received_agrees_with_the_reference() {
    let (p, len) = (params(9, 3, 64), 90);
    let q = noise(10 * 576, 3);
    for kind in COMPACT {
        let cache = filled(&p, kind, len);
        let mut expected = vec![9.0; len];
        scalar::received(&q, (5, 8), &cache, &p, &mut expected);
        for isa in Isa::available() {
            let mut y = vec![9.0; len];
            received(&Cpu::new(isa, 2), &q, (5, 8), &cache, &p, &mut y);
            // Sums of up to 90 weights, in f32 throughout.
            assert!(y.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 3e-6 * b.max(1.0)), "{kind}");
        }
    }
}

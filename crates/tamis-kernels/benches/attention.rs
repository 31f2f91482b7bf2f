//! Attention at the shapes of three real models, for each type of cache: a prompt of 512, a step at
//! depth 4096, and the attention that positions receive. Every answer is compared with the
//! reference before it is timed. `cargo bench -p tamis-kernels --bench attention`.

mod setup;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use setup::{Bench, MODELS, Model, PROMPT, STREAMED, bytes, close, elements, noise};
use tamis_kernels::Cpu;
use tamis_kernels::attention::{AttentionParams, CacheType, KvLayer, attend, received, scalar};

/// Positions in the cache of a step.
const DEPTH: usize = 4096;

criterion_group!(name = benches; config = setup::criterion(); targets = bench);
criterion_main!(benches);

/// An output is the mean of hundreds of values below 1/2, so it is about 0.01. f32: exponentials and
/// sums lose some units of 2^-24. Compact types: queries and weights are rounded on the way, to
/// bf16 or to int8 (1/254 of the largest), which moves the mean by about that share of itself.
fn tolerance(kind: CacheType) -> f32 {
    if kind == CacheType::F32 { 5e-6 } else { 1e-4 }
}

fn params(model: &Model) -> AttentionParams {
    let Model { heads, kv_heads, head_dim, .. } = *model;
    let scale = 1.0 / (head_dim as f32).sqrt();
    AttentionParams { heads, kv_heads, head_dim, scale, softcap: None, window: None }
}

fn empty(model: &Model, kind: CacheType) -> KvLayer {
    KvLayer::new(model.kv_heads, model.head_dim, DEPTH, kind)
}

fn filled(model: &Model, kind: CacheType, len: usize) -> KvLayer {
    let mut cache = empty(model, kind);
    let rows = |seed| noise(len * model.kv_width(), seed);
    cache.append(&rows(1), &rows(2)).expect("there is room");
    cache
}

/// Asserts that the last of `rows` queries got what the reference says.
fn check(q: &[f32], out: &[f32], cache: &KvLayer, params: &AttentionParams) {
    let width = params.heads * params.head_dim;
    let (q, out) = (&q[q.len() - width..], &out[out.len() - width..]);
    let mut expected = vec![0.0; width];
    scalar::attend(q, cache.len() - 1, cache, params, &mut expected);
    close(out, &expected, tolerance(cache.kind()));
}

fn bench(c: &mut Criterion) {
    let mut bench = Bench::new(c);
    for model in &MODELS {
        for kind in CacheType::ALL {
            append(&mut bench, model, kind);
            prefill(&mut bench, model, kind);
            step(&mut bench, model, kind);
            bench_received(&mut bench, model, kind);
        }
    }
}

/// A prompt on an empty cache. Scores and values: 4 operations for each number of a query
/// and each position that it sees.
fn prefill(bench: &mut Bench<'_>, model: &Model, kind: CacheType) {
    let params = params(model);
    let width = params.heads * params.head_dim;
    let operations = elements(4 * width * PROMPT * (PROMPT + 1) / 2);
    let make = |cpu: &Cpu| {
        let (cache, q) = (filled(model, kind, PROMPT), noise(PROMPT * width, 3));
        let mut out = vec![0.0; q.len()];
        attend(cpu, &q, 0, &cache, &params, &mut out);
        check(&q, &out, &cache, &params);
        (cache, q, out)
    };
    let name = format!("attention {} x{PROMPT} {kind}", model.name);
    bench.time(&name, operations, make, |cpu, (cache, q, out)| {
        attend(cpu, q, 0, cache, &params, black_box(out));
    });
}

/// One token in so many layers that their caches come from memory.
fn step(bench: &mut Bench<'_>, model: &Model, kind: CacheType) {
    let params = params(model);
    let width = params.heads * params.head_dim;
    let size = empty(model, kind).position_bytes() * DEPTH;
    let count = STREAMED.div_ceil(size);
    let make = |cpu: &Cpu| {
        let (cache, q) = (filled(model, kind, DEPTH), noise(width, 3));
        let mut out = vec![0.0; width];
        attend(cpu, &q, DEPTH - 1, &cache, &params, &mut out);
        check(&q, &out, &cache, &params);
        (vec![cache; count], q, out)
    };
    let name = format!("attention {} x1 at {DEPTH} {kind}", model.name);
    bench.time(&name, bytes(size * count), make, |cpu, (layers, q, out)| {
        for cache in &*layers {
            attend(cpu, q, DEPTH - 1, cache, &params, black_box(out));
        }
    });
}

/// A prompt's keys and values into the cache: f32 read, a second.
fn append(bench: &mut Bench<'_>, model: &Model, kind: CacheType) {
    let make = |_: &Cpu| {
        let (k, v) = (noise(PROMPT * model.kv_width(), 1), noise(PROMPT * model.kv_width(), 2));
        let mut cache = empty(model, kind);
        cache.append(&k, &v).expect("there is room");
        let kept = |i: usize| cache.key(i / model.head_dim, PROMPT - 1, i % model.head_dim);
        let row: Vec<f32> = (0..model.kv_width()).map(kept).collect();
        // The coarsest type has steps of 1/254, half of which it may be off.
        close(&row, &k[k.len() - row.len()..], 0.51 / 254.0);
        (cache, k, v)
    };
    let size = bytes(PROMPT * model.kv_width() * 8);
    bench.time(&format!("append {} x{PROMPT} {kind}", model.name), size, make, |_, (cache, k, v)| {
        cache.reset();
        black_box(&mut *cache).append(k, v).expect("there is room");
    });
}

/// Every eighth query of a prompt, as when a cache is thinned out. Scores only: 2 operations for
/// each number of a query and each position that it sees.
fn bench_received(bench: &mut Bench<'_>, model: &Model, kind: CacheType) {
    const STRIDE: usize = 8;
    let params = params(model);
    let width = params.heads * params.head_dim;
    let count = PROMPT / STRIDE;
    let positions = (STRIDE - 1, STRIDE);
    let seen: usize = (1..=count).map(|i| i * STRIDE).sum();
    let make = |cpu: &Cpu| {
        let (cache, q) = (filled(model, kind, PROMPT), noise(count * width, 3));
        let (mut out, mut expected) = (vec![0.0; PROMPT], vec![0.0; PROMPT]);
        received(cpu, &q, positions, &cache, &params, &mut out);
        scalar::received(&q, positions, &cache, &params, &mut expected);
        // Keys are used as they are kept. Each of `count * heads` weights loses a few units of 2^-24,
        // and the first position receives the most, the sum of 1 / t: below 1 a head.
        close(&out, &expected, 1e-5 * params.heads as f32);
        (cache, q, out)
    };
    let name = format!("received {} x{count} {kind}", model.name);
    bench.time(&name, elements(2 * width * seen), make, |cpu, (cache, q, out)| {
        received(cpu, q, positions, cache, &params, black_box(out));
    });
}

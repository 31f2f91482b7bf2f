//! Speed of attention at the shapes of real models, for each type of cache: the best of
//! a few runs, on one thread and on all. Every answer is checked against the reference
//! before it is timed. Run with `cargo bench -p tamis-kernels --bench attention`; give
//! names of shapes or types to take only these.

mod timing;

use std::hint::black_box;

use tamis_kernels::attention::{AttentionParams, CacheType, KvLayer, attend, scalar};
use tamis_kernels::{Cpu, Isa, default_threads};
use timing::{best, close, noise, report};

/// Name, query heads, heads of keys and values, width of a head.
const SHAPES: [(&str, usize, usize, usize); 3] =
    [("SmolLM2", 9, 3, 64), ("1B", 32, 8, 64), ("8B", 32, 8, 128)];

fn main() {
    let isa = Isa::from_env().expect("an instruction set of this CPU");
    println!("{}, bf16 {}", isa.name(), if isa.has_bf16() { "in hardware" } else { "by widening" });
    let asked: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let names: Vec<String> = SHAPES.iter().map(|shape| shape.0.into()).collect();
    let wanted = |name: &str, all: &[String]| {
        asked.iter().any(|a| a == name) || !asked.iter().any(|a| all.contains(a))
    };
    let types = CacheType::ALL.map(|kind| kind.to_string());
    for (name, heads, kv_heads, head_dim) in SHAPES {
        let scale = 1.0 / (head_dim as f32).sqrt();
        let params = AttentionParams { heads, kv_heads, head_dim, scale, softcap: None, window: None };
        for kind in CacheType::ALL {
            if wanted(name, &names) && wanted(&kind.to_string(), &types) {
                for threads in [1, default_threads()] {
                    bench(&Cpu::new(isa, threads), name, &params, kind);
                }
            }
        }
    }
}

fn filled(params: &AttentionParams, kind: CacheType, len: usize) -> KvLayer {
    let mut cache = KvLayer::new(params.kv_heads, params.head_dim, len, kind);
    let rows = noise(len * params.kv_heads * params.head_dim);
    cache.append(&rows, &rows).expect("there is room");
    cache
}

fn bench(cpu: &Cpu, name: &str, params: &AttentionParams, kind: CacheType) {
    let width = params.heads * params.head_dim;
    let name = format!("{name} {kind}, {} thread(s)", cpu.pool.threads());
    for len in [512, 4096] {
        let (cache, q) = (filled(params, kind, len), noise(len * width));
        let mut out = vec![0.0; q.len()];
        attend(cpu, &q, 0, &cache, params, &mut out);
        check(&q, &out, &cache, params);
        let time = best(cpu.pool.threads(), || attend(cpu, &q, 0, &cache, params, black_box(&mut out)));
        // Scores and values: 4 operations for each number of a row and each visible pair.
        let flops = 4.0 * (width * len * (len + 1) / 2) as f64;
        report(&format!("{name}: prefill {len}"), flops, "GFLOP/s", time);
    }
    bench_step(cpu, &name, params, kind);
}

/// The last rows against the reference: queries and weights may be rounded to bf16.
fn check(q: &[f32], out: &[f32], cache: &KvLayer, params: &AttentionParams) {
    let rows = 2 * params.heads * params.head_dim;
    let start = cache.len() - 2;
    let mut expected = vec![0.0; rows];
    scalar::attend(&q[q.len() - rows..], start, cache, params, &mut expected);
    let last = &out[out.len() - rows..];
    close(last, &expected, 1e-3);
}

/// One token at depth 4096 in so many layers that their caches come from memory.
fn bench_step(cpu: &Cpu, name: &str, params: &AttentionParams, kind: CacheType) {
    let (len, width) = (4096, params.heads * params.head_dim);
    let layer = filled(params, kind, len);
    let layers: Vec<_> = (0..(128 << 20) / layer.bytes()).map(|_| layer.clone()).collect();
    let (q, mut out) = (noise(2 * width), vec![0.0; 2 * width]);
    attend(cpu, &q, len - 2, &layer, params, &mut out);
    check(&q, &out, &layer, params);
    let (q, out) = (&q[..width], &mut out[..width]);
    let time = best(cpu.pool.threads(), || {
        for layer in &layers {
            attend(cpu, q, len - 1, layer, params, black_box(&mut *out));
        }
    });
    let bytes = (layers.len() * layer.bytes()) as f64;
    let each = time / layers.len() as u32;
    report(&format!("{name}: step at {len}, {each:.1?} a layer"), bytes, "GB/s", time);
}

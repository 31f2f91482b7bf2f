//! The reference of attention: one query, one head at a time, in f64.

use super::{AttentionParams, KvLayer};

/// See `attend`; row 0 of `q` stands at position `start`.
pub fn attend(q: &[f32], start: usize, cache: &KvLayer, params: &AttentionParams, out: &mut [f32]) {
    let dim = params.head_dim;
    for (row, (q, out)) in q.chunks_exact(dim).zip(out.chunks_exact_mut(dim)).enumerate() {
        let head = row % params.heads;
        let (first, weights) = weights(q, head, start + row / params.heads, cache, params);
        let kv = head * params.kv_heads / params.heads;
        for (d, out) in out.iter_mut().enumerate() {
            let value = |t: usize| f64::from(cache.value(kv, first + t, d));
            *out = weights.iter().enumerate().map(|(t, w)| w * value(t)).sum::<f64>() as f32;
        }
    }
}

/// See `received`; queries stand at `start, start + step, ...`.
pub fn received(
    q: &[f32],
    (start, step): (usize, usize),
    cache: &KvLayer,
    params: &AttentionParams,
    out: &mut [f32],
) {
    let mut sums = vec![0.0; out.len()];
    for (row, q) in q.chunks_exact(params.head_dim).enumerate() {
        let position = start + row / params.heads * step;
        let (first, weights) = weights(q, row % params.heads, position, cache, params);
        sums[first..].iter_mut().zip(weights).for_each(|(sum, weight)| *sum += weight);
    }
    out.iter_mut().zip(sums).for_each(|(out, sum): (_, f64)| *out = sum as f32);
}

/// The first position that a query of `head` at `position` sees, and the softmax from there on.
pub fn weights(
    q: &[f32],
    head: usize,
    position: usize,
    cache: &KvLayer,
    params: &AttentionParams,
) -> (usize, Vec<f64>) {
    let kv = head * params.kv_heads / params.heads;
    let first = params.window.map_or(0, |window| (position + 1).saturating_sub(window));
    let score = |t: usize| {
        let key = |d: usize| f64::from(cache.key(kv, t, d));
        let dot: f64 = q.iter().enumerate().map(|(d, q)| f64::from(*q) * key(d)).sum();
        let score = dot * f64::from(params.scale);
        params.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
    };
    let scores: Vec<f64> = (first..=position).map(score).collect();
    let max = scores.iter().fold(f64::NEG_INFINITY, |m, &s| m.max(s));
    let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let total: f64 = weights.iter().sum();
    (first, weights.into_iter().map(|w| w / total).collect())
}

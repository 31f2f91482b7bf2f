//! The reference of attention: one query, one head at a time, in f64.

use super::{AttentionParams, KvLayer};

/// See `attend`; row 0 of `q` stands at position `start`.
pub fn attend(q: &[f32], start: usize, cache: &KvLayer, params: &AttentionParams, out: &mut [f32]) {
    let dim = params.head_dim;
    let group = params.heads / params.kv_heads;
    for (row, (q, out)) in q.chunks_exact(dim).zip(out.chunks_exact_mut(dim)).enumerate() {
        let (position, head) = (start + row / params.heads, row % params.heads / group);
        let first = params.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let score = |t: usize| {
            let dot: f64 = (0..dim).map(|d| f64::from(q[d]) * f64::from(cache.key(head, t, d))).sum();
            let score = dot * f64::from(params.scale);
            params.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
        };
        let scores: Vec<f64> = (first..=position).map(score).collect();
        let max = scores.iter().fold(f64::NEG_INFINITY, |m, &s| m.max(s));
        let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let total: f64 = weights.iter().sum();
        for (d, out) in out.iter_mut().enumerate() {
            let value = |t: usize| f64::from(cache.value(head, first + t, d));
            let sum: f64 = weights.iter().enumerate().map(|(t, w)| w * value(t)).sum();
            *out = (sum / total) as f32;
        }
    }
}

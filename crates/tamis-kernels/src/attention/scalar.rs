//! The references of attention and of its gradient: one query, one head at a time, in f64.

use super::{AttentionParams, KvLayer, Sequence};

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

/// `dq`, `dk` and `dv` of a whole sequence; see `attend_gradient`.
pub fn attend_gradient(input: Sequence<'_>, params: &AttentionParams, dout: &[f32]) -> [Vec<f64>; 3] {
    let dim = params.head_dim;
    let mut all = [input.q, input.k, input.v].map(|x| vec![0.0; x.len()]);
    let [dq, dk, dv] = &mut all;
    for row in 0..input.q.len() / dim {
        let (position, head) = (row / params.heads, row % params.heads);
        let first = params.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let kv = head * params.kv_heads / params.heads;
        let of = |t: usize| (t * params.kv_heads + kv) * dim;
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a[..dim].iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        // Scores, and their slopes by the product of query and key.
        let scored = |t: usize| {
            let (s, scale) = (dot(&input.q[row * dim..], &input.k[of(t)..]), f64::from(params.scale));
            let tanh = |cap: f32| (s * scale / f64::from(cap)).tanh();
            params.softcap.map_or((s * scale, scale), |cap| {
                (f64::from(cap) * tanh(cap), scale * (1.0 - tanh(cap).powi(2)))
            })
        };
        let scores: Vec<(f64, f64)> = (first..=position).map(scored).collect();
        let max = scores.iter().fold(f64::NEG_INFINITY, |m, s| m.max(s.0));
        let total: f64 = scores.iter().map(|s| (s.0 - max).exp()).sum();
        let p: Vec<f64> = scores.iter().map(|s| (s.0 - max).exp() / total).collect();
        let dp: Vec<f64> = (first..=position).map(|t| dot(&dout[row * dim..], &input.v[of(t)..])).collect();
        let mean: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
        for (i, t) in (first..=position).enumerate() {
            let ds = p[i] * (dp[i] - mean) * scores[i].1;
            for d in 0..dim {
                dq[row * dim + d] += ds * f64::from(input.k[of(t) + d]);
                dk[of(t) + d] += ds * f64::from(input.q[row * dim + d]);
                dv[of(t) + d] += p[i] * f64::from(dout[row * dim + d]);
            }
        }
    }
    all
}

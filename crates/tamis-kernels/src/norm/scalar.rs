//! The references of the norms: plain loops, sums in f64.

/// `out = x / sqrt(mean(x^2) + eps) * weight`, row by row.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let n = weight.len();
    for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
        let square = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n as f64;
        let scale = 1.0 / (square + f64::from(eps)).sqrt();
        for i in 0..n {
            out[i] = (f64::from(x[i]) * scale * f64::from(weight[i])) as f32;
        }
    }
}

/// `out = (x - mean) / sqrt(var + eps) * weight + bias`, row by row.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let n = weight.len();
    for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
        let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / n as f64;
        let var = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n as f64;
        let scale = 1.0 / (var + f64::from(eps)).sqrt();
        for i in 0..n {
            out[i] = ((f64::from(x[i]) - mean) * scale * f64::from(weight[i]) + f64::from(bias[i])) as f32;
        }
    }
}

//! The references of the norms and of their gradients: plain loops, sums in f64.

use super::NormInput;

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

/// `dx [m, n]` and `dweight [n]` of RMS norm.
pub fn rms_norm_gradient(input: NormInput<'_>, dy: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let n = input.weight.len();
    let (mut dx, mut dweight) = (vec![], vec![0.0; n]);
    for (x, dy) in input.x.chunks_exact(n).zip(dy.chunks_exact(n)) {
        let square = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n as f64;
        let scale = 1.0 / (square + f64::from(input.eps)).sqrt();
        let h: Vec<f64> = x.iter().map(|&v| f64::from(v) * scale).collect();
        let g = |i: usize| f64::from(dy[i]) * f64::from(input.weight[i]);
        let gh_mean = (0..n).map(|i| g(i) * h[i]).sum::<f64>() / n as f64;
        dx.extend((0..n).map(|i| scale * (g(i) - h[i] * gh_mean)));
        (0..n).for_each(|i| dweight[i] += f64::from(dy[i]) * h[i]);
    }
    (dx, dweight)
}

/// `dx [m, n]`, `dweight` and `dbias [n]` of layer norm.
pub fn layer_norm_gradient(input: NormInput<'_>, dy: &[f32]) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let n = input.weight.len();
    let (mut dx, mut dweight, mut dbias) = (vec![], vec![0.0; n], vec![0.0; n]);
    for (x, dy) in input.x.chunks_exact(n).zip(dy.chunks_exact(n)) {
        let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / n as f64;
        let var = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n as f64;
        let scale = 1.0 / (var + f64::from(input.eps)).sqrt();
        let h: Vec<f64> = x.iter().map(|&v| (f64::from(v) - mean) * scale).collect();
        let g = |i: usize| f64::from(dy[i]) * f64::from(input.weight[i]);
        let g_mean = (0..n).map(g).sum::<f64>() / n as f64;
        let gh_mean = (0..n).map(|i| g(i) * h[i]).sum::<f64>() / n as f64;
        dx.extend((0..n).map(|i| scale * (g(i) - g_mean - h[i] * gh_mean)));
        (0..n).for_each(|i| dweight[i] += f64::from(dy[i]) * h[i]);
        (0..n).for_each(|i| dbias[i] += f64::from(dy[i]));
    }
    (dx, dweight, dbias)
}

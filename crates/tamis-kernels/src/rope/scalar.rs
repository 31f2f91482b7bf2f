//! The references of the rotation and of its gradient: one pair at a time.

/// Rotates each pair `(x[i], x[i + half])`; see the module above.
pub fn rope(x: &mut [f32], heads: usize, head_dim: usize, cos: &[f32], sin: &[f32]) {
    let m = x.len() / (heads * head_dim);
    let half = cos.len() / m.max(1);
    for (row, x) in x.chunks_exact_mut(heads * head_dim).enumerate() {
        for head in x.chunks_exact_mut(head_dim) {
            for i in 0..half {
                let (c, s) = (cos[row * half + i], sin[row * half + i]);
                let (a, b) = (head[i], head[i + half]);
                head[i] = a * c - b * s;
                head[i + half] = b * c + a * s;
            }
        }
    }
}

/// The gradient of each pair: the rotation back.
pub fn rope_gradient(dy: &mut [f32], heads: usize, head_dim: usize, cos: &[f32], sin: &[f32]) {
    let back: Vec<f32> = sin.iter().map(|s| -s).collect();
    rope(dy, heads, head_dim, cos, &back);
}

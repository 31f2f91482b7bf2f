//! Agreement with GPTQ as a plain numpy script does it (`scripts/golden/gptq_golden.py`,
//! arXiv 2210.17323).

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Golden {
    rows: usize,
    cols: usize,
    tokens: u64,
    bits: u32,
    group: usize,
    damping: f64,
    weights: Vec<f32>,
    gram_lower: Vec<f64>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    symmetric: bool,
    act_order: bool,
    codes: Vec<u8>,
    scales: Vec<f32>,
    error: f64,
}

#[test]
fn codes_scales_and_error_agree_with_numpy() {
    let golden: Golden =
        serde_json::from_str(include_str!("../../../tests/golden/compress/gptq.json")).unwrap();
    let Golden { rows, cols, .. } = golden;
    let mut sum = vec![0.0; cols * cols];
    let mut lower = golden.gram_lower.iter();
    for i in 0..cols {
        (0..=i).for_each(|j| sum[i * cols + j] = *lower.next().unwrap());
    }
    let gram = Gram::new(cols, golden.tokens, sum).unwrap();
    let layer = Layer { data: golden.weights, rows, cols, gram };
    for case in golden.cases {
        let plan = TensorPlan {
            symmetry: if case.symmetric { Symmetry::Symmetric } else { Symmetry::Asymmetric },
            order: if case.act_order { ActivationOrder::Static } else { ActivationOrder::None },
            clip: ClipSearch::Off,
            damping: damping(golden.damping),
            ..plan(golden.bits, GroupSize::Of(golden.group))
        };
        let done = layer.compress(&plan);
        let (base, receipt) = (done.base().unwrap(), &done.receipt);
        let different = (0..rows * cols).filter(|n| base.code(n / cols, n % cols) != case.codes[*n]).count();
        let scales = base.scales().iter().zip(&case.scales).filter(|(a, b)| a.to_f32() != **b).count();
        let (symmetric, act_order, error) = (case.symmetric, case.act_order, receipt.error.unwrap());
        println!("symmetric {symmetric} act-order {act_order}: {different} codes, {scales} scales differ");
        assert!(different as f64 <= tolerance::CODES_DIFFERENT * (rows * cols) as f64);
        // A scale on the edge between two f16 may fall to either.
        assert!(scales <= 1, "{scales} scales differ");
        assert!((error - case.error).abs() < tolerance::ERROR_OF_TIES * case.error, "{error} {}", case.error);
    }
}

//! What must hold between methods on synthetic layers; relations, not numbers.
//! After the comparison of streams in arXiv 2306.03078.

use super::*;

fn error(layer: &Layer, plan: &TensorPlan) -> f64 {
    layer.compress(plan).receipt.error.unwrap()
}

/// Every layer of the relations below: 96 x 192, correlated inputs, outlier weights.
fn layers() -> impl Iterator<Item = Layer> {
    (0..3).map(|seed| Layer::new(96, 192, 10 + seed))
}

#[test]
fn gptq_beats_rounding_and_more_bits_beat_fewer() {
    for layer in layers() {
        for group in [GroupSize::Row, GroupSize::Of(32)] {
            for symmetry in [Symmetry::Symmetric, Symmetry::Asymmetric] {
                let mut last = f64::INFINITY;
                for bits in [2, 3, 4, 8] {
                    let gptq = TensorPlan { symmetry, ..plan(bits, group) };
                    let rtn = TensorPlan { method: Method::Rtn, ..gptq.clone() };
                    let (gptq, rtn) = (error(&layer, &gptq), error(&layer, &rtn));
                    assert!(gptq < rtn && gptq < last, "{bits} bits: {gptq} {rtn} {last}");
                    last = gptq;
                }
            }
        }
    }
}

#[test]
fn clip_search_helps_at_few_bits() {
    for layer in layers() {
        for bits in [2, 3] {
            let search = plan(bits, GroupSize::Of(32));
            let off = TensorPlan { clip: ClipSearch::Off, ..search.clone() };
            assert!(error(&layer, &search) < error(&layer, &off));
        }
    }
}

#[test]
fn pursuit_beats_top_residuals_and_every_stream_beats_none() {
    for layer in layers() {
        for (bits, group, share) in
            [(4, GroupSize::Row, 0.01), (3, GroupSize::Of(32), 0.005), (2, GroupSize::Of(32), 0.05)]
        {
            let with = |ortho| {
                let done =
                    layer.compress(&TensorPlan { ortho, density: density(share), ..plan(bits, group) });
                let budget = density(share).entries(96 * 192);
                let entries = done.ortho().map_or(0, SparseRows::entries);
                assert!(entries <= budget, "{ortho:?} {entries} > {budget}");
                assert!(ortho == OrthoMode::None || entries == budget, "{ortho:?} {entries} {budget}");
                done.receipt.error.unwrap()
            };
            let (none, top) = (with(OrthoMode::None), with(OrthoMode::TopResidual));
            let (quality, joint) = (with(OrthoMode::Quality), with(OrthoMode::Joint));
            println!("{bits} bits {group:?} {share}: {none:.5} {top:.5} {quality:.5} {joint:.5}");
            // The control may even be worse than no stream: GPTQ's later columns have
            // already made up for the errors that it takes away.
            assert!(quality < top && quality < none && joint < none, "{none} {top} {quality} {joint}");
        }
    }
}

#[test]
fn quality_leaves_the_base_alone_and_joint_does_not() {
    for layer in layers() {
        let plain = plan(3, GroupSize::Row);
        let stream = |ortho| layer.compress(&TensorPlan { ortho, density: density(0.01), ..plain.clone() });
        let (base, quality, joint) =
            (layer.compress(&plain), stream(OrthoMode::Quality), stream(OrthoMode::Joint));
        assert_eq!(base.base(), quality.base());
        assert_eq!(base.receipt.error, quality.receipt.base_error);
        assert!(joint.receipt.base_error > base.receipt.error);
    }
}

#[test]
fn receipt_counts_every_bit() {
    let layer = Layer::new(64, 128, 20);
    let plan = TensorPlan { ortho: OrthoMode::Quality, density: density(0.01), ..plan(4, GroupSize::Of(32)) };
    let receipt = layer.compress(&plan).receipt;
    let entries = density(0.01).entries(64 * 128) as f64;
    let starts = 32.0 * 65.0;
    assert_eq!(receipt.bits_per_weight, 4.0 + 0.5 + (32.0 * entries + starts) / (64.0 * 128.0));
    assert_eq!((receipt.tokens, receipt.tries, receipt.damping), (512, 1, Some(0.01)));
    assert_eq!(receipt.fallback, Fallback::None);
    let text = serde_json::to_string(&receipt).unwrap();
    assert_eq!(serde_json::from_str::<Receipt>(&text).unwrap(), receipt);
}

#[test]
fn singular_gram_is_a_counted_fallback_or_an_error() {
    let mut layer = Layer::new(16, 32, 21);
    layer.gram = Gram::new(32, 0, vec![0.0; 32 * 32]).unwrap();
    let lenient = plan(4, GroupSize::Of(32));
    let Receipt { fallback, damping, .. } = layer.compress(&lenient).receipt;
    assert!(matches!(fallback, Fallback::Rtn(reason) if reason.contains("never reached")));
    assert_eq!(damping, None);
    let strict = TensorPlan { on_singular: OnSingular::Fail, ..lenient };
    let evidence = Evidence::prepare(&layer.gram, strict.damping, strict.order);
    assert!(compress_tensor(&layer.weights(), Some(&evidence), &strict, Threads::ONE).is_err());
}

#[test]
fn impossible_requests_are_refused() {
    let layer = Layer::new(16, 32, 22);
    let plan = plan(4, GroupSize::Of(32));
    let refused = |w: &Weights<'_>, evidence: Option<&Evidence>| {
        compress_tensor(w, evidence, &plan, Threads::ONE).unwrap_err().kind()
    };
    let evidence = Evidence::prepare(&layer.gram, plan.damping, plan.order);
    assert_eq!(refused(&layer.weights(), None), Kind::Usage);
    let other = Evidence::prepare(&layer.gram, damping(0.02), plan.order);
    assert_eq!(refused(&layer.weights(), Some(&other)), Kind::Usage);
    assert_eq!(refused(&Weights { rows: 15, ..layer.weights() }, Some(&evidence)), Kind::BadData);
    let narrow = Weights { rows: 32, cols: 16, ..layer.weights() };
    assert_eq!(refused(&narrow, Some(&evidence)), Kind::BadData);
    let mut data = layer.data.clone();
    data[7] = f32::NAN;
    assert_eq!(refused(&Weights { data: &data, ..layer.weights() }, Some(&evidence)), Kind::NonFinite);
}

#[test]
fn rounding_needs_no_evidence() {
    let layer = Layer::new(16, 32, 23);
    let plan = TensorPlan { method: Method::Rtn, ..plan(8, GroupSize::Of(32)) };
    let done = compress_tensor(&layer.weights(), None, &plan, Threads::ONE).unwrap();
    assert_eq!((done.receipt.error, done.receipt.fallback), (None, Fallback::None));
    assert!(layer.data.iter().zip(done.weight.to_f32(Alpha::ONE)).all(|(a, b)| (a - b).abs() < 0.01));
}

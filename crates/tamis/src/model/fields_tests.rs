//! Configurations that lie.

use serde_json::json;

use super::*;

#[test]
fn sizes_are_bounded_and_typed() {
    for bad in [json!(0), json!(-1), json!(1.5), json!("8"), json!(u64::MAX), json!(1u64 << 60), json!([8])] {
        let object = json!({ "n": bad });
        assert_eq!(HfFields::new(&object).size("n").unwrap_err().exit_code(), 65, "{bad}");
    }
    let object = json!({"n": 8, "null": null});
    let fields = HfFields::new(&object);
    assert_eq!((fields.size("n").unwrap(), fields.size_or("null", 3).unwrap()), (8, 3));
    assert!(fields.size("absent").unwrap_err().to_string().contains("absent"));
    assert!(HfFields::new(&json!({"n": 4097})).layers("n").is_err());
}

#[test]
fn rope_is_found_in_both_places() {
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192
    });
    let mut inside = llama3.clone();
    inside["rope_theta"] = json!(5e5);
    let old = json!({"rope_theta": 5e5, "rope_scaling": llama3});
    let new = json!({ "rope_parameters": inside });
    let rope = HfFields::new(&old).rope(1e4).unwrap();
    assert_eq!(rope, HfFields::new(&new).rope(1e4).unwrap());
    assert_eq!(rope.theta, 5e5);
    assert!(matches!(rope.scaling, RopeScaling::Llama3 { factor: 8.0, .. }));
    let plain = json!({"rope_parameters": {"rope_theta": 1e5, "rope_type": "default"}});
    assert_eq!(HfFields::new(&plain).rope(1e4).unwrap(), Rope { theta: 1e5, scaling: RopeScaling::Default });
    assert_eq!(HfFields::new(&json!({})).rope(1e4).unwrap().theta, 1e4);
    let linear = json!({"rope_scaling": {"type": "linear", "factor": 2.0}});
    assert_eq!(HfFields::new(&linear).rope(1e4).unwrap().scaling, RopeScaling::Linear { factor: 2.0 });
}

#[test]
fn impossible_ropes_are_refused() {
    for scaling in [
        json!({"rope_type": "yarn", "factor": 4.0}),
        json!({"rope_type": "linear"}),
        json!({"rope_type": "linear", "factor": 0.0}),
        json!({"rope_type": "linear", "factor": -1.0}),
        json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192}),
        json!({"rope_type": 3}),
    ] {
        let object = json!({ "rope_scaling": scaling });
        assert_eq!(HfFields::new(&object).rope(1e4).unwrap_err().exit_code(), 65, "{object}");
    }
    assert!(HfFields::new(&json!({"rope_theta": 0})).rope(1e4).is_err());
}

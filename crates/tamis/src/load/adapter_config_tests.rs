//! Settings of adapters: which linears, of what rank, times what, and what is refused.

use super::*;

const NAMES: [&str; 6] = [
    "model.layers.0.self_attn.q_proj",
    "model.layers.0.mlp.up_proj",
    "model.layers.1.self_attn.q_proj",
    "model.layers.1.mlp.up_proj",
    "model.layers.10.self_attn.q_proj",
    "model.layers.10.mlp.up_proj",
];

fn parse(settings: &str) -> Result<AdapterConfig> {
    let text = format!(r#"{{"peft_type": "LORA", "r": 4, "lora_alpha": 8, {settings}}}"#);
    AdapterConfig::parse(text.as_bytes())
}

/// Ranks and factors by the index of the name.
fn targets(settings: &str) -> Vec<(usize, usize, f32)> {
    let config = parse(settings).unwrap();
    let found = config.targets(NAMES.into_iter()).unwrap();
    let at = |(i, name): (usize, &&str)| found.get(*name).map(|t| (i, t.rank, t.scale));
    NAMES.iter().enumerate().filter_map(at).collect()
}

fn chosen(settings: &str) -> Vec<usize> {
    targets(settings).into_iter().map(|(index, ..)| index).collect()
}

#[test]
fn lists_patterns_and_all_linear_choose_layers_as_peft_does() {
    assert_eq!(chosen(r#""target_modules": ["q_proj"]"#), [0, 2, 4]);
    assert_eq!(chosen(r#""target_modules": ["proj", "mlp.up_proj"]"#), [1, 3, 5]);
    assert_eq!(chosen(r#""target_modules": ["model.layers.1.mlp.up_proj"]"#), [3]);
    assert_eq!(chosen(r#""target_modules": "all-linear""#), [0, 1, 2, 3, 4, 5]);
    assert_eq!(chosen(r#""target_modules": ".*\\.1\\..*""#), [2, 3]);
    assert!(chosen(r#""target_modules": "up_proj""#).is_empty(), "a pattern matches whole names");
    assert_eq!(chosen(r#""target_modules": ["q_proj"], "exclude_modules": ["1.self_attn.q_proj"]"#), [0, 4]);
    assert_eq!(chosen(r#""target_modules": ["q_proj"], "layers_to_transform": 1"#), [2]);
    assert_eq!(chosen(r#""target_modules": ["q_proj"], "layers_to_transform": [0, 10]"#), [0, 4]);
}

#[test]
fn the_first_pattern_that_matches_the_end_of_a_name_counts() {
    let settings = r#""target_modules": "all-linear", "rank_pattern": {"1\\.mlp.up_proj": 2, "up_proj": 16},
        "alpha_pattern": {"q_proj": 2, "10.mlp.*": 1}"#;
    let expected = [(0, 4, 0.5), (1, 16, 0.5), (2, 4, 0.5), (3, 2, 4.0), (4, 4, 0.5), (5, 16, 1.0 / 16.0)];
    assert_eq!(targets(settings), expected);
    let stabilised = targets(&format!("{settings}, \"use_rslora\": true"));
    let scales: Vec<f32> = stabilised.into_iter().map(|(.., scale)| scale).collect();
    assert_eq!(scales, [1.0, 2.0, 1.0, 8.0 / 2f32.sqrt(), 1.0, 0.25]);
}

#[test]
fn what_is_not_plain_lora_is_refused_by_name() {
    let refused = [
        (r#""use_dora": true"#, "use_dora"),
        (r#""fan_in_fan_out": true"#, "fan_in_fan_out"),
        (r#""modules_to_save": ["lm_head"]"#, "modules_to_save"),
        (r#""bias": "all""#, "bias"),
        (r#""lora_bias": true"#, "lora_bias"),
        (r#""layers_pattern": "h""#, "layers_pattern"),
        (r#""init_lora_weights": "pissa""#, "pissa"),
        (r#""layer_replication": [[0, 2]]"#, "layer_replication"),
        (r#""something_new": {"a": 1}"#, "something_new"),
        (r#""rank_pattern": {"q_proj": 0}"#, "rank_pattern"),
        (r#""alpha_pattern": [1]"#, "alpha_pattern"),
        (r#""use_rslora": "yes""#, "use_rslora"),
        (r#""layers_to_transform": "all""#, "layers_to_transform"),
    ];
    for (settings, named) in refused {
        let error = parse(&format!(r#"{settings}, "target_modules": ["q_proj"]"#)).unwrap_err().to_string();
        assert!(error.contains(named) && error.contains("next:"), "{error}");
    }
    let quiet = r#""target_modules": ["q_proj"], "use_dora": false, "bias": "none", "modules_to_save": null,
        "kasa_config": null, "something_new": {}, "init_lora_weights": "gaussian", "lora_dropout": 0.1"#;
    parse(quiet).unwrap();
    parse("\"bias\": \"none\"").unwrap_err();
    for text in ["", "[]", "{}", r#"{"peft_type": "IA3"}"#, r#"{"peft_type": "LORA", "r": -1}"#] {
        assert!(AdapterConfig::parse(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn hostile_patterns_are_refused_or_harmless() {
    for pattern in ["(", ")|(", "a)|(b", "(?=a)", "(a{1000}){1000}{1000}", "[z-a]"] {
        let config = parse(&format!(r#""target_modules": "{pattern}""#)).unwrap();
        assert!(config.targets(NAMES.into_iter()).is_err(), "{pattern}");
        let config = parse(&format!(r#""target_modules": "all-linear", "rank_pattern": {{"{pattern}": 1}}"#));
        assert!(config.unwrap().targets(NAMES.into_iter()).is_err(), "{pattern}");
    }
    assert!(chosen(r#""target_modules": "(a*)*b""#).is_empty());
}

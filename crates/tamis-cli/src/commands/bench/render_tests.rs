//! The four forms of the same rows.

use super::*;

fn row() -> Row {
    Row {
        test: "tg128".into(),
        depth: 64,
        alpha: None,
        threads: 2,
        isa: "avx512",
        precision: "f32".to_owned(),
        cache: "bf16".to_owned(),
        mean_tokens_per_second: 41.254,
        sd: 0.5,
        min: 40.0,
        max: 42.0,
        median: 41.0,
        time_to_first_token_seconds: None,
        bytes_per_token: 99.55e6,
        gb_per_second: 4.107,
        flops_per_token: 271e6,
        tflops_per_second: 0.011_18,
        roofline_fraction: 0.104_4,
        read_bandwidth_gb_per_second: Some(39.3),
        read_bandwidth_bytes: Some(99_550_000),
        peak_tflops_per_second: None,
        peak_unit: None,
        peak_memory_bytes: Some(152 << 20),
        load_seconds: 0.19,
        model: "models/my, own.gguf".into(),
        file_bytes: 94 << 20,
        weight_bytes: 92 << 20,
        context: 100,
        beyond_context: false,
        n_prompt: 0,
        n_gen: 128,
        batch: 512,
        warmup: true,
        samples: vec![40.0, 42.0],
        seconds: vec![3.2, 3.05],
        version: "0.1.0",
    }
}

fn limit() -> LimitRow {
    LimitRow {
        limit: "read",
        threads: 1,
        isa: "avx512",
        buffer_bytes: Some(32 << 20),
        gb_per_second: Some(31.25),
        gop_per_second: None,
    }
}

#[test]
fn markdown_is_a_table_with_its_circumstances() {
    let prompt = Row {
        test: "pp512".into(),
        alpha: Some(0.5),
        time_to_first_token_seconds: Some(0.7235),
        read_bandwidth_gb_per_second: None,
        peak_tflops_per_second: Some(0.266),
        beyond_context: true,
        ..row()
    };
    let expected = "\
my, own.gguf: file 94.0 MiB, weights 92.0 MiB, loaded in 0.19 s
avx512, f32, batches of 512, 2 repetitions after a warm-up, tamis 0.1.0

| test    | depth | alpha | threads |     tokens/s | first token | MB/token | GB/s | GFLOP/s |              roofline | peak memory |
| ------- | ----: | ----: | ------: | -----------: | ----------: | -------: | ---: | ------: | --------------------: | ----------: |
| tg128   |    64 |     - |       2 | 41.25 ± 0.50 |           - |   99.550 | 4.11 |    11.2 |   10.4 % of 39.3 GB/s |   152.0 MiB |
| pp512 * |    64 |   0.5 |       2 | 41.25 ± 0.50 |    723.5 ms |   99.550 | 4.11 |    11.2 | 10.4 % of 266 GFLOP/s |   152.0 MiB |

* beyond the 100 tokens that the model was made for: the speed is real, the text would not be

this machine, avx512

| limit | threads |   buffer | GB/s | GOP/s |
| ----- | ------: | -------: | ---: | ----: |
| read  |       1 | 32.0 MiB | 31.2 |     - |
";
    assert_eq!(text(BenchOutput::Md, Some(&[row(), prompt]), Some(&[limit()])).unwrap(), expected);
    let plain = text(BenchOutput::Md, Some(&[row()]), None).unwrap();
    assert!(!plain.contains("alpha") && !plain.contains('*') && !plain.contains("this machine"));
}

#[test]
fn json_is_a_list_of_whole_rows_and_an_object_of_both_lists() {
    let parse = |text: String| serde_json::from_str::<Value>(&text).unwrap();
    let tests = parse(text(BenchOutput::Json, Some(&[row(), row()]), None).unwrap());
    assert_eq!(tests.as_array().unwrap().len(), 2);
    assert_eq!(tests[0], serde_json::to_value(row()).unwrap());
    assert_eq!((&tests[0]["samples"], &tests[0]["alpha"]), (&json!([40.0, 42.0]), &Value::Null));
    let limits = parse(text(BenchOutput::Json, None, Some(&[limit()])).unwrap());
    assert_eq!(limits, json!([serde_json::to_value(limit()).unwrap()]));
    let both = parse(text(BenchOutput::Json, Some(&[row(), row()]), Some(&[limit()])).unwrap());
    assert_eq!((&both["tests"], &both["roofline"]), (&tests, &limits));
    let lines = text(BenchOutput::Jsonl, Some(&[row(), row()]), Some(&[limit()])).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| parse(line.into())).collect();
    assert_eq!(lines, [tests[0].clone(), tests[1].clone(), limits[0].clone()]);
}

#[test]
fn csv_quotes_text_and_leaves_lists_out() {
    let text = text(BenchOutput::Csv, Some(&[row()]), None).unwrap();
    let (header, line) = text.split_once('\n').unwrap();
    assert!(header.starts_with("test,depth,alpha,threads,isa,") && !header.contains("samples"));
    assert!(line.starts_with("tg128,64,,2,avx512,f32,bf16,41.254,") && line.ends_with(",0.1.0\n"));
    assert!(line.contains("\"models/my, own.gguf\""));
    // the model's own comma is the only one that separates nothing
    assert_eq!(line.matches(',').count(), header.matches(',').count() + 1);
    assert_eq!(csv(&[]), "");
}

//! What a case came to, as numbers with names. The only place that divides by time.

use serde::Serialize;

use super::{Case, Limits, Rules, Sample, Summary, TestCost, Warmup};

/// What is known of a model besides its speed.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// Where it was opened.
    pub model: String,
    /// Bytes of the files that hold its tensors.
    pub file_bytes: u64,
    /// Bytes of all weights in memory.
    pub weight_bytes: u64,
    /// Longest sequence that the model was made for.
    pub context: usize,
    /// Whether alpha means something.
    pub has_ortho: bool,
    /// From the call to open it until it could run.
    pub load_seconds: f64,
}

/// One case, measured. All rates are decimal: 1 GB is 10^9 bytes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// `pp512`, `tg128`, `pp512+tg128`.
    pub test: String,
    /// Tokens in the cache before.
    pub depth: usize,
    /// Share of the ortho stream; nothing where the model has none.
    pub alpha: Option<f32>,
    /// Threads.
    pub threads: usize,
    /// Instruction set.
    pub isa: &'static str,
    /// `f32` or `bf16`.
    pub precision: String,
    /// Type of keys and values in the cache.
    pub cache: String,
    /// Mean of `samples`.
    pub mean_tokens_per_second: f64,
    /// Their standard deviation, over n - 1.
    pub sd: f64,
    /// The slowest sample.
    pub min: f64,
    /// The fastest one.
    pub max: f64,
    /// The middle one.
    pub median: f64,
    /// From the first token given to the logits after the prompt, the mean; for tests with a prompt.
    pub time_to_first_token_seconds: Option<f64>,
    /// Weights and cache that must be read, over the tokens of the test.
    pub bytes_per_token: f64,
    /// `bytes_per_token` times the mean.
    pub gb_per_second: f64,
    /// Operations that must be done, over the tokens of the test.
    pub flops_per_token: f64,
    /// `flops_per_token` times the mean, in 10^12 a second.
    pub tflops_per_second: f64,
    /// The least time that the machine needs over the time that it took: prompts are held against
    /// its peak arithmetic, single tokens against its read bandwidth.
    pub roofline_fraction: f64,
    /// Read bandwidth of the machine, on a buffer of `read_bandwidth_bytes`; for tests with single
    /// tokens.
    pub read_bandwidth_gb_per_second: Option<f64>,
    /// Size of that buffer.
    pub read_bandwidth_bytes: Option<usize>,
    /// Peak arithmetic of the machine, in 10^12 operations a second; for tests with a prompt.
    pub peak_tflops_per_second: Option<f64>,
    /// Which arithmetic.
    pub peak_unit: Option<&'static str>,
    /// Most memory that the process had held when the case ended, where the system tells.
    pub peak_memory_bytes: Option<u64>,
    /// From opening the model until it could run.
    pub load_seconds: f64,
    /// Where the model was opened.
    pub model: String,
    /// Bytes of its files.
    pub file_bytes: u64,
    /// Bytes of its weights in memory.
    pub weight_bytes: u64,
    /// Context that it was made for.
    pub context: usize,
    /// Whether the case is longer than that; its speed is real, its text would not be.
    pub beyond_context: bool,
    /// Tokens read in batches.
    pub n_prompt: usize,
    /// Tokens pushed one at a time.
    pub n_gen: usize,
    /// Most tokens in a batch.
    pub batch: usize,
    /// Whether an uncounted run came first.
    pub warmup: bool,
    /// Tokens a second of every repetition.
    pub samples: Vec<f64>,
    /// Seconds of every repetition.
    pub seconds: Vec<f64>,
    /// Version of this library.
    pub version: &'static str,
}

/// What was measured of one case.
#[derive(Debug, Clone, Copy)]
pub struct Measured<'a> {
    /// The case.
    pub case: &'a Case,
    /// Its runs, at least one.
    pub samples: &'a [Sample],
    /// What it must read and compute.
    pub cost: TestCost,
    /// What the machine can do with as many threads.
    pub limits: Limits,
    /// Most memory held so far.
    pub peak_memory: Option<u64>,
}

impl Row {
    /// Puts a row together; nothing where there are no samples.
    pub fn new(facts: &Facts, rules: &Rules, measured: Measured<'_>) -> Option<Self> {
        let Measured { case, samples, cost, limits, peak_memory } = measured;
        let Case { test, depth, .. } = *case;
        let seconds: Vec<f64> = samples.iter().map(|s| s.seconds).collect();
        let tokens = test.tokens() as f64;
        let rates: Vec<f64> = seconds.iter().map(|s| tokens / s).collect();
        let rate = Summary::of(&rates)?;
        let firsts: Vec<f64> = samples.iter().filter_map(|s| s.first_logits).collect();
        let total = cost.prompt + cost.generate;
        let (bytes, flops) = (total.bytes as f64 / tokens, total.operations as f64 / tokens);
        Some(Self {
            test: test.to_string(),
            depth,
            alpha: facts.has_ortho.then_some(case.alpha.get()),
            threads: case.threads.get(),
            isa: rules.isa.name(),
            precision: rules.precision.to_string(),
            cache: rules.cache.to_string(),
            mean_tokens_per_second: rate.mean,
            sd: rate.sd,
            min: rate.min,
            max: rate.max,
            median: rate.median,
            time_to_first_token_seconds: Summary::of(&firsts).map(|s| s.mean),
            bytes_per_token: bytes,
            gb_per_second: bytes * rate.mean / 1e9,
            flops_per_token: flops,
            tflops_per_second: flops * rate.mean / 1e12,
            roofline_fraction: least_seconds(cost, limits) * rate.mean / tokens,
            read_bandwidth_gb_per_second: limits.read.map(|read| read.rate / 1e9),
            read_bandwidth_bytes: limits.read.map(|read| read.buffer),
            peak_tflops_per_second: limits.peak.map(|peak| peak.rate / 1e12),
            peak_unit: limits.peak.map(|peak| peak.unit.name()),
            peak_memory_bytes: peak_memory,
            load_seconds: facts.load_seconds,
            model: facts.model.clone(),
            file_bytes: facts.file_bytes,
            weight_bytes: facts.weight_bytes,
            context: facts.context,
            beyond_context: depth + test.tokens() > facts.context,
            n_prompt: test.prompt(),
            n_gen: test.generate(),
            batch: rules.batch.get(),
            warmup: rules.warmup == Warmup::Once,
            samples: rates,
            seconds,
            version: env!("CARGO_PKG_VERSION"),
        })
    }
}

/// `operations / peak` for the prompt, and `bytes / bandwidth` for the single tokens.
fn least_seconds(cost: TestCost, limits: Limits) -> f64 {
    let prompt = limits.peak.map_or(0.0, |peak| cost.prompt.operations as f64 / peak.rate);
    let generate = limits.read.map_or(0.0, |read| cost.generate.bytes as f64 / read.rate);
    prompt + generate
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;

//! What the user typed, as clap parses it. Nothing below this file sees a flag:
//! each command turns its struct into checked values at once.

mod number;
mod rewrite;
mod train;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tamis::artifact::{self, Existing};
use tamis::error::Kind;
use tamis::ops::CacheType;

pub(crate) use rewrite::{Export, Merge};
pub(crate) use train::{Pretrain, Recover, RecoverMethod, ScheduleName, TrainPart};

/// Make language models small, mend them, prove what was lost, and run them.
#[derive(Debug, Parser)]
#[command(name = "tamis", version, max_term_width = 100, after_help = exit_codes())]
pub(crate) struct Tamis {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Of `tamis --help`.
fn exit_codes() -> String {
    let failures = Kind::ALL.map(|kind| format!("{:>4}  {}", kind.exit_code(), kind.meaning()));
    format!("Exit codes:\n   0  ok\n{}", failures.join("\n"))
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Quantise a model and sieve out an ortho stream, or prune it
    Compress(Compress),
    /// Train what compression has lost back, and keep every zero
    Recover(Box<Recover>),
    /// Train a small model from scratch
    Pretrain(Pretrain),
    /// Measure perplexity and divergence
    Eval(Eval),
    /// Continue a prompt
    Generate(Generate),
    /// Talk to a model
    Chat(Chat),
    /// Add an adapter to the weights of its model for good
    Merge(Merge),
    /// Write a model dense, without packing and without holes, for any program to read
    Export(Export),
    /// Measure how fast a model runs, and how far from the limits of the machine
    Bench(Bench),
    /// Show what a model is made of
    Inspect(Inspect),
    /// Check every byte of a compressed model
    Verify(Verify),
    /// List, show and check recipes
    Recipe(Recipe),
    /// Compress, measure and run a real model, in one table
    Demo(Demo),
}

impl Command {
    /// The model that it works on, as it was named.
    pub(crate) fn model(&self) -> Option<&str> {
        match self {
            Self::Compress(args) => Some(&args.model),
            Self::Recover(args) => Some(&args.model),
            Self::Eval(args) => Some(&args.model),
            Self::Generate(args) => Some(&args.model),
            Self::Chat(args) => Some(&args.model),
            Self::Export(args) => Some(&args.model),
            Self::Merge(args) => Some(&args.model),
            Self::Bench(args) => args.model.as_deref(),
            Self::Inspect(args) => Some(&args.model),
            Self::Verify(args) => Some(&args.path),
            Self::Demo(args) => args.model.as_deref(),
            Self::Pretrain(_) | Self::Recipe(_) => None,
        }
    }
}

/// Options of every long command.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Shared {
    /// Threads [default: all cores this process may use]
    #[arg(long, value_name = "N", value_parser = number::threads)]
    pub(crate) threads: Option<std::num::NonZeroUsize>,
    /// One JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
    /// No progress on standard error
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// What to do with what is found in the output folder.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Found {
    /// What to do with an unfinished run in DIR
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) resume: Resume,
    /// Replace a finished model in DIR
    #[arg(long)]
    pub(crate) overwrite: bool,
}

impl Found {
    /// As the library wants it.
    pub(crate) fn policy(self) -> (artifact::Resume, Existing) {
        let resume = match self.resume {
            Resume::Auto => artifact::Resume::Auto,
            Resume::Never => artifact::Resume::Never,
        };
        (resume, if self.overwrite { Existing::Overwrite } else { Existing::Refuse })
    }
}

/// How a model is run.
#[derive(Debug, Clone, Args)]
pub(crate) struct Running {
    /// Rounding of activations [default: f32 for eval, else int8]
    #[arg(long, value_enum)]
    pub(crate) precision: Option<PrecisionName>,
    /// Keys and values are kept as f32, bf16, f16 or int8 [default: f32 at precision f32, else bf16]
    #[arg(long, value_name = "TYPE", value_parser = clap::value_parser!(CacheType))]
    pub(crate) cache: Option<CacheType>,
}

/// What a model is run with.
#[derive(Debug, Clone, Args)]
pub(crate) struct Adapted {
    /// LoRA adapter: adapter_config.json and adapter_model.safetensors, as PEFT writes them
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrecisionName {
    /// None: f32 throughout
    F32,
    /// bf16 in matrix products
    Bf16,
    /// int8 where weights are integers, in blocks with a scale each; bf16 elsewhere
    Int8,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tamis compress model.gguf -o small --recipe int4-ortho --calibration text.jsonl
  tamis compress ./Llama-3.2-1B -o small --recipe my.toml --calibration text.txt --dry-run
  tamis compress hf://org/name -o small --recipe rtn4        (needs no calibration text)
  tamis compress model.gguf -o holes --recipe sparsegpt50 --sparsity 0.6 --calibration text.jsonl

MODEL is a Hugging Face folder, a .gguf file, or hf://org/name[@revision] in the local cache.
A run that was stopped or killed goes on where it was when the same command is given again.")]
pub(crate) struct Compress {
    /// Folder, .gguf file or hf://org/name
    pub(crate) model: String,
    /// Folder to write
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// Name of an embedded recipe (tamis recipe list) or a .toml/.yaml file
    #[arg(long, short)]
    pub(crate) recipe: String,
    /// Text to calibrate on: .txt or .jsonl, plain, .gz or .zst
    #[arg(long, value_name = "FILE")]
    pub(crate) calibration: Option<PathBuf>,
    /// Calibration windows
    #[arg(long, value_name = "N", value_parser = number::count)]
    pub(crate) samples: Option<usize>,
    /// Tokens a window
    #[arg(long, value_name = "N", value_parser = number::tokens)]
    pub(crate) length: Option<usize>,
    /// Chooses the windows
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Bits of embedding and head, 16, 8 or 4 [default: the recipe's]
    #[arg(long, value_name = "BITS", value_parser = number::end_bits)]
    pub(crate) embedding: Option<u32>,
    /// Share of the weights to leave out, where the recipe prunes [default: the recipe's]
    #[arg(long, value_name = "SHARE", value_parser = number::share)]
    pub(crate) sparsity: Option<f64>,
    /// Share of the weights to keep: the same, said the other way round
    #[arg(long, value_name = "SHARE", conflicts_with = "sparsity", value_parser = number::share)]
    pub(crate) density: Option<f64>,
    /// How zeros are spread over the layers: uniform, owl, slope or measured [default: the recipe's]
    #[arg(long, value_name = "HOW")]
    pub(crate) allocation: Option<String>,
    /// How kept weights are stored: bf16, int8 or int4 [default: the recipe's]
    #[arg(long, value_name = "TYPE")]
    pub(crate) kept: Option<String>,
    /// Linears to leave as they are, at 16 bits: model.layers.0.**, **.down_proj
    #[arg(long, value_name = "PATTERN,..", value_delimiter = ',')]
    pub(crate) skip: Vec<String>,
    #[command(flatten)]
    pub(crate) found: Found,
    /// Check everything, print the plan and the memory it will take, and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) shared: Shared,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Resume {
    /// Go on if it is the same run, refuse if it is another
    Auto,
    /// Start anew
    Never,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tamis eval small --perplexity wiki.test.raw
  tamis eval small --perplexity wiki.test.raw --windows 10 --alpha 0,0.5,1 --baseline model.gguf

Protocols:
  gptq      windows of CONTEXT tokens without overlap, as in the GPTQ and Wanda papers
  hf        sliding window with a stride, as in the transformers guide
  llamacpp  windows of CONTEXT tokens, second half scored, as llama-perplexity does
  lm-eval   whole documents, per word and per byte, as lm-eval's wikitext task does")]
pub(crate) struct Eval {
    /// Folder, .gguf file or hf://org/name
    pub(crate) model: String,
    /// Text to measure on
    #[arg(long, value_name = "FILE")]
    pub(crate) perplexity: PathBuf,
    /// How the text is cut and what is scored
    #[arg(long, value_enum, default_value = "gptq")]
    pub(crate) protocol: Protocol,
    /// Tokens a window [default: 2048, llamacpp: 512, at most the model's context]
    #[arg(long, value_name = "N", value_parser = number::tokens)]
    pub(crate) context: Option<usize>,
    /// Only the first N windows
    #[arg(long, value_name = "N", value_parser = number::count)]
    pub(crate) windows: Option<usize>,
    /// Tokens between two windows of protocol hf
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = number::tokens)]
    pub(crate) stride: usize,
    /// Shares of the ortho stream, all measured in one run
    #[arg(long, value_name = "A,A,..", value_delimiter = ',', default_value = "1", value_parser = number::part)]
    pub(crate) alpha: Vec<f32>,
    /// Also measure the divergence from this model, which is run at precision f32
    #[arg(long, value_name = "MODEL")]
    pub(crate) baseline: Option<String>,
    #[command(flatten)]
    pub(crate) adapted: Adapted,
    #[command(flatten)]
    pub(crate) running: Running,
    #[command(flatten)]
    pub(crate) shared: Shared,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    Gptq,
    Hf,
    Llamacpp,
    LmEval,
}

/// How tokens are drawn.
#[derive(Debug, Clone, Args)]
pub(crate) struct Sampling {
    /// Always the likeliest token
    #[arg(long, conflicts_with_all = ["temperature", "top_k", "top_p", "min_p"])]
    pub(crate) greedy: bool,
    /// Divides the logits
    #[arg(long, default_value_t = 0.8, value_parser = number::temperature)]
    pub(crate) temperature: f32,
    /// Keep the K likeliest tokens [default: all]
    #[arg(long, value_name = "K", value_parser = number::likeliest)]
    pub(crate) top_k: Option<usize>,
    /// Keep the likeliest tokens that together reach P
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = number::part)]
    pub(crate) top_p: f32,
    /// Drop tokens below P times the likeliest [default: off]
    #[arg(long, value_name = "P", value_parser = number::part)]
    pub(crate) min_p: Option<f32>,
    /// Penalty on tokens already seen, 1 is none
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = number::divisor)]
    pub(crate) repetition_penalty: f32,
    /// Same seed, same tokens
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Stop before this text (may be given several times)
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// Share of the ortho stream, 0 is the base alone
    #[arg(long, default_value_t = 1.0, value_parser = number::part)]
    pub(crate) alpha: f32,
    /// Most tokens to generate
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = number::tokens)]
    pub(crate) max_tokens: usize,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tamis generate small --prompt \"The capital of France is\" --max-tokens 32 --greedy
  tamis generate small --prompt \"Write a haiku.\" --chat --alpha 0.5 --seed 7
  tamis generate small --prompt \"Dear\" --adapter ./lora")]
pub(crate) struct Generate {
    /// Folder, .gguf file or hf://org/name
    pub(crate) model: String,
    /// Text to continue
    #[arg(long, short)]
    pub(crate) prompt: String,
    /// Put the prompt through the model's chat template
    #[arg(long)]
    pub(crate) chat: bool,
    #[command(flatten)]
    pub(crate) sampling: Sampling,
    #[command(flatten)]
    pub(crate) adapted: Adapted,
    #[command(flatten)]
    pub(crate) running: Running,
    #[command(flatten)]
    pub(crate) shared: Shared,
}

#[derive(Debug, Args)]
#[command(after_help = "Type /reset to forget the conversation, /exit or Ctrl-D to leave.")]
pub(crate) struct Chat {
    /// Folder, .gguf file or hf://org/name
    pub(crate) model: String,
    /// Instruction before the conversation
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    #[command(flatten)]
    pub(crate) sampling: Sampling,
    #[command(flatten)]
    pub(crate) adapted: Adapted,
    #[command(flatten)]
    pub(crate) running: Running,
    #[command(flatten)]
    pub(crate) shared: Shared,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tamis bench model.gguf
  tamis bench small -p 512,4096 -n 128 -d 0,4096 -t 1,2 -o json
  tamis bench small -p 0 -n 64 --alpha 0,1    (with and without the ortho stream)
  tamis bench --roofline -t 1,2               (the machine alone)

The tests are those of llama-bench: random tokens, an untimed run first, tokens a second as mean
and standard deviation. Lists multiply. ppN reads N tokens in batches, logits for the last one;
tgN pushes N single tokens. A test longer than the model's context is run and marked: its speed
is real. The roofline column holds single tokens against the read bandwidth of this machine, and
prompts against its peak arithmetic, both measured in the same run with as many threads.
TAMIS_ISA=scalar|avx2|avx512|amx pins the instruction set.")]
pub(crate) struct Bench {
    /// Folder, .gguf file or hf://org/name
    #[arg(required_unless_present = "roofline")]
    pub(crate) model: Option<String>,
    /// Tokens of a prompt, 0 for no such test
    #[arg(long, short, value_name = "N,N,..", value_delimiter = ',', default_value = "512", value_parser = number::positions)]
    pub(crate) prompt: Vec<usize>,
    /// Single tokens, 0 for no such test
    #[arg(long, short = 'n', value_name = "N,N,..", value_delimiter = ',', default_value = "128", value_parser = number::positions)]
    pub(crate) generate: Vec<usize>,
    /// A prompt of P tokens and N single ones after it, as one test (may be given several times)
    #[arg(long, value_name = "P,N", value_parser = number::pair)]
    pub(crate) pg: Vec<(usize, usize)>,
    /// Tokens that are in the cache before the clock starts
    #[arg(long, short, value_name = "D,D,..", value_delimiter = ',', default_value = "0", value_parser = number::positions)]
    pub(crate) depth: Vec<usize>,
    /// Numbers of threads [default: all cores this process may use]
    #[arg(long, short, value_name = "N,N,..", value_delimiter = ',', value_parser = number::threads)]
    pub(crate) threads: Vec<std::num::NonZeroUsize>,
    /// Most tokens of a prompt that are computed together
    #[arg(long, short, value_name = "N", default_value = "512", value_parser = number::chunk)]
    pub(crate) batch: std::num::NonZeroUsize,
    /// Timed runs of every test
    #[arg(long, short, value_name = "N", default_value = "5", value_parser = number::repetitions)]
    pub(crate) repetitions: std::num::NonZeroUsize,
    /// Shares of the ortho stream, for a model that has one [default: 1]
    #[arg(long, value_name = "A,A,..", value_delimiter = ',', value_parser = number::part)]
    pub(crate) alpha: Vec<f32>,
    #[command(flatten)]
    pub(crate) running: Running,
    /// Leave out the untimed run before the timed ones
    #[arg(long)]
    pub(crate) no_warmup: bool,
    /// Also print what this machine can do: read bandwidth and arithmetic
    #[arg(long)]
    pub(crate) roofline: bool,
    /// Form of the result
    #[arg(long, short, value_enum, default_value = "md")]
    pub(crate) output: BenchOutput,
    /// The same as --output json
    #[arg(long, conflicts_with = "output")]
    pub(crate) json: bool,
    /// No progress on standard error
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchOutput {
    /// A table, in Markdown
    Md,
    /// One line a test, no single samples
    Csv,
    /// One array; an object of two where --roofline is given with a model
    Json,
    /// One object a line
    Jsonl,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// Folder, .gguf file or hf://org/name
    pub(crate) model: String,
    /// One JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
    /// Every tensor, not only a summary
    #[arg(long)]
    pub(crate) tensors: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Folder written by tamis compress; or any model (as for inspect) or adapter folder, of which less can be
    /// verified
    pub(crate) path: String,
    /// One JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Recipe {
    #[command(subcommand)]
    pub(crate) action: RecipeAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RecipeAction {
    /// Embedded recipes
    List {
        /// One JSON object on standard output
        #[arg(long)]
        json: bool,
    },
    /// Text of an embedded recipe, to start your own from
    Show {
        /// Its name
        name: String,
    },
    /// Check a recipe file
    Check {
        /// .toml or .yaml
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Folder, .gguf file or hf://org/name [default: the nano model that comes with tamis, and its exam]
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// Text to calibrate on [default: a short text that comes with tamis]
    #[arg(long, value_name = "FILE", requires = "model")]
    pub(crate) calibration: Option<PathBuf>,
    /// Text to measure on [default: a short text that comes with tamis]
    #[arg(long, value_name = "FILE", requires = "model")]
    pub(crate) text: Option<PathBuf>,
    /// Keep the compressed models here [default: a temporary folder, removed at the end]
    #[arg(long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) shared: Shared,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_has_the_exit_codes() {
        let table = Kind::ALL.map(|kind| format!("| {} | {} |\n", kind.exit_code(), kind.meaning()));
        let table = format!("| code | meaning |\n|---|---|\n| 0 | ok |\n{}\n", table.concat());
        assert!(include_str!("../../../../README.md").contains(&table), "{table}");
    }
}

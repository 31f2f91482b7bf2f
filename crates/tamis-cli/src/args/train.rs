//! Flags of the commands that train: `recover` and `pretrain`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Found, Shared, number};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tamis recover holes -o mended --method masked --teacher model.gguf --data train.jsonl --valid valid.txt
  tamis recover model.gguf -o adapter --method lora --data train.jsonl --valid valid.txt --targets q_proj,v_proj
  tamis recover holes -o mended --method masklora --data train.jsonl --valid valid.txt --steps 500 --dry-run
  tamis recover dense -o tenth --method masked --teacher dense --stages 0.5,0.7,0.8,0.9 --calibration text.jsonl \
      --data train.jsonl --valid valid.txt --steps 4000

Methods:
  masked    the kept weights of pruned linears, the others whole, norms and biases; zeros stay zeros
  masklora  low-rank additions under the masks, merged at the end; zeros stay zeros
  lora      low-rank additions beside frozen weights of any kind, written as a PEFT adapter
  full      everything
  local     block by block, the kept weights learn to give the dense block's output: a first mending, before one
            of the others, with one block in memory (needs a teacher; --epochs passes over --sequences windows)

Stages: MODEL is pruned to the first share of zeros and trained, the result to the second, and so on. Every stage
takes one part of the steps and the last one two; each has its own rise and fall of the learning rate and goes on in
the text where the one before it stopped. In the report `before` is the perplexity after the last pruning.

With a teacher the loss is the divergence from what it says; without one, that of the next token. A run that
was stopped or killed goes on where it was last saved when the same command is given again.")]
pub(crate) struct Recover {
    /// Folder, .gguf file or hf://org/name
    pub(crate) model: String,
    /// Folder to write
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// What is trained
    #[arg(long, value_enum)]
    pub(crate) method: RecoverMethod,
    /// Text to train on: .txt or .jsonl, plain, .gz or .zst
    #[arg(long, value_name = "FILE")]
    pub(crate) data: PathBuf,
    /// Text to validate on, by which the best step is chosen (all methods but local)
    #[arg(long, value_name = "FILE", required_if_eq_any = TRAINING)]
    pub(crate) valid: Option<PathBuf>,
    /// A second text to measure on, by which nothing is chosen
    #[arg(long, value_name = "FILE")]
    pub(crate) also_valid: Option<PathBuf>,
    /// The dense model, to learn from and to compare with
    #[arg(long, value_name = "MODEL")]
    pub(crate) teacher: Option<String>,
    /// Keep what the teacher says in FILE, for other runs with the same teacher, text, --length, --top and
    /// --temperature; 512 bytes a token at the usual --top
    #[arg(long, value_name = "FILE", requires = "teacher")]
    pub(crate) teacher_cache: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) pruning: Stages,
    /// Steps of the optimiser, of all stages together [default: one epoch]
    #[arg(long, value_name = "N", conflicts_with_all = ["epochs", "sequences"], value_parser = number::steps)]
    pub(crate) steps: Option<usize>,
    /// Passes over the text
    #[arg(long, value_name = "N", value_parser = number::epochs)]
    pub(crate) epochs: Option<f64>,
    /// Sequences to learn from in all, as many steps as batches in them; local: sequences an epoch
    #[arg(long, value_name = "N", value_parser = number::steps)]
    pub(crate) sequences: Option<usize>,
    /// Sequences a step
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = number::batch)]
    pub(crate) batch: usize,
    /// Tokens of a sequence
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = number::tokens)]
    pub(crate) length: usize,
    /// Highest learning rate [default: 1e-4; local: 2e-3]
    #[arg(long, value_name = "RATE", value_parser = number::rate)]
    pub(crate) lr: Option<f64>,
    /// Multiply the learning rate by the root of the batch
    #[arg(long)]
    pub(crate) scale_lr: bool,
    /// How the learning rate falls
    #[arg(long, value_enum, default_value = "cosine")]
    pub(crate) schedule: ScheduleName,
    /// Steps in which it rises [default: a twentieth of all, at most 100; local: a tenth]
    #[arg(long, value_name = "N", value_parser = number::steps_or_none)]
    pub(crate) warmup: Option<usize>,
    /// Decoupled weight decay of matrices
    #[arg(long, value_name = "D", default_value_t = 0.0, value_parser = number::factor)]
    pub(crate) weight_decay: f32,
    /// Largest norm of the gradients, 0 for none
    #[arg(long, value_name = "NORM", default_value_t = 1.0, value_parser = number::factor)]
    pub(crate) clip: f32,
    /// Rank of the additions
    #[arg(long, value_name = "R", default_value_t = 8, value_parser = number::count)]
    pub(crate) rank: usize,
    /// The additions count this over the rank
    #[arg(long, value_name = "A", default_value_t = 16.0, value_parser = number::factor)]
    pub(crate) lora_alpha: f32,
    /// Over the root of the rank instead (rsLoRA)
    #[arg(long)]
    pub(crate) rslora: bool,
    /// Linears that get an addition
    #[arg(long, value_name = "NAME,..", value_delimiter = ',', default_value = "q_proj,v_proj")]
    pub(crate) targets: Vec<String>,
    /// Share of an addition's inputs that is set to zero
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = number::part)]
    pub(crate) dropout: f32,
    /// Begin the additions of method lora as what compression took away from the teacher's weights
    #[arg(long)]
    pub(crate) residual: bool,
    /// What else is trained [default: norms for masked and masklora, norms,embedding for full]
    #[arg(long, value_name = "PART,..", value_delimiter = ',', value_enum)]
    pub(crate) train: Option<Vec<TrainPart>>,
    /// Factor on the divergence from the teacher [default: 1 with a teacher]
    #[arg(long, value_name = "W", value_parser = number::factor)]
    pub(crate) distill: Option<f32>,
    /// Factor on the difference of every block's output from the teacher's, relative to it (SquareHead). The
    /// teacher's streams are not kept on disk, so it runs again in every step: about a quarter more time
    #[arg(long, value_name = "W", default_value_t = 0.0, value_parser = number::factor)]
    pub(crate) feature: f32,
    /// Factor on the loss of the next token [default: 0 with a teacher, else 1]
    #[arg(long, value_name = "W", value_parser = number::factor)]
    pub(crate) next_token: Option<f32>,
    /// What divides the logits of both in the divergence
    #[arg(long, value_name = "T", default_value_t = 1.0, value_parser = number::divisor)]
    pub(crate) temperature: f32,
    /// Tokens of the teacher's opinion that are looked at
    #[arg(long, value_name = "K", default_value_t = 64, value_parser = number::tokens)]
    pub(crate) top: usize,
    /// Steps between validations [default: a tenth of all]
    #[arg(long, value_name = "N", value_parser = number::steps)]
    pub(crate) every: Option<usize>,
    /// Windows of each validation text
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = number::count)]
    pub(crate) windows: usize,
    /// States that are kept, by the validation text: the best is the result, each of the others a model of its own in
    /// DIR/best-<step>
    #[arg(long, value_name = "K", default_value_t = 1, conflicts_with = "stages", value_parser = number::count)]
    pub(crate) keep_best: usize,
    /// Stop after so many validations without improvement
    #[arg(long, value_name = "N", value_parser = number::count)]
    pub(crate) patience: Option<usize>,
    /// Least fall of the validation loss that counts as an improvement
    #[arg(long, value_name = "NATS", default_value_t = 0.0, value_parser = number::nats)]
    pub(crate) improvement: f64,
    /// Keep only the inputs of blocks and compute the rest again: less memory, a third more work
    #[arg(long)]
    pub(crate) recompute: bool,
    /// Order of sequences, noise, first values of additions
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) found: Found,
    /// Check everything, print the plan and the memory it will take, and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) shared: Shared,
    /// Names of the arguments that were given.
    #[arg(skip)]
    pub(crate) given: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tamis pretrain nano.toml -o nano
  tamis pretrain nano.toml -o nano --exam          (examine what is in nano, train nothing)

A run that was stopped or killed goes on where it was last saved when the same command is given again.")]
pub(crate) struct Pretrain {
    /// Configuration, .toml
    pub(crate) config: PathBuf,
    /// Folder to write
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// Only examine the model in DIR on the synthetic corpus of the configuration
    #[arg(long)]
    pub(crate) exam: bool,
    #[command(flatten)]
    pub(crate) found: Found,
    #[command(flatten)]
    pub(crate) shared: Shared,
}

/// Pruning in stages, with training between.
#[derive(Debug, Args)]
pub(crate) struct Stages {
    /// Prune MODEL in stages and train after each (masked, masklora): shares of zeros, rising
    #[arg(long, value_name = "SHARE,..", value_delimiter = ',', value_parser = number::share)]
    pub(crate) stages: Option<Vec<f64>>,
    /// Make N stages, quick at first and slow at the end, up to the only share of --stages, or from the first to the
    /// second (cubic schedule)
    #[arg(long, value_name = "N", requires = "stages", value_parser = number::count)]
    pub(crate) cubic: Option<usize>,
    /// Text that decides what every stage leaves out
    #[arg(long, value_name = "FILE", requires = "stages")]
    pub(crate) calibration: Option<PathBuf>,
    /// Windows of it [default: the recipe's]
    #[arg(long, value_name = "N", requires = "stages", value_parser = number::count)]
    pub(crate) samples: Option<usize>,
    /// How every stage prunes: a name (`tamis recipe`) or a file [default: sparsegpt50]
    #[arg(long, value_name = "RECIPE", requires = "stages")]
    pub(crate) recipe: Option<String>,
}

/// Methods that choose a best step.
const TRAINING: [(&str, &str); 4] =
    [("method", "masked"), ("method", "masklora"), ("method", "lora"), ("method", "full")];

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RecoverMethod {
    Masked,
    Masklora,
    Lora,
    Full,
    Local,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScheduleName {
    Cosine,
    Linear,
    Constant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TrainPart {
    /// Norms and biases
    Norms,
    /// Embedding and head
    Embedding,
    /// Nothing else
    None,
}

//! Flags of the commands that write a model again: `merge` and `export`.

use std::path::PathBuf;

use clap::Args;

use super::{Found, Shared, number};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tamis export holes -o dense
  tamis export small -o dense --alpha 0.5

Every matrix is written in the narrowest of bf16, f16 and f32 that holds its numbers exactly.")]
pub(crate) struct Export {
    /// Folder, .gguf file or hf://org/name
    pub(crate) model: String,
    /// Folder to write
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// Share of the ortho stream, where there is one
    #[arg(long, value_name = "A", default_value_t = 1.0, value_parser = number::part)]
    pub(crate) alpha: f32,
    #[command(flatten)]
    pub(crate) found: Found,
    #[command(flatten)]
    pub(crate) shared: Shared,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tamis merge ./Llama-3.2-1B --adapter ./lora -o merged
  tamis merge holes --adapter ./lora -o merged --keep-zeros
  tamis merge small --adapter ./lora -o merged --dequantise

Weights keep the precision they have. What cannot be merged without a loss is refused unless the
loss is asked for; --adapter of generate, chat and eval runs any model with its adapter as it is.")]
pub(crate) struct Merge {
    /// Folder, .gguf file or hf://org/name
    pub(crate) model: String,
    /// Folder with adapter_config.json and adapter_model.safetensors, as PEFT writes them
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: PathBuf,
    /// Folder to write
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// Pruned linears: change kept weights only. Masks stay exactly as they are, and what the adapter learned
    /// where nothing is kept is lost; an adapter trained with MaskLoRA does not need this
    #[arg(long)]
    pub(crate) keep_zeros: bool,
    /// Quantised linears: write 16 bits in place of the integers
    #[arg(long)]
    pub(crate) dequantise: bool,
    #[command(flatten)]
    pub(crate) found: Found,
    #[command(flatten)]
    pub(crate) shared: Shared,
}

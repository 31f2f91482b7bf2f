//! Our folder on disk: written part by part, read lazily, verified, inspected.
//!
//! | file | content |
//! |---|---|
//! | `config.json` | the source model's, with a compressed-tensors `quantization_config`; without its method where weights are left out |
//! | `model.safetensors` | the base in compressed-tensors `pack-quantized` names and bits; kept weights |
//! | `ortho.safetensors` | the sidecar; leaving it out is the physical switch |
//! | `manifest.json` | recipe, hashes, receipts; written last: its presence means complete |
//!
//! Masks are stored, never inferred from zeros. There is no pickle.

mod codec;
mod container;
mod entry;
mod foreign;
mod holes;
mod inspect;
mod manifest;
pub(crate) mod numbers;
mod pruned;
mod quantization;
mod reader;
mod verify;
mod work;
mod writer;

pub use entry::{Encoding, Stored, TensorEntry, Vector};
pub use holes::{Blocks, Holes};
pub use inspect::{Inspection, TensorReport, inspect};
pub use manifest::{BASE, CONFIG, FORMAT_VERSION, FileEntry, MANIFEST, Manifest, ORTHO};
pub use reader::{ArtifactSource, is_artifact};
pub use verify::{VerifyReport, verify};
pub(crate) use work::WORK;
pub use work::{Identity, Part};
pub use writer::{
    Existing, Finish, Resume, Staged, Writer, check_free, check_resumable, discard, finish_interrupted,
};

#[cfg(test)]
mod tests;

//! Any model and an alpha to text: sampling, streaming generation and conversations. Sees
//! models through [`LanguageModel`](crate::model::LanguageModel), and text through a
//! [`Detokenise`] and closures.

pub mod chat;
pub mod generate;
pub mod sampler;
mod session;
mod stop;

pub use chat::{Chat, Message, Reply, Role};
pub use generate::{Detokenise, Event, Finish, Generation, Options, Timing};
pub use sampler::{Sampler, SamplerSettings};
pub use session::{PREFILL_CHUNK, Session};

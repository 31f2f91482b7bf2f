//! Files, and nothing of what is in them: the only room that touches the file system. What is read may be hostile
//! (only regular files, every length against the bytes that are left); what is written is whole or not there.

mod append;
pub mod atomic;
pub mod digest;
mod file;
mod folder;
mod lock;
mod name;
mod run_folder;
mod slots;
pub(crate) mod swap;

pub(crate) use append::Growing;
pub(crate) use file::utf8;
pub use file::{DataFile, len, read_small, read_text};
pub use folder::{check_folder, create_folder};
pub(crate) use folder::{link, list};
pub(crate) use lock::Lock;
pub(crate) use name::{inside, is_plain_name};
pub(crate) use run_folder::{RunFolder, discard, finished};
pub(crate) use slots::SlotFile;

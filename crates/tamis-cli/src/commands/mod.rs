//! One file a command: flags to checked values, a call of the library, output.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod compress;
pub(crate) mod demo;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod merge;
pub(crate) mod pretrain;
pub(crate) mod recipe;
pub(crate) mod recover;
pub(crate) mod verify;

//! The end of every command that writes a model: put together, read again as any other command would read it, and only
//! then put in place.

use crate::artifact::{Finish, Manifest, Writer};
use crate::error::{Error, Result};
use crate::load::Checkpoint;
use crate::model::Block;
use crate::model::decoder::{Crown, Stem};

/// Ends the writing of a model. Errors: what was put together is no model; what was in the output folder before is
/// still there then.
pub(crate) fn publish(writer: Writer, finish: Finish) -> Result<Manifest> {
    let staged = writer.stage(finish)?;
    check(&staged.path().to_string_lossy()).map_err(|e: Error| {
        e.next("--resume never makes all parts of the result again; if it happens again, report it")
    })?;
    staged.publish()
}

/// Loads a model part by part.
fn check(path: &str) -> Result<()> {
    let checkpoint = Checkpoint::open(path)?;
    let stem = Stem::load(&checkpoint)?;
    Crown::load(&checkpoint, &stem)?;
    (0..checkpoint.config().layers.len()).try_for_each(|index| Block::load(&checkpoint, index).map(drop))
}

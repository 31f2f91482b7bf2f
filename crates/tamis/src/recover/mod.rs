//! Training that mends a model: gradients of every part of the decoder, what is trained and what is
//! left alone, losses, the optimiser and its schedule. Holes stay holes: a masked weight has no master.
//!
//! ```text
//! plan.rs         which parts are trained, and how          parameters.rs   the numbers, and AdamW on them
//! gradient.rs     linear layers and norms, back             kept.rs         which weights of a matrix are kept
//! block.rs        one block forward with a tape, and back   crown.rs        head and losses, a few rows at a time
//! student.rs      all of it over a batch            trainable.rs    from a method to a plan
//! teacher.rs      the dense model's opinion         sequences.rs    training text, packed
//! settings.rs     what decides a run's bytes        trainer.rs      the loop
//! checkpoint.rs   the run on disk                   report.rs log.rs   what it tells
//! save.rs         the trained model as a folder     local.rs        block by block, before all of it
//! peft.rs         adapters as PEFT reads them       tensorboard.rs  event files
//! curve.rs        a picture of a run                residual.rs     adapters that begin as what was taken away
//! stages.rs       prune a little, train, prune more          survey.rs   what training a model comes to
//! books.rs        what many processes keep on disk together    feature.rs     every block's output, against the teacher's
//! ```

pub mod block;
mod books;
pub mod checkpoint;
pub mod crown;
pub mod curve;
pub mod estimate;
pub mod feature;
pub mod gradient;
pub mod kept;
pub mod local;
pub mod log;
pub mod parameters;
pub mod peft;
pub mod plan;
pub mod report;
pub mod residual;
pub mod run;
pub mod save;
pub mod sequences;
pub mod settings;
pub mod stages;
pub mod student;
pub mod survey;
pub mod teacher;
pub mod tensorboard;
pub mod trainable;
pub mod trainer;

#[cfg(test)]
mod stages_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trainer_tests;
#[cfg(test)]
mod workers_tests;

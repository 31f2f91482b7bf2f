//! Output folders, looked at before anything is touched: one that cannot be made is refused, and one that is an
//! input, by whatever path, is too. Knows of every command what it reads and where it writes.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use tamis::disk::check_folder;
use tamis::error::Error;
use tamis::load::locate;

use crate::args::{self, Command};

/// What a command reads: a name for it, and where it lies.
type Input = (&'static str, PathBuf);

/// Errors: an output folder that cannot be made, or that would be written over an input.
pub(crate) fn check(command: &Command) -> Result<(), Error> {
    let (outputs, inputs) = match command {
        Command::Compress(args) => (vec![args.output.clone()], compress(args)),
        Command::Recover(args) => (vec![args.output.clone()], recover(args)),
        Command::Pretrain(args) => {
            (vec![args.output.clone()], vec![("the configuration", args.config.clone())])
        }
        Command::Export(args) => (vec![args.output.clone()], model(&args.model)),
        Command::Merge(args) => {
            (vec![args.output.clone()], inputs(&args.model, [("the adapter", Some(args.adapter.clone()))]))
        }
        Command::Demo(args) => demo(args),
        Command::Eval(_)
        | Command::Generate(_)
        | Command::Chat(_)
        | Command::Bench(_)
        | Command::Inspect(_)
        | Command::Verify(_)
        | Command::Recipe(_) => return Ok(()),
    };
    for output in &outputs {
        let target = place(output);
        inputs.iter().try_for_each(|(what, input)| apart(&target, &place(input), what))?;
        check_folder(output)?;
    }
    Ok(())
}

fn compress(args: &args::Compress) -> Vec<Input> {
    inputs(&args.model, [("the calibration text", args.calibration.clone())])
}

fn recover(args: &args::Recover) -> Vec<Input> {
    let texts = [
        ("the training text", Some(args.data.clone())),
        ("the validation text", args.valid.clone()),
        ("the second text", args.also_valid.clone()),
        ("the calibration text", args.pruning.calibration.clone()),
        ("the file of the teacher's words", args.teacher_cache.clone()),
        ("the teacher", args.teacher.as_deref().and_then(|spec| locate(spec).ok())),
    ];
    inputs(&args.model, texts)
}

fn demo(args: &args::Demo) -> (Vec<PathBuf>, Vec<Input>) {
    let Some(folder) = &args.output else { return (vec![], vec![]) };
    let written = crate::commands::demo::RECIPES.map(|name| folder.join(name));
    match &args.model {
        Some(spec) => (written.into(), model(spec)),
        None => (vec![folder.clone()], vec![]),
    }
}

/// A model that is not found is told of by those who read it.
fn model(spec: &str) -> Vec<Input> {
    locate(spec).map(|path| ("the model", path)).into_iter().collect()
}

fn inputs<const N: usize>(spec: &str, others: [(&'static str, Option<PathBuf>); N]) -> Vec<Input> {
    let others = others.into_iter().filter_map(|(what, path)| Some((what, path?)));
    model(spec).into_iter().chain(others).collect()
}

/// Errors where writing `output` would touch `input`: the same place, or one of the folders in it that a command
/// keeps for itself (`.training`, `best-100`) and removes.
fn apart(output: &Path, input: &Path, what: &str) -> Result<(), Error> {
    let Ok(below) = input.strip_prefix(output) else { return Ok(()) };
    let first = below.components().next().map(Component::as_os_str).and_then(OsStr::to_str);
    if first.is_some_and(|first| !first.starts_with('.') && !first.starts_with("best-")) {
        return Ok(());
    }
    Err(Error::usage(format!("the output would be written over {what}"))
        .file(input)
        .next("choose another output folder: -o DIR"))
}

/// Where a path leads, without links and `..`, also where nothing is there yet.
fn place(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let mut place = PathBuf::new();
    for part in absolute.components() {
        match part {
            Component::ParentDir => {
                place.pop();
            }
            part => {
                place.push(part);
                // a folder to be made has no other path yet
                place = place.canonicalize().unwrap_or(place);
            }
        }
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn one_place_has_many_paths() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("a")).unwrap();
        std::os::unix::fs::symlink(root.join("a"), root.join("link")).unwrap();
        for path in ["a", "link", "./a/", "new/../a", "a/b/..", "link/../a", "new/older/../../link"] {
            assert_eq!(place(&root.join(path)), root.join("a"), "{path}");
        }
        assert_eq!(place(&root.join("link/new")), root.join("a/new"));
    }

    #[test]
    fn an_input_is_not_written_over() {
        let refused = |output: &str, input: &str| apart(Path::new(output), Path::new(input), "it").is_err();
        assert!(refused("/m", "/m") && refused("/m", "/m/best-10") && refused("/m", "/m/.stages/1"));
        assert!(!refused("/m", "/m/x.gguf") && !refused("/m", "/m/teacher") && !refused("/m/small", "/m"));
        assert!(!refused("/m", "/models"));
    }
}

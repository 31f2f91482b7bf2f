//! `tamis export`: a model that any program reads.

use std::time::Instant;

use serde_json::json;
use tamis::compress::Threads;
use tamis::job::export;
use tamis::load::Checkpoint;
use tamis::units::Alpha;

use crate::args;
use crate::opened::threads;
use crate::stop;
use crate::streams::{print_json, print_text};
use crate::terminal::{Progress, human_bytes};

/// `tamis export`.
pub(crate) fn run(args: &args::Export) -> anyhow::Result<()> {
    let started = Instant::now();
    let checkpoint = Checkpoint::open(&args.model)?;
    let mut bar = Progress::new("export", args.shared.quiet);
    let target = (args.output.as_path(), args.found.policy());
    let how = (Alpha::new(args.alpha)?, Threads::new(threads(args.shared.threads)));
    let manifest = export(&checkpoint, how, target, &mut |done, total| {
        bar.update(done as u64, total as u64, "parts");
        stop::save_first();
        stop::end_if_asked();
    });
    let manifest = manifest.map_err(|e| e.or_file(&args.model))?;
    bar.finish();
    let bytes: u64 = manifest.files.values().map(|file| file.bytes).sum();
    let seconds = started.elapsed().as_secs_f64();
    if args.shared.json {
        return print_json(&json!({ "output": args.output, "file_bytes": bytes, "seconds": seconds }));
    }
    print_text(&format!("wrote {} ({}) in {seconds:.1} s\n", args.output.display(), human_bytes(bytes)))
}

//! `tamis merge`: an adapter added to the weights of its model.

use std::time::Instant;

use serde_json::json;
use tamis::job::{Losses, Merge};
use tamis::load::{Checkpoint, open_adapter};

use crate::args;
use crate::opened::{Mode, kernels};
use crate::stop;
use crate::streams::{print_json, print_text};
use crate::terminal::{Progress, human_bytes};

/// `tamis merge`.
pub(crate) fn run(args: &args::Merge) -> anyhow::Result<()> {
    let started = Instant::now();
    let checkpoint = Checkpoint::open(&args.model)?;
    let adapter = open_adapter(&args.adapter, checkpoint.config()).map_err(|e| e.or_file(&args.adapter))?;
    let ops = kernels(args.shared.threads, Mode::EXACT)?.ops;
    let merge = Merge {
        checkpoint: &checkpoint,
        adapter: &adapter,
        losses: Losses { keep_zeros: args.keep_zeros, dequantise: args.dequantise },
        ops: &*ops,
        output: &args.output,
        policy: args.found.policy(),
    };
    let mut bar = Progress::new("merge", args.shared.quiet);
    let manifest = merge.run(&mut |done, total| {
        bar.update(done as u64, total as u64, "blocks");
        stop::save_first();
        stop::end_if_asked();
    });
    let manifest = manifest.map_err(|e| e.or_file(&args.model))?;
    bar.finish();
    let bytes: u64 = manifest.files.values().map(|file| file.bytes).sum();
    let (linears, seconds) = (adapter.names().count(), started.elapsed().as_secs_f64());
    if args.shared.json {
        return print_json(&json!({
            "output": args.output,
            "linears": linears,
            "file_bytes": bytes,
            "seconds": seconds,
        }));
    }
    let output = args.output.display();
    print_text(&format!(
        "wrote {output} ({}): {linears} linears merged in {seconds:.1} s\n",
        human_bytes(bytes)
    ))
}

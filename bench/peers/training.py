#!/usr/bin/env python3
"""Times training by tamis and by PyTorch in turns and writes docs/training.md.

    bench/peers/training.py MODEL.gguf FOLDER --data TEXT --valid TEXT --tamis PATH --python PATH [--rounds 3]

FOLDER is the same model for transformers, as gguf_to_hf.py leaves it; PATH of --python has requirements.txt and
peft. Rows: LoRA of rank 8 on q and v (PEFT in bfloat16), and all weights (PyTorch in float32, and in float32 with bfloat16
autocast). tamis has float32 masters and bfloat16 products; of a GGUF model the frozen weights stay as they are. A
round runs both sides once; ratios are formed within a round, and their median counts. Both sides' steps leave out loading;
the first step is PyTorch's warm-up and not counted, all of tamis' steps count. Memory is the peak of the process.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

# Method, title, types of PyTorch, bar.
ROWS = (
    ("lora", "LoRA, r 8 on q and v; frozen weights as stored, PEFT's in bf16", "bfloat16", 3.0),
    ("full", "all weights; bf16 products, PyTorch's in f32", "float32", 3.0),
    ("full", "all weights; bf16 products, PyTorch's by bf16 autocast", "autocast", None),
)


def run(command):
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def torch(args, method, dtype):
    here = Path(__file__).parent
    found = run([args.python, str(here / "torch_train.py"), args.folder, "--method", method, "--dtype", dtype, "--data", args.data,
                 "--threads", str(args.threads), "--steps", str(args.steps), "--length", str(args.length)])
    return found["tokens"] / median(found["seconds"]), found["peak_memory_bytes"], found["losses"]


def tamis(args, method):
    with tempfile.TemporaryDirectory() as folder:
        found = run([args.tamis, "recover", args.model, "-o", f"{folder}/out", "--method", method, "--data", args.data,
                     "--valid", args.valid, "--windows", "1", "--steps", str(args.steps), "--every", str(args.steps),
                     "--length", str(args.length), "--threads", str(args.threads), "--quiet", "--json"])
    found = found["tamis"]["recovery"]
    return found["tokens_per_second"], found["peak_memory_bytes"], found["predicted_memory_bytes"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folder")
    for name in ("--data", "--valid", "--python"):
        parser.add_argument(name, required=True)
    parser.add_argument("--tamis", default="target/release/tamis")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--note", action="append", default=[])
    parser.add_argument("--output", default="docs/training.md")
    args = parser.parse_args()
    lines = ["# Training: speed and memory", "", "Made by `bench/peers/training.py`; do not edit.", ""]
    lines += [f"* {note}" for note in args.note]
    lines += [f"* {Path(args.model).name}, sequences of {args.length} tokens, batch 1, {args.steps} steps a run, "
              f"{args.rounds} rounds, {args.threads} threads", "",
              "| what | tamis, tok/s | PyTorch, tok/s | ratio (rounds) | bar | tamis, MiB (planned) | PyTorch, MiB |",
              "|---|---|---|---|---|---|---|"]
    for method, title, dtype, least in ROWS:
        rounds = [(tamis(args, method), torch(args, method, dtype)) for _ in range(args.rounds)]
        ratios = [ours[0] / theirs[0] for ours, theirs in rounds]
        speeds = [median(side[0] for side in sides) for sides in zip(*rounds)]
        (_, ours, planned), (_, theirs, _) = rounds[-1]
        spread = ", ".join(f"{r:.2f}" for r in ratios)
        bar = f">= {least:.0f}: {'met' if median(ratios) >= least else 'missed'}" if least else "none"
        lines.append(f"| {title} | {speeds[0]:.0f} | {speeds[1]:.0f} | {median(ratios):.2f} ({spread}) | {bar} "
                     f"| {ours >> 20} ({planned >> 20}) | {theirs >> 20} |")
        print(lines[-1], flush=True)
    Path(args.output).write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Pruning and recovery of one model, every figure of docs/pruning.md.

    bench/prune/experiments.py MODEL --data FOLDER --work FOLDER [--tamis PATH] [--steps 300] [--only NAME,..]

FOLDER of --data is that of scripts and tests (TAMIS_DATA): c4_sample/c4_sample.jsonl, of which nine tenths are for
training and the rest for choosing the best step, and wikitext2/, which nothing is trained on or chosen by
(but `wanda50-wiki`, as a peer's figure was made so). What is there already is not done again; a killed run
goes on. Every command and its answer is in WORK/*.json, from which table.py makes the page. Python's standard
library only; hours on two cores.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

BLOCKS = (0.1, 0.2, 0.3, 0.4, 0.5)
TIERS = (0.4, 0.5)
EXTREME = (0.7, 0.9)


def named(kind, share):
    return f"{kind}{share:.0%}".rstrip("%")


STAGED = (("blocks20", 0.4),)  # what is mended already is pruned on
MEASURED = ("sparsegpt50", "2of4", *(named("blocks", share) for share in BLOCKS), "tiers50", "unstructured90")
STAGES = {0.7: "0.5,0.6,0.7", 0.9: "0.5,0.7,0.8,0.9"}


class Bench:
    def __init__(self, args):
        self.args, self.work = args, Path(args.work)
        self.data = Path(args.data)
        self.train, self.valid = self.work / "train.jsonl", self.work / "valid.jsonl"
        self.only = args.only.split(",") if args.only else None

    def prepare(self):
        self.work.mkdir(parents=True, exist_ok=True)
        lines = (self.data / "c4_sample/c4_sample.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        cut = len(lines) * 9 // 10
        self.train.write_text("".join(lines[:cut]), encoding="utf-8")
        self.valid.write_text("".join(lines[cut:]), encoding="utf-8")

    def run(self, name, command):
        """Runs a command with --json unless its answer is there; its answer."""
        path = self.work / f"{name}.json"
        command = [self.args.tamis, *map(str, command), "--threads", str(self.args.threads), "--json", "--quiet"]
        if path.exists() and (known := json.loads(path.read_text())["command"])[1:] != command[1:]:
            raise SystemExit(f"{path} is the answer of another command: {' '.join(known)}\nremove it, or choose another --work")
        if not path.exists():
            print(time.strftime("%H:%M:%S"), " ".join(command), flush=True)
            start = time.monotonic()
            done = subprocess.run(command, stdout=subprocess.PIPE)
            if done.returncode:
                raise SystemExit(f"{name}: exit {done.returncode}")
            seconds = time.monotonic() - start
            answer = json.loads(done.stdout)
            path.write_text(json.dumps({"command": command, "seconds": seconds, "answer": answer}, indent=1))
        return json.loads(path.read_text())

    def measure(self, name, model):
        return self.run(f"{name}.eval", ["eval", model, "--perplexity", self.data / "wikitext2/wiki.test.raw",
                                         "--windows", self.args.windows, "--precision", "bf16"])

    def compress(self, name, recipe, *options, calibration=None, model=None):
        out = self.work / name
        self.run(name, ["compress", model or self.args.model, "-o", out, "--recipe", recipe,
                        "--calibration", calibration or self.train, *options])
        self.measure(name, out)
        return out

    def train_flags(self, steps):
        return ["--teacher", self.args.model, "--data", self.train, "--valid", self.valid,
                "--also-valid", self.data / "wikitext2/wiki.valid.raw", "--windows", 8, "--length", 1024,
                "--steps", steps, "--lr", self.args.lr, "--teacher-cache", self.work / "teacher.bin"]

    def recover(self, name, model, *options, steps=None):
        out = self.work / name
        self.run(name, ["recover", model, "-o", out, "--method", "masked",
                        *self.train_flags(steps or self.args.steps), *options])
        self.measure(name, out)
        return out

    def local(self, name, model):
        out = self.work / name
        self.run(name, ["recover", model, "-o", out, "--method", "local", "--teacher", self.args.model,
                        "--data", self.train, "--sequences", 128, "--epochs", 2, "--length", 1024, "--lr", "4e-3"])
        self.measure(name, out)
        return out

    def mend(self, name, pruned):
        """Block by block first, then all of them."""
        self.recover(f"{name}-mended", self.local(f"{name}-local", pruned), steps=self.args.steps * 2 // 3)

    # Groups, in the order in which they are done.

    def one_shot(self):
        self.measure("dense", self.args.model)
        for recipe in ("wanda50", "sparsegpt50", "2of4"):
            self.compress(recipe, recipe)
        self.compress("wanda50-wiki", "wanda50", "--samples", 32, "--length", 512,
                      calibration=self.data / "wikitext2/wiki.valid.raw")

    def half(self):
        pruned = self.compress("sparsegpt50", "sparsegpt50")
        self.recover("sparsegpt50-trained", pruned)
        self.mend("sparsegpt50", pruned)
        self.recover("sparsegpt50-long", self.work / "sparsegpt50-local", steps=self.args.long)

    def blocks(self):
        samples = ["--samples", self.args.samples]
        for share in BLOCKS:
            name = named("blocks", share)
            pruned = self.compress(name, "block16-25", "--sparsity", share, *samples)
            self.mend(name, pruned)
            if share == 0.2:
                self.recover(f"{name}-trained", pruned)
        for first, share in STAGED:
            name = named("staged", share)
            model = self.work / f"{first}-mended"
            self.mend(name, self.compress(name, "block16-25", "--sparsity", share, *samples, model=model))

    def tiers(self):
        for share in TIERS:
            name = named("tiers", share)
            self.mend(name, self.compress(name, "tiers50", "--sparsity", share))

    def extreme(self):
        samples, every = ["--samples", 32], ["--every", 100]
        for share in EXTREME:
            name = named("unstructured", share)
            self.recover(f"{name}-trained", self.compress(name, "sparsegpt50", "--sparsity", share, *samples), *every)
            self.recover(f"{name}-gradual", self.args.model, "--stages", STAGES[share], "--calibration", self.train, *samples, *every)

    def speed(self):
        """Of what is there, beside the same weights stored dense and the file that all began with."""
        dense = self.work / "exported"
        self.run("exported", ["export", self.work / "sparsegpt50", "-o", dense])
        models = {"dense": self.args.model, "exported": dense}
        models |= {name: self.work / name for name in MEASURED if (self.work / name / "manifest.json").exists()}
        for name, model in models.items():
            self.run(f"{name}.bench", ["bench", model, "-p", 512, "-n", 64])

    GROUPS = (one_shot, half, blocks, tiers, extreme, speed)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--tamis", default="target/release/tamis")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300, help="of training, 1024 tokens each; two thirds where blocks were mended one by one first")
    parser.add_argument("--long", type=int, default=1440, help="steps of the longest run at half of all weights")
    parser.add_argument("--lr", default="3e-4")
    parser.add_argument("--samples", type=int, default=128, help="calibration windows for blocks")
    parser.add_argument("--windows", type=int, default=10, help="of 2048 tokens of the test text")
    parser.add_argument("--only", help="groups: one_shot, half, blocks, tiers, extreme, speed")
    bench = Bench(parser.parse_args())
    unknown = set(bench.only or ()) - {group.__name__ for group in bench.GROUPS}
    if unknown:
        raise SystemExit(f"no such group: {', '.join(sorted(unknown))}")
    bench.prepare()
    for group in bench.GROUPS:
        if not bench.only or group.__name__ in bench.only:
            group(bench)


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""docs/pruning.md and docs/pruning.svg from the answers of experiments.py. Runs nothing and changes no figure.

    bench/prune/table.py WORK docs/pruning.md --note "machine, date, commit"

What was not run is left out of the tables. Python's standard library only.
"""

import argparse
import json
import math
import sys
from pathlib import Path

SHARES = (10, 20, 30, 40, 50)
BLOCKS = {f"blocks{share}": f"{share} %" for share in SHARES} | {"staged40": "40 %, from 20 % mended"}
TIERS = {f"tiers{share}": f"{share} %" for share in SHARES}
TITLES = {
    "wanda50": "Wanda, 50 %", "wanda50-wiki": "Wanda, 50 %, calibrated on 32 x 512 tokens of wiki.valid.raw",
    "sparsegpt50": "SparseGPT, 50 %", "2of4": "SparseGPT, 2:4",
    "sparsegpt50-trained": "SparseGPT, 50 %, trained", "sparsegpt50-local": "SparseGPT, 50 %, block by block",
    "sparsegpt50-mended": "SparseGPT, 50 %, block by block, trained",
    "sparsegpt50-long": "SparseGPT, 50 %, block by block, trained for longer",
}


class Answers:
    def __init__(self, work):
        self.work = Path(work)

    def get(self, name):
        path = self.work / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def perplexity(self, name):
        found = self.get(f"{name}.eval")
        return found and found["answer"]["tamis"]["perplexity"][0]

    def recovery(self, name):
        found = self.get(name)
        return found and found["answer"].get("tamis", {}).get("recovery")

    def commands(self):
        found = [json.loads(path.read_text()) for path in sorted(self.work.glob("*.json"))]
        return [entry["command"] for entry in found if isinstance(entry, dict) and "command" in entry]


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows] + [""] if rows else []


def section(title, lines):
    """Nothing where nothing was run."""
    return [f"## {title}", "", *lines] if lines else []


def times(found, dense):
    return f"{found['value']:.1f} | {found['value'] / dense:.2f}" if found else " | "


def held_out(recovery):
    """Of the text that was not trained on, but of its kind: perplexity over that of the dense model."""
    if not recovery:
        return ["", "", ""]
    over = recovery["saved"] / recovery["dense_perplexity"]
    return [str(recovery["steps"]), f"{over:.2f}", str(recovery["mask_violations"])]


def half(answers, dense):
    rows = []
    for name, title in TITLES.items():
        if found := answers.perplexity(name):
            rows.append([title, times(found, dense), f"{found['stderr']:.1f}", *held_out(answers.recovery(name))])
    return table(["model", "perplexity", "x dense", "+-", "steps", "held-out C4 x dense", "zeros lost"], rows)


def curve(answers, dense, models):
    rows = []
    for name, title in models.items():
        found = [answers.perplexity(f"{name}{end}") for end in ("", "-local", "-trained", "-mended")]
        if found[0]:
            recovery = held_out(answers.recovery(f"{name}-mended"))
            rows.append([title, *(times(value, dense) for value in found), *recovery[1:]])
    head = ["zeros", "as pruned", "x dense", "block by block", "x dense", "trained", "x dense", "both", "x dense"]
    return table([*head, "both: held-out C4 x dense", "zeros lost"], rows)


def extreme(answers, dense):
    rows = []
    for share in (70, 90):
        for end, title in (("", "one shot"), ("-trained", "one shot, trained"), ("-gradual", "in stages, trained between")):
            found = answers.perplexity(f"unstructured{share}{end}")
            if found:
                recovery = held_out(answers.recovery(f"unstructured{share}{end}"))
                rows.append([f"{share} %", title, times(found, dense), *recovery])
    return table(["zeros", "how", "perplexity", "x dense", "steps", "held-out C4 x dense", "zeros lost"], rows)


SPEED = {
    "dense": "the file that all began with, 4 bits", "exported": "SparseGPT 50 % stored dense, bf16", "sparsegpt50": "SparseGPT 50 %, bitmap",
    "2of4": "SparseGPT 2:4, bitmap", **{f"blocks{share}": f"blocks, {share} % zeros" for share in SHARES},
    "tiers50": "tiers, 50 % zeros, bitmap", "unstructured90": "SparseGPT 90 %, bitmap",
}


def speed(answers):
    rows = []
    for name, title in SPEED.items():
        if found := answers.get(f"{name}.bench"):
            of = {row["test"]: row for row in found["answer"]}
            prompt, single = of["pp512"], of["tg64"]
            rows.append([title, f"{single['bytes_per_token'] / 1e6:.0f}", f"{prompt['median']:.0f}", f"{single['median']:.1f}"])
    return table(["weights", "MB a token", "prompt of 512, tokens/s", "single tokens/s"], rows)


UNSTRUCTURED = {50: "sparsegpt50", 70: "unstructured70", 90: "unstructured90"}
LINES = (
    ("16 x 16 blocks", "#c30", {share: f"blocks{share}" for share in SHARES}),
    ("blocks, mended", "#06c", {share: f"blocks{share}-mended" for share in SHARES}),
    ("tiers", "#e90", {share: f"tiers{share}" for share in SHARES}),
    ("tiers, mended", "#093", {share: f"tiers{share}-mended" for share in SHARES}),
    ("SparseGPT", "#777", UNSTRUCTURED),
    ("SparseGPT, trained", "#000", {share: f"{name}-trained" for share, name in UNSTRUCTURED.items()}),
    ("SparseGPT, in stages", "#a0a", {share: f"unstructured{share}-gradual" for share in (70, 90)}),
)


def picture(answers, dense):
    """Perplexity over that of the dense model, logarithmic, by the share of zeros."""
    width, height, left, right, bottom = 720, 420, 60, 170, 50
    most = 1000.0
    place_x = lambda share: left + share / 95 * (width - left - right)
    place_y = lambda value: height - bottom - math.log(min(value / dense, most)) / math.log(most) * (height - bottom - 40)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="white"/>',
           f'<text x="{(width - right) / 2}" y="20" text-anchor="middle" font-size="14">Perplexity over dense by the share of zeros</text>']
    for factor in (1, 1.4, 3, 10, 30, 100, 300, 1000):
        y = place_y(dense * factor)
        out.append(f'<line x1="{left}" y1="{y:.1f}" x2="{width - right}" y2="{y:.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{factor:g}</text>')
    shares = (0, *SHARES, 70, 90)
    out += [f'<text x="{place_x(share):.1f}" y="{height - bottom + 18}" text-anchor="middle">{share} %</text>' for share in shares]
    number = 0
    for title, colour, names in LINES:
        found = [(share, answers.perplexity(name)) for share, name in names.items()]
        points = [(place_x(share), place_y(value["value"])) for share, value in found if value]
        if not points:
            continue
        out.append(f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" fill="none" stroke="{colour}"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in points]
        out.append(f'<text x="{width - right + 14}" y="{60 + 20 * number}" fill="{colour}">{title}</text>')
        number += 1
    return "\n".join(out) + "\n</svg>\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work")
    parser.add_argument("output")
    parser.add_argument("--note", action="append", default=[])
    args = parser.parse_args()
    answers, output = Answers(args.work), Path(args.output)
    dense = answers.perplexity("dense")
    if not dense:
        raise SystemExit(f"{args.work}/dense.eval.json is missing: run experiments.py --only one_shot")
    dense = dense["value"]
    replaced = ((str(Path(args.work)) + "/", ""), (str(Path(args.work).resolve()) + "/", ""))
    lines = ["# Pruning and recovery", "", "Made by `bench/prune/experiments.py` and `bench/prune/table.py`; do not edit.", ""]
    lines += [f"* {note}" for note in args.note]
    lines += [f"* dense: {dense:.2f}; perplexity on wiki.test.raw, which nothing is trained on or chosen by, first windows "
              "of 2048 tokens, bf16 products", ""]
    lines += section("Half of all weights", half(answers, dense))
    lines += ["![Perplexity by the share of zeros](pruning.svg)", ""]
    lines += section("Blocks of 16 x 16", curve(answers, dense, BLOCKS))
    lines += section("Tiers: each block dense, or its best three, two or one quarters", curve(answers, dense, TIERS))
    lines += section("Many zeros", extreme(answers, dense))
    lines += section("Speed", speed(answers))
    lines += ["## Commands", "", "Folders left out.", "", "```sh"]
    for command in answers.commands():
        words = ["tamis", *command[1:]]
        for old, new in replaced:
            words = [word.replace(old, new) for word in words]
        words = [word.rsplit("/", 1)[-1] if word.startswith("/") else word for word in words]
        lines.append(" ".join(words))
    output.write_text("\n".join([*lines, "```", ""]), encoding="utf-8")
    output.with_suffix(".svg").write_text(picture(answers, dense), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

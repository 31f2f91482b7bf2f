"""docs/benchmarks.md from the results of interleave.py: medians, ratios, and whether each bar is met.

Ratios are formed within a round, where both sides ran minutes apart, and then the median of the
rounds is taken; min and max over the rounds stand beside it. "Best" of a peer is the setting with
the highest median over the rounds. A bar is judged on the median ratio before rounding. Runs
nothing and changes no figure.

Requires: Python 3.9, no packages.
Command:  python bench/peers/table.py RESULTS.jsonl docs/benchmarks.md
Exits with 1 when a run crashed or PyTorch's perplexity is not that of the same model.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

# Perplexity of bf16 weights over that of the same weights in 4 or 8 bits: higher means that the
# conversion of the model for PyTorch is wrong. 5 % is far above what bf16 costs.
SAME_MODEL = 1.05
LLAMA = ("llama.cpp ",)
PEERS = ("llama.cpp ", "pytorch ")


def key(row):
    return row["test"], row["depth"], row["threads"]


def is_speed(row):
    return row[0][:2] in ("pp", "tg")


class Results:
    """values[row][engine][round]; rows are (test, depth, threads); round 0 is the probe."""

    def __init__(self, head, runs):
        self.head, self.runs = head, [run for run in runs if "repeated" not in run]
        self.repeated = len(runs) - len(self.runs)
        self.values = defaultdict(lambda: defaultdict(dict))
        self.failed = defaultdict(dict)
        for run in self.runs:
            row = key(run["row"])
            if "error" in run:
                self.failed[row][run["engine"]] = run["error"]
            elif run["round"] > 0:
                self.values[row][run["engine"]][run["round"]] = run["value"]

    def rate(self, row, engine, number):
        """More is faster, for every row."""
        value = self.values[row][engine][number]
        return value if is_speed(row) else 1.0 / value

    def best(self, row, prefixes):
        """The fastest engine of those whose names begin so; nothing where none ran."""
        found = [e for e in self.values[row] if e.startswith(prefixes) and e not in self.failed[row]]
        return max(found, key=lambda e: median(self.rate(row, e, n) for n in self.values[row][e]), default=None)

    def others(self, row, engine):
        """Largest share of the machine that was not this engine's in any of its rounds."""
        return max(r["others"] for r in self.runs if key(r["row"]) == row and r["engine"] == engine and r["round"])

    def ratios(self, ours, theirs):
        """Speed of ours over theirs, each (row, engine), one a round in which both ran."""
        both = sorted(set(self.values[ours[0]][ours[1]]) & set(self.values[theirs[0]][theirs[1]]))
        return [self.rate(*ours, n) / self.rate(*theirs, n) for n in both]


def comparisons(results):
    """(what, (row, ours), (row, theirs) or the peers' prefixes, bar): bars hold at the sizes named here only."""
    threads = results.head["threads"]
    rows = sorted({key(run["row"]) for run in results.runs}, key=[key(r["row"]) for r in results.runs].index)
    rows += [] if any(row[0] == "perplexity" for row in rows) else [("perplexity", 0, threads)]  # to say so
    bars = {("tg128", 0): 1.15, ("tg128", 4096): 3.0, ("pp512", 0): 1.3, ("pp4096", 0): 1.5}
    int4 = "tamis int4"
    for row in rows:
        test, depth, count = row
        if is_speed(row):
            what = f"{test} at depth {depth}, {count} thread{'s' if count > 1 else ''}"
            bar = bars.get((test, depth)) if count == threads else None
            peers = PEERS if test[:2] == "pp" else LLAMA
            yield what, (row, int4), (row, peers), bar
            if test[:2] == "tg" and depth:
                yield f"{what}, 8-bit cache", (row, int4 + " cache int8"), (row, peers), bar
        elif test == "perplexity":
            yield "perplexity of the text, seconds", (row, int4), (row, LLAMA), 1.0
            yield "perplexity of the text, seconds", (row, int4), (row, ("pytorch ",)), 1.0
        else:
            yield "one token, whole process, seconds", (row, int4), (row, LLAMA), None
    yield from own(rows, threads)


def own(rows, threads):
    """tamis against itself."""
    int4, sieved = "tamis int4", "tamis int4-ortho alpha {}"
    for row in rows:
        test, depth, count = row
        if not is_speed(row) or depth or count != threads:
            continue
        one, usual = (test, depth, 1), test in ("tg128", "pp512")
        if test.startswith("tg"):
            yield f"{test}: INT3 against INT4", (row, "tamis int3"), (row, int4), 1.15 if usual else None
        if one in rows and threads > 1:
            bar = 1 / 1.12 if usual else None  # at most 12 % more time
            yield f"{test}: alpha 1 against alpha 0", (row, sieved.format(1)), (row, sieved.format(0)), bar
            yield f"{test}: alpha 0 against the plain base", (row, sieved.format(0)), (row, int4), None
            bar = {"tg128": 1.7, "pp512": 1.8}.get(test) if threads == 2 else None
            yield f"{test}: {threads} threads against one", (row, int4), (one, int4), bar


def judge(results, ours, theirs, bar):
    """(name of the other side, ratios, verdict)"""
    row, peers = theirs
    broken = [e for e in results.failed[row] if e.startswith(peers)]
    broken += [e for e in results.failed[ours[0]] if e == ours[1]]
    engine = results.best(row, peers) if isinstance(peers, tuple) else peers
    ratios = results.ratios(ours, (row, engine)) if engine else []
    if broken:
        return engine, ratios, "not judged: crashed: " + ", ".join(broken)
    if not ratios:
        return engine, ratios, "not measured"
    others = max(results.others(*ours), results.others(row, engine))
    if others > results.head["busy"]:
        return engine, ratios, f"not judged: others took {others:.0%} of the machine"
    if bar is None:
        return engine, ratios, "no bar"
    above = median(ratios) > bar if bar == 1.0 else median(ratios) >= bar
    return engine, ratios, "met" if above else "**missed**"


def spread(values, digits):
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def table(head, lines):
    return ["| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines]]


def bar_lines(results):
    for what, ours, theirs, bar in comparisons(results):
        engine, ratios, verdict = judge(results, ours, theirs, bar)
        wanted = "" if bar is None else "> 1" if bar == 1.0 else f">= {bar:.3g}"
        own_side = theirs[0] != ours[0]
        other = "-" if engine is None else engine + (f", {theirs[0][2]} thread" if own_side else "")
        yield [what, ours[1], other, spread(ratios, 2) if ratios else "-", wanted, verdict]


def engine_lines(results):
    last = {}
    for run in results.runs:
        last.setdefault((key(run["row"]), run["engine"]), []).append(run)
    for (row, engine), runs in last.items():
        where = [row[0], str(row[1]), str(row[2]), engine]
        counted = [run for run in runs if run["round"] > 0 and "error" not in run]
        if engine in results.failed[row]:
            yield [*where, f"**crashed**: {results.failed[row][engine]}".replace("|", "/"), "", "", ""]
        elif not counted:
            yield [*where, f"probe only: {runs[0]['value']:.1f}", "", "", ""]
        else:
            quality = [f"{run['perplexity']:.3f}" for run in counted[:1] if "perplexity" in run]
            memory = max(run["peak_bytes"] for run in counted) / (1 << 20)
            others = max(run["others"] for run in counted)
            middle = spread([run["value"] for run in counted], 1)
            yield [*where, middle, f"{memory:.0f}", f"{100 * others:.0f} %", *(quality or [""])]


def wrong_model(results):
    """Lines that say so when PyTorch clearly does worse than the same model quantised."""
    found = {}
    for run in results.runs:
        if "perplexity" in run and run["round"] == max(r["round"] for r in results.runs):
            found[run["engine"]] = run["perplexity"]
    ours = found.get("pytorch bf16")
    for engine, value in found.items():
        if ours and engine.startswith("llama.cpp") and ours > SAME_MODEL * value:
            yield f"PyTorch's perplexity {ours:.3f} is not that of the model that {engine} runs ({value:.3f})"


def commands(results):
    first = dict.fromkeys(run["command"] for run in results.runs if run["round"] > 0)
    return ["```sh", *first, "```"]


def facts(results):
    head, machine = results.head, results.head["machine"]
    done = max(run["round"] for run in results.runs)
    how = sorted({f"{run['isa']}, {run['precision']}" for run in results.runs if "isa" in run and "precision" in run})
    return [
        ["date", head["date"]],
        ["CPU", f"{machine['cpu']}, {machine['cores']} cores for this run"],
        ["of its instruction sets", " ".join(machine["flags"]) or "-"],
        ["memory", f"{machine['memory_gib']} GiB"],
        ["system", machine["system"]],
        *([name, note] for name, note in head["notes"].items()),
        ["what tamis computes with", "; ".join(how) or "-"],
        ["bytes of weights", ", ".join(f"{name} {size:,}" for name, size in head["bytes"].items())],
        ["rounds", f"{done} of {head['rounds']}, {head['repetitions']} repetitions a process"],
        ["windows of the text", str(head["windows"] or "all")],
        ["runs repeated", f"{results.repeated}, because others took more than {head['busy']:.0%} of the machine"],
    ]


INTRODUCTION = """\
Written by `bench/peers/run.sh`, which [its README](../bench/peers/README.md) describes; nothing was edited by hand.
Engines ran in turns. A ratio is speed over speed within one round, then the median over the rounds, with min and max.
More than 1 means that the first is faster. Bars are judged on the unrounded median.
"""
MEDIANS = """\
Tokens a second for pp (a prompt at once) and tg (token by token), seconds for the rest; median (min-max) over rounds.
A peer's settings that were below {:.0%} of its best in the probe did not run again. MiB is the most that the process
held, `others` the largest share of the machine that someone else took meanwhile, the host included.
"""


def page(results, complaints):
    engines = ["test", "depth", "threads", "engine", "median", "MiB", "others", "perplexity"]
    return "\n".join([
        "# Benchmarks", "", INTRODUCTION, *table(["what", "here"], facts(results)), "",
        *(line for complaint in complaints for line in (complaint, "")),
        "## Bars", "",
        *table(["what", "this", "against", "ratio", "bar", "verdict"], bar_lines(results)), "",
        "## Medians", "", MEDIANS.format(results.head["near"]), *table(engines, engine_lines(results)), "",
        "## Commands", "", "Folders left out.", "", *commands(results), "",
    ])


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    head, *runs = (json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines())
    results = Results(head, runs)
    complaints = [f"**Not to be trusted**: {line}." for line in wrong_model(results)]
    Path(sys.argv[2]).write_text(page(results, complaints))
    for line in bar_lines(results):
        print("  ".join([f"{line[0]:36}", f"{line[1]:26}", f"{line[2]:26}", f"{line[3]:18}", f"{line[4]:8}", line[5]]))
    failed = [(row, engine, why) for row, of in results.failed.items() for engine, why in of.items()]
    crashed = [f"{engine}, {' '.join(map(str, row))}: {why}" for row, engine, why in failed]
    for line in crashed + complaints:
        print(f"table: {line}", file=sys.stderr)
    sys.exit(1 if crashed or complaints else 0)


if __name__ == "__main__":
    main()

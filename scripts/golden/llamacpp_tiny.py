"""Checks that llama.cpp computes the golden logits from the tiny GGUF files.

Proves that tiny_gguf.py follows llama.cpp's conventions (names, row order of q and k,
norms of Gemma 3, metadata). Writes nothing.

Requires: llama-cpp-python==0.3.36 (llama.cpp 0c1e57098), numpy, safetensors.
Command:  python scripts/golden/llamacpp_tiny.py crates/tamis/tests/golden/models
"""

import sys
from pathlib import Path

import llama_cpp
import numpy as np
from safetensors.numpy import load_file

# Weights and cache are f32, but llama.cpp looks GELU (gemma3) up in an f16 table; leaving out
# any part of a model changes its logits by more than 0.7.
TOLERANCE = 1e-2


def main():
    for file in sorted(Path(sys.argv[1]).glob("*/model.gguf")):
        golden = load_file(file.parent / "golden.safetensors")
        model = llama_cpp.Llama(
            str(file), n_ctx=64, n_threads=1, logits_all=True, verbose=False,
            type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32,
        )
        model.eval(golden["tokens"].tolist())
        logits = np.asarray(model.scores[: len(golden["tokens"])])
        worst = np.abs(logits - golden["logits"]).max()
        print(f"{file.parent.name}: largest difference {worst:.1e}, logits up to {np.abs(golden['logits']).max():.1f}")
        assert worst < TOLERANCE, file


if __name__ == "__main__":
    main()

"""Golden blocks of every GGUF type that tamis reads.

Writes crates/tamis-kernels/tests/golden/ggml_blocks.bin: for each type in the order
below, four blocks of random bytes (f16 fields made finite) followed by their weights
as little-endian f32, dequantised by the `gguf` package.

    python scripts/golden/ggml_blocks.py      # needs: pip install gguf==0.19.0 numpy
"""

import pathlib

import gguf
import numpy as np

TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
FLOATS = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}
BLOCKS = 4


def main():
    rng = np.random.default_rng(20261122)
    out = bytearray()
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        weights, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
        for at in FLOATS[name]:
            scale = rng.normal(0, 0.02, BLOCKS).astype("<f2")
            blocks[:, at : at + 2] = scale.view(np.uint8).reshape(BLOCKS, 2)
        values = gguf.dequantize(blocks.reshape(1, -1), kind).astype("<f4")
        assert values.size == BLOCKS * weights and np.isfinite(values).all()
        out += blocks.tobytes() + values.tobytes()
    here = pathlib.Path(__file__).resolve().parents[2]
    (here / "crates/tamis-kernels/tests/golden/ggml_blocks.bin").write_bytes(out)


main()

"""Writes crates/tamis/tests/golden/pack_quantized: a folder packed by compressed-tensors.

What the Rust tests hold it to: tamis reads these weights as the numbers that
compressed-tensors decompresses, and writes them again as the same bytes.

    python -m venv v && v/bin/pip install torch safetensors compressed-tensors==0.20.0
    v/bin/python scripts/golden/pack_quantized.py
"""

import json
import pathlib

import torch
from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parents[2] / "crates/tamis/tests/golden/pack_quantized"
# name, bits, group (None: one scale a row), symmetric. 13 rows leave the last word of
# packed zero points half empty; 96 columns hold 3-bit codes that straddle words.
LINEARS = [
    ("int4_g32_sym", 4, 32, True),
    ("int4_g32_asym", 4, 32, False),
    ("int8_row_sym", 8, None, True),
    ("int8_g32_asym", 8, 32, False),
    ("int3_g32_sym", 3, 32, True),
    ("int3_g32_asym", 3, 32, False),
    ("int2_g32_asym", 2, 32, False),
]
ROWS, COLS = 13, 96


def linear(bits, group, symmetric, generator):
    args = QuantizationArgs(
        num_bits=bits,
        type="int",
        symmetric=symmetric,
        strategy="group" if group else "channel",
        group_size=group,
    )
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    groups = COLS // group if group else 1
    low, high = -(1 << (bits - 1)), 1 << (bits - 1)
    scale = (torch.rand(ROWS, groups, generator=generator) * 0.1 + 0.01).half()
    zero = torch.randint(low, high, (ROWS, groups), generator=generator, dtype=torch.int8)
    if symmetric:
        zero.zero_()
    codes = torch.randint(low, high, (ROWS, COLS), generator=generator).float()
    each = COLS // groups
    weight = (codes - zero.repeat_interleave(each, 1)) * scale.float().repeat_interleave(each, 1)
    state = {"weight": weight.half(), "weight_scale": scale, "weight_zero_point": zero}
    packed = PackedQuantizationCompressor.compress(state, scheme)
    restored = PackedQuantizationCompressor.decompress(packed, scheme)
    return args, packed, restored["weight"]


def main():
    generator = torch.Generator().manual_seed(1)
    tensors, expected, groups = {}, {}, {}
    for index, (name, bits, group, symmetric) in enumerate(LINEARS):
        args, packed, weight = linear(bits, group, symmetric, generator)
        for suffix, tensor in packed.items():
            if tensor is not None:
                tensors[f"model.{name}.{suffix}"] = tensor.contiguous()
        expected[f"model.{name}.weight"] = weight.contiguous()
        weights = json.loads(args.model_dump_json())
        groups[f"group_{index}"] = {"targets": [f"model.{name}"], "weights": weights}
    OUT.mkdir(parents=True, exist_ok=True)
    save_file(tensors, OUT / "model.safetensors", metadata={"format": "pt"})
    save_file(expected, OUT / "expected.safetensors", metadata={"format": "pt"})
    quantization = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": ["lm_head"],
    }
    (OUT / "config.json").write_text(json.dumps({"quantization_config": quantization}, indent=1) + "\n")


main()

"""Reads an artifact with numpy alone and compares every weight, base and whole, exactly.

    TAMIS_ARTIFACT=/tmp/a cargo test -p tamis --lib write_for_other_programs -- --ignored
    python scripts/golden/check_artifact.py /tmp/a          # needs numpy, torch, safetensors

With transformers and compressed-tensors installed, the neighbour `/tmp/a-symmetric` is
also loaded by transformers, whose weights must be the base. Symmetric, because
compressed-tensors 0.20 does not shape packed zero points when transformers prepares a
model (`compress` returns early on the meta device), so no asymmetric folder loads there;
its decompression itself agrees: see pack_quantized.py.
"""

import json
import pathlib
import sys

import numpy as np
import torch
from safetensors import safe_open


def unpack(words, count, bits):
    """Codes of rows of little-endian words, low bits first."""
    stream = np.unpackbits(words.astype("<u4").view(np.uint8), axis=1, bitorder="little")
    stream = stream[:, : count * bits].reshape(len(words), count, bits).astype(np.int64)
    return (stream << np.arange(bits)).sum(axis=2)


def base(tensor, stem, entry):
    encoding = entry["encoding"]
    rows, cols = tensor(f"{stem}.weight_shape").tolist()
    bits, group = encoding["bits"], encoding["group"]
    codes = unpack(tensor(f"{stem}.weight_packed").numpy().view("<u4"), cols, bits)
    scale = tensor(f"{stem}.weight_scale").float().numpy()
    if encoding["symmetric"]:
        zero = np.full(scale.shape, 1 << (bits - 1))
    else:
        packed = tensor(f"{stem}.weight_zero_point").numpy().view("<u4")
        zero = unpack(np.ascontiguousarray(packed.T), rows, bits).T
    index = np.arange(cols) // group
    return (codes - zero[:, index]).astype(np.float32) * scale[:, index]


def whole(tensor, stem, weight):
    starts = tensor(f"{stem}.ortho_starts").numpy().astype(np.int64)
    rows = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    columns = tensor(f"{stem}.ortho_columns").numpy()
    weight = weight.copy()
    weight[rows, columns] += tensor(f"{stem}.ortho_values").float().numpy()
    return weight


def main(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    model = safe_open(folder / "model.safetensors", "pt")
    ortho = safe_open(folder / "ortho.safetensors", "pt")
    expected = {name: np.fromfile(folder.with_suffix(f".{name}.f32"), "<f4") for name in ("base", "whole")}
    at, bases = 0, {}
    for entry in sorted(manifest["tensors"], key=lambda e: e["name"]):
        name = entry["name"]
        stem = name.removesuffix(".weight")
        if entry["encoding"]["kind"] == "integers":
            plain = base(model.get_tensor, stem, entry)
            bases[name] = plain
            full = whole(ortho.get_tensor, stem, plain) if "ortho" in entry["encoding"] else plain
        else:
            full = plain = model.get_tensor(name).float().numpy()
        for key, ours in (("base", plain), ("whole", full)):
            assert np.array_equal(expected[key][at : at + ours.size], ours.ravel()), (name, key)
        at += full.size
    assert at == len(expected["base"])
    print(f"{folder}: {len(manifest['tensors'])} tensors agree, base and whole")
    return bases


def with_transformers(folder, bases):
    try:
        import compressed_tensors  # noqa: F401
        from transformers import AutoModelForCausalLM
    except ImportError as missing:
        print(f"not loaded by transformers: {missing}")
        return
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = torch.arange(8)[None]
    logits = model(tokens).logits
    assert torch.isfinite(logits).all()
    compared = 0
    for name, plain in bases.items():
        module = model.get_submodule(name.removesuffix(".weight"))
        weight = getattr(module, "weight", None)
        if weight is not None:
            # The library decompresses in the type of the scale, f16, or in f32.
            half = torch.from_numpy(plain).half().float()
            same = torch.equal(weight.float(), half) or np.array_equal(weight.detach().numpy(), plain)
            assert same, name
            compared += 1
    print(f"transformers: {compared} of {len(bases)} packed weights compared, {tuple(logits.shape)} logits")


path = pathlib.Path(sys.argv[1])
main(path)
symmetric = path.with_name(path.name + "-symmetric")
with_transformers(symmetric, main(symmetric))

"""A GGUF model as a bfloat16 Hugging Face folder, for PyTorch's side of run.sh.

The weights come from scripts/golden/smollm2_model.py: dequantised exactly, q and k rows put back
from llama.cpp's interleaved order. They go into a fresh LlamaForCausalLM, since transformers
refuses to save a model that it has read from GGUF. tokenizer.json is taken as given: transformers'
own conversion drops SmolLM2's splitting of digits. Knows Llama models with tied embeddings and
without a BOS token, and refuses others.

Requires: requirements.txt of this folder.
Command:  python bench/peers/gguf_to_hf.py MODEL.gguf tokenizer.json FOLDER
FOLDER appears when it is complete.
"""

import os
import shutil
import sys
from pathlib import Path

import gguf
import torch
from transformers import LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "golden"))
import smollm2_model  # noqa: E402


def refuse_others(path):
    reader = gguf.GGUFReader(path)
    architecture = smollm2_model.field(reader, "general.architecture")
    if architecture != "llama":
        sys.exit(f"{path}: architecture {architecture}; this script knows llama only")
    if any(tensor.name == "output.weight" for tensor in reader.tensors):
        sys.exit(f"{path}: has a head of its own; this script knows tied embeddings only")
    bos = reader.fields.get("tokenizer.ggml.add_bos_token")
    if bos is None or bos.contents():
        sys.exit(f"{path}: adds a BOS token, which torch_bench.py does not")


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    source, tokenizer, folder = sys.argv[1:]
    refuse_others(source)
    read, _ = smollm2_model.load(source)
    fresh = LlamaForCausalLM(read.config).to(torch.bfloat16)
    fresh.load_state_dict(read.state_dict())
    fresh.tie_weights()
    part = Path(f"{folder}.part")
    shutil.rmtree(part, ignore_errors=True)
    fresh.save_pretrained(part)
    shutil.copyfile(tokenizer, part / "tokenizer.json")
    os.replace(part, folder)
    print(f"{folder}: {sum(p.numel() for p in fresh.parameters())} parameters, bfloat16")


if __name__ == "__main__":
    main()

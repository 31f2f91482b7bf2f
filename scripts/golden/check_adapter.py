"""Loads an adapter that tamis wrote into Python peft and compares the logits.

    python scripts/golden/check_adapter.py ADAPTER MODEL LOGITS

MODEL is a Hugging Face folder, LOGITS a safetensors file with `tokens` (I64 [n]) and `logits` (F32 [n, vocab])
as tamis computes them. peft computes in float64. Fails where a logit is off by more than 1e-5 of the largest,
or where the adapter changes nothing.
"""

import sys
import warnings

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-5


def main(adapter, model, logits):
    warnings.filterwarnings("error", module="peft")  # peft only warns of keys that are missing or left over
    ours = load_file(logits)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64, attn_implementation="eager")
    tokens = ours["tokens"].long()[None]
    with torch.no_grad():
        plain = base(tokens, use_cache=False).logits[0]
        adapted = PeftModel.from_pretrained(base, adapter, autocast_adapter_dtype=False).double().eval()
        theirs = adapted(tokens, use_cache=False).logits[0]
    largest = theirs.abs().max().item()
    off = (theirs - ours["logits"].double()).abs().max().item() / largest
    effect = (theirs - plain).abs().max().item() / largest
    print(f"largest difference {off:.2e} of the largest logit; the adapter moves logits by {effect:.2e} of it")
    return 0 if off <= TOLERANCE < effect else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""Gradients of the tiny golden models by PyTorch, in float64 on the weights as stored.

    python scripts/golden/gradients.py crates/tamis/tests/golden/models

Writes gradients.safetensors beside each golden.safetensors: the mean cross-entropy of the next
token over the 24 golden tokens (`loss`) and its gradient with respect to every parameter
(`grad.NAME`); and the mean divergence from a teacher that is known by its 5 likeliest tokens and
the rest of its mass (`divergence`), whose gradients central differences check. The teacher's
logits are the golden ones, one position later, so that it disagrees with the student.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

TOP = 5


def divergence(logits, teacher):
    log_p = torch.log_softmax(teacher, -1)
    top, ids = log_p.topk(TOP, -1)
    log_q = torch.log_softmax(logits, -1)
    known = log_q.gather(-1, ids)
    rest_p = 1 - top.exp().sum(-1)
    rest_q = 1 - known.exp().sum(-1)
    return ((top.exp() * (top - known)).sum(-1) + rest_p * (rest_p / rest_q).log()).mean()


def main(root):
    for folder in sorted(p.parent for p in Path(root).glob("*/golden.safetensors")):
        golden = load_file(folder / "golden.safetensors")
        tokens = golden["tokens"].long()
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float64, attn_implementation="eager"
        )
        # torch gives the padding token's row no gradient, though the loss depends on it like on any other.
        model.get_input_embeddings().padding_idx = None
        logits = model(tokens[None], use_cache=False).logits[0]
        worst = (logits - golden["logits"].double()).abs().max().item()
        assert worst < 1e-4 * golden["logits"].abs().max().item(), (folder, worst)
        loss = torch.nn.functional.cross_entropy(logits[:-1], tokens[1:])
        loss.backward()
        out = {f"grad.{name}": p.grad.float().contiguous() for name, p in model.named_parameters()}
        teacher = golden["logits"].double().roll(1, 0)
        out["loss"] = loss.detach().float().reshape(1)
        out["divergence"] = divergence(logits, teacher).detach().float().reshape(1)
        save_file(out, folder / "gradients.safetensors", metadata={"torch": torch.__version__})
        print(folder.name, f"loss {loss.item():.6f}", len(out), "tensors")


if __name__ == "__main__":
    main(sys.argv[1])

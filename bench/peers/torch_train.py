"""Speed and memory of training in PyTorch on the CPU: one side of training.py.

Two methods: `lora`, adapters by PEFT (Hu 2021, arXiv 2106.09685) of rank 8 on q and v, frozen weights and
activations in bfloat16; `full`, all weights in float32. AdamW, sequences of real text, batch 1, sdpa
attention, no torch.compile, no padding. Clipping as tamis does it, to norm 1.

Requires: requirements.txt of this folder; FOLDER as gguf_to_hf.py leaves it; TEXT .txt or .jsonl.
Command:  python bench/peers/torch_train.py FOLDER --method lora --data TEXT --threads 2 --steps 6
Prints one JSON object: seconds and loss of each step after the first, and peak memory of the process.
The steps leave out imports, loading and tokenising, in PyTorch's favour.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import tokenizers
import torch
from transformers import AutoModelForCausalLM


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--method", choices=("lora", "full"), required=True)
    parser.add_argument("--dtype", choices=("bfloat16", "float32", "autocast"), help="default: bfloat16 for lora, float32 for full")
    parser.add_argument("--data", required=True)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, required=True)
    return parser.parse_args()


def sequences(args):
    """The first `steps` windows of the text, as many tokens each."""
    text = Path(args.data).read_text(encoding="utf-8")
    if args.data.endswith(".jsonl"):
        text = "\n\n".join(json.loads(line)["text"] for line in text.split("\n") if line)
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(args.folder) / "tokenizer.json"))
    ids = tokenizer.encode(text[: args.steps * args.length * 16], add_special_tokens=False).ids
    if len(ids) < args.steps * args.length:
        raise SystemExit(f"{args.data}: {len(ids)} tokens, {args.steps * args.length} needed")
    return torch.tensor(ids[: args.steps * args.length]).reshape(args.steps, 1, args.length)


def prepared(args):
    dtype = args.dtype or {"lora": "bfloat16", "full": "float32"}[args.method]
    stored = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(args.folder, dtype=stored)
    model.config.use_cache = False
    if args.method == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]))
    return model.train()


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    windows = sequences(args)
    model = prepared(args)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)
    seconds, losses = [], []
    for ids in windows:
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "autocast"):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
    print(json.dumps({
        "tokens": args.length,
        "seconds": seconds[1:],
        "losses": losses,
        "trained": sum(p.numel() for p in trained),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }))


if __name__ == "__main__":
    main()

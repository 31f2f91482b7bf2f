"""GPTQModel on the CPU: the maintained GPTQ implementation that `tamis compress` is timed against.

Its own defaults except what both must share: symmetric 4 bits in groups of 64, embedding and
head as they are. Calibration is the text of gptq_torch.py, cut the same way. Its error after
quantisation is left to `--save` and a perplexity of the saved weights.

Requires: gptqmodel==7.7.0 and what it asks for, besides the requirements of gptq_torch.py;
          in an environment of its own (it does not agree with peft).
Command:  GPTQMODEL_CPU_WORKERS=2 python bench/peers/gptqmodel_cpu.py
          --model SmolLM2-135M-Instruct.Q4_1.gguf --tokenizer-folder FOLDER
          --calibration c4.jsonl --samples 32 --length 512 --threads 2 [--save DIR]
The last line on stdout is JSON; seconds are those of `quantize` alone, without load and save.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import gptq_torch  # noqa: E402
from gptq_torch import smollm2_model  # noqa: E402


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokenizer-folder", required=True, help="with tokenizer.json")
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--save")
    args = parser.parse_args()
    args.tokenizer = str(Path(args.tokenizer_folder) / "tokenizer.json")
    return args


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    import gptqmodel
    from gptqmodel import GPTQModel, QuantizeConfig
    from transformers import PreTrainedTokenizerFast

    model, _ = smollm2_model.load(args.model)
    windows = gptq_torch.calibration(args, model.config.eos_token_id)
    with tempfile.TemporaryDirectory() as folder:
        model.to(getattr(torch, args.dtype)).save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_file=args.tokenizer).save_pretrained(folder)
        del model
        peer = GPTQModel.load(folder, QuantizeConfig(bits=4, group_size=64, sym=True), device="cpu")
        rows = [{"input_ids": w.tolist(), "attention_mask": [1] * len(w)} for w in windows]
        started = time.perf_counter()
        peer.quantize(rows, batch_size=1)
        seconds = time.perf_counter() - started
        if args.save:
            peer.save(args.save)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({
        "gptqmodel": gptqmodel.__version__, "torch": torch.__version__, "samples": args.samples,
        "length": args.length, "threads": args.threads, "seconds": round(seconds, 1), "peak_mib": round(peak),
    }))


if __name__ == "__main__":
    main()

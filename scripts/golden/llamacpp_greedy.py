"""What llama.cpp computes with SmolLM2: greedy tokens and its own perplexity protocol.

Adds `llamacpp` to smollm2.json (run smollm2.py first): for the dequantised weights as an
F32 GGUF with an f32 cache (comparable with transformers), and for the Q4_1 file itself
(llama.cpp rounds activations to 8 bits, so its tokens may differ at a near-tie): tokens of
the three prompts as llama.cpp splits them, the greedy continuations, where they first leave
transformers' and transformers' margin there; and the perplexity of the first ten windows of 512 tokens (--contexts for others).

Requires: llama-cpp-python==0.3.36 (llama.cpp 0c1e57098), gguf==0.19.0, numpy==2.4.6.
          Here llama.cpp was built with CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON
          -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_LLAMAFILE=OFF"; a native build with GCC 12
          dies with SIGILL on processors with AMX.
Command:  python scripts/golden/llamacpp_greedy.py --model SmolLM2-135M-Instruct.Q4_1.gguf
          --text wiki.test.raw --threads 2 --out crates/tamis/tests/golden/smollm2.json
"""

import argparse
import json
import math
import re
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from gguf.quants import dequantize

WINDOWS = 10


def write_f32(source, target):
    """The same file with every tensor as F32."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        part = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=part)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        data = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, data.reshape(tuple(int(n) for n in reversed(tensor.shape))))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def open_model(path, threads, context, cache):
    return llama_cpp.Llama(
        str(path), n_ctx=context, n_batch=context, n_ubatch=512, n_threads=threads, n_threads_batch=threads,
        logits_all=True, type_k=cache, type_v=cache, flash_attn=False, verbose=False,
    )


def greedy(model, prompt):
    tokens = model.tokenize(prompt["text"].encode(), add_bos=False, special=True)
    model.reset()
    model.eval(tokens)
    chosen = []
    for _ in prompt["greedy"]:
        chosen.append(int(np.argmax(model.scores[model.n_tokens - 1])))
        model.eval(chosen[-1:])
    theirs = prompt["greedy"]
    leaves = next((i for i, (a, b) in enumerate(zip(chosen, theirs)) if a != b), None)
    margin = None if leaves is None else prompt["greedy_margins"][leaves]
    print(prompt["name"], "same prompt tokens:", tokens == prompt["tokens"], "leaves transformers at", leaves, "margin", margin, flush=True)
    return {
        "name": prompt["name"], "same_prompt_tokens": tokens == prompt["tokens"], "greedy": chosen,
        "leaves_transformers_at": leaves, "transformers_margin_there": margin,
    }


def second_half_nll(model, window):
    model.reset()
    model.eval(window)
    first = len(window) // 2
    logits = np.asarray(model.scores[first : len(window) - 1], dtype=np.float64)
    peak = logits.max(axis=1)
    total = peak + np.log(np.exp(logits - peak[:, None]).sum(axis=1))
    return float((total - logits[np.arange(len(logits)), window[first + 1 :]]).sum())


def perplexity(model, text, context):
    ids = model.tokenize(text.encode(), add_bos=False, special=False)
    starts = range(0, WINDOWS * context, context)
    sums = [second_half_nll(model, ids[start : start + context]) for start in starts]
    count = WINDOWS * (context - context // 2 - 1)
    value = math.exp(math.fsum(sums) / count)
    print("perplexity", context, value, flush=True)
    return {"context": context, "windows": WINDOWS, "text_tokens": len(ids), "scored_tokens": count,
            "nll_sum": math.fsum(sums), "window_nll": sums, "perplexity": value}


def runs(args, f32):
    """What is measured: a description, a file, the type of its cache."""
    yield {"weights": "F32 (dequantised Q4_1/Q8_0)", "cache": "F32"}, f32, llama_cpp.GGML_TYPE_F32
    yield {"weights": "the Q4_1 file", "cache": "F16"}, args.model, llama_cpp.GGML_TYPE_F16


def dump(record):
    text = json.dumps(record, indent=1, ensure_ascii=False)
    return re.sub(r"\[\s+([-\d.,e\s]+?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text) + "\n"


def main():
    parser = argparse.ArgumentParser()
    for name in ("model", "text", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--contexts", type=int, nargs="*", default=[512])
    args = parser.parse_args()
    record = json.loads(args.out.read_text())
    results = []
    record["llamacpp"] = {
        "made_by": "scripts/golden/llamacpp_greedy.py",
        "versions": {"llama-cpp-python": llama_cpp.__version__, "llama.cpp": "0c1e57098"},
        "threads": args.threads, "flash_attention": False, "runs": results,
    }
    with tempfile.TemporaryDirectory() as folder:
        f32 = Path(folder) / "f32.gguf"
        write_f32(args.model, f32)
        for about, path, cache in runs(args, f32):
            model = open_model(path, args.threads, 512, cache)
            results.append({**about, "prompts": [greedy(model, p) for p in record["prompts"]], "perplexity": []})
            args.out.write_text(dump(record))
        text = args.text.read_bytes().decode()
        for context in args.contexts:
            for result, (_, path, cache) in zip(results, runs(args, f32)):
                model = open_model(path, args.threads, context, cache)
                result["perplexity"].append(perplexity(model, text, context))
                args.out.write_text(dump(record))


if __name__ == "__main__":
    main()

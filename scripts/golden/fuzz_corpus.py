"""Seed corpora of the fuzz targets: small valid files and known kinds of lies.

Writes fuzz/corpus/<target>/{ok,bad}_<what>. `crates/tamis/tests/fuzz_corpus.rs` replays
them: `ok_` must be read, `bad_` must be refused, nothing may panic.

    python scripts/golden/fuzz_corpus.py
"""

import json
import pathlib
import struct

ROOT = pathlib.Path(__file__).resolve().parents[2] / "fuzz/corpus"


def write(target, name, data):
    folder = ROOT / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def safetensors(header, data=0, length=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + bytes(data)


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors_corpus():
    two = {"a": tensor("F32", [2, 3], 0, 24), "b": tensor("BF16", [4], 24, 32)}
    write("safetensors", "ok_two", safetensors({"__metadata__": {"format": "pt"}, **two}, 32))
    write("safetensors", "ok_empty", safetensors({}))
    write("safetensors", "bad_truncated", safetensors(two, 31))
    write("safetensors", "bad_left_over", safetensors(two, 33))
    write("safetensors", "bad_header_2_60", safetensors(two, 32, 1 << 60))
    write("safetensors", "bad_shape_2_60", safetensors({"a": tensor("F32", [1 << 60], 0, 4)}, 4))
    write("safetensors", "bad_product", safetensors({"a": tensor("F32", [1 << 32, 1 << 32], 0, 0)}))
    write("safetensors", "bad_overlap", safetensors({**two, "b": tensor("BF16", [4], 20, 28)}, 32))
    write("safetensors", "bad_gap", safetensors({**two, "b": tensor("BF16", [4], 26, 34)}, 34))
    write("safetensors", "bad_backwards", safetensors({"a": tensor("F32", [1], 4, 0)}, 4))
    write("safetensors", "bad_dtype", safetensors({"a": tensor("Q4_0", [1], 0, 4)}, 4))
    twice = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' * 2
    write("safetensors", "bad_twice", safetensors(twice[:-1] + b"}", 4))
    write("safetensors", "bad_nested", safetensors(b'{"a":' + b"[" * 3000))
    write("safetensors", "bad_pickle", b"\x80\x02}q\x00.")


def index_corpus():
    def of(shard):
        return json.dumps({"metadata": {}, "weight_map": {"w": shard}})

    write("index", "ok_one", of("model-00001-of-00002.safetensors"))
    for name, shard in {
        "parent": "../x.safetensors", "absolute": "/etc/x.safetensors", "inside": "a/b.safetensors",
        "windows": "..\\x.safetensors", "drive": "C:x.safetensors", "pickle": "x.bin", "nul": "x\0.safetensors",
    }.items():
        write("index", f"bad_{name}", of(shard))
    write("index", "bad_empty", '{"weight_map":{}}')
    write("index", "bad_number", '{"weight_map":{"w":1}}')


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(pairs, tensors, data=b"", version=3, counts=None):
    tensor_count, pair_count = counts or (len(tensors), len(pairs))
    out = b"GGUF" + struct.pack("<IQQ", version, tensor_count, pair_count) + b"".join(pairs)
    for name, dims, kind, offset in tensors:
        out += text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
        out += struct.pack("<IQ", kind, offset)
    return out + bytes(-len(out) % 32) + data


def pair(key, kind, value):
    return text(key) + struct.pack("<I", kind) + value


def llama():
    number = lambda key, n: pair(f"llama.{key}", 4, struct.pack("<I", n))
    return [
        pair("general.architecture", 8, text("llama")), number("embedding_length", 32),
        number("feed_forward_length", 32), number("block_count", 1), number("attention.head_count", 2),
        number("vocab_size", 4),
        pair("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)),
        pair("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 2) + text("a") + text("b")),
        pair("tokenizer.ggml.scores", 9, struct.pack("<IQff", 6, 2, 0.0, -1.0)),
    ]


def gguf_corpus():
    one = [("w", [32, 2], 2, 0)]
    write("gguf", "ok_llama", gguf(llama(), one, bytes(36)))
    write("gguf", "ok_version_2", gguf(llama(), one, bytes(36), version=2))
    write("gguf", "bad_version_1", gguf(llama(), one, bytes(36), version=1))
    write("gguf", "bad_truncated", gguf(llama(), one, bytes(35)))
    write("gguf", "bad_tensors_2_60", gguf([], [], counts=(1 << 60, 0)))
    write("gguf", "bad_pairs_2_60", gguf([], [], counts=(0, 1 << 60)))
    write("gguf", "bad_string_2_60", gguf([pair("k", 8, struct.pack("<Q", 1 << 60))], []))
    write("gguf", "bad_array_2_60", gguf([pair("k", 9, struct.pack("<IQ", 4, 1 << 60))], []))
    write("gguf", "bad_nested_array", gguf([pair("k", 9, struct.pack("<IQ", 9, 1) * 500)], []))
    write("gguf", "bad_dims_2_32", gguf([], [("w", [1 << 32] * 4, 0, 0)]))
    write("gguf", "bad_five_dims", gguf([], [("w", [1] * 5, 0, 0)], bytes(4)))
    write("gguf", "bad_overlap", gguf([], [("v", [16], 0, 0), ("w", [16], 0, 32)], bytes(128)))
    write("gguf", "bad_offset_wraps", gguf([], [("w", [16], 0, (1 << 64) - 32)], bytes(64)))
    write("gguf", "bad_type", gguf([], [("w", [256], 20, 0)], bytes(256)))
    write("gguf", "bad_alignment", gguf([pair("general.alignment", 4, struct.pack("<I", 0))], []))


def chat_corpus():
    body = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content ~ '<|im_end|>' }}{% endfor %}"
    write("chat", "ok_chatml", body)
    double = "{% set ns=namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.s = OP %}{% endfor %}"
    for name, op in {
        "concat": "ns.s ~ ns.s", "add": "ns.s + ns.s", "join": "[ns.s, ns.s]|join(ns.s)",
        "replace": "ns.s|replace('a', ns.s)", "multiply": "ns.s * 2",
    }.items():
        write("chat", f"bad_{name}", double.replace("OP", op))
    write("chat", "bad_cycle", "{% set ns=namespace() %}{% set ns.x = ns %}{{ ns }}")
    write("chat", "bad_loop", "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")
    write("chat", "bad_include", "{% include '/etc/passwd' %}")
    write("chat", "bad_deep", "{{ " + "(" * 3000)


safetensors_corpus()
index_corpus()
gguf_corpus()
chat_corpus()

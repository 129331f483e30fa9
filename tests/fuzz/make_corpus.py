#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of the safetensors and GGUF fuzz targets to tests/fuzz/corpus. Standard library only."""

import json
import pathlib
import struct

U8, U32, F32, BOOL, STRING, ARRAY, U64 = 0, 4, 6, 7, 8, 9, 10


def safetensors(header, data_bytes):
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + bytes(range(256))[:data_bytes]


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def value(kind, content):
    if kind == STRING:
        return string(content)
    if kind == ARRAY:
        element, items = content
        return struct.pack("<IQ", element, len(items)) + b"".join(value(element, i) for i in items)
    return struct.pack({U8: "<B", U32: "<I", F32: "<f", BOOL: "<B", U64: "<Q"}[kind], content)


def gguf(metadata, tensors):
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, kind, content in metadata:
        head += string(key) + struct.pack("<I", kind) + value(kind, content)
    data = b""
    for name, dims, kind, size in tensors:  # dims innermost first
        head += string(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", d) for d in dims)
        head += struct.pack("<IQ", kind, len(data))
        data += b"\1" * size + b"\0" * (-size % 32)
    return head + b"\0" * (-len(head) % 32) + data


def model(arch, extra, tensors):
    metadata = [
        ("general.architecture", STRING, arch), (f"{arch}.block_count", U32, 1), (f"{arch}.context_length", U32, 8),
        (f"{arch}.embedding_length", U32, 4), (f"{arch}.feed_forward_length", U32, 4),
        (f"{arch}.attention.head_count", U32, 2), (f"{arch}.attention.layer_norm_rms_epsilon", F32, 1e-5),
    ]
    return gguf(metadata + extra, [("token_embd.weight", (4, 2), 0, 32), ("blk.0.attn_q.weight", (4, 4), 0, 64)] + tensors)


def main():
    corpus = pathlib.Path(__file__).parent / "corpus"
    seeds = {
        "safetensors/two.safetensors": safetensors({
            "__metadata__": {"format": "pt"},
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "b": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [8, 20]}}, 20),
        "safetensors/edges.safetensors": safetensors({
            "": {"dtype": "U8", "shape": [], "data_offsets": [0, 1]},
            "e\"\u00e9": {"dtype": "I64", "shape": [0, 9], "data_offsets": [1, 1]}}, 1),
        "safetensors/empty.safetensors": safetensors({}, 0),
        "gguf/values.gguf": gguf([
            ("general.alignment", U32, 32), ("s", STRING, "x"), ("f", F32, 0.5), ("b", BOOL, 1), ("w", U64, 1 << 40),
            ("strings", ARRAY, (STRING, ["a", ""])), ("nested", ARRAY, (ARRAY, [(U8, [1, 2]), (F32, [])]))], []),
        "gguf/llama.gguf": model("llama", [
            ("llama.rope.scaling.type", STRING, "yarn"), ("llama.rope.scaling.factor", F32, 4.0),
            ("llama.rope.scaling.original_context_length", U32, 4), ("tokenizer.ggml.model", STRING, "gpt2"),
            ("tokenizer.ggml.tokens", ARRAY, (STRING, ["a", "b"])), ("tokenizer.ggml.eos_token_id", U32, 1)],
            [("blk.0.ffn_gate.weight", (32, 4), 2, 72), ("output.weight", (4, 2), 0, 32)]),
        "gguf/qwen3moe.gguf": model("qwen3moe", [
            ("qwen3moe.expert_count", U32, 2), ("qwen3moe.expert_used_count", U32, 1),
            ("qwen3moe.expert_feed_forward_length", U32, 4)],
            [("blk.0.ffn_gate_inp.weight", (4, 2), 0, 32), ("blk.0.ffn_up_exps.weight", (4, 4, 2), 0, 128)]),
    }
    for name, content in seeds.items():
        path = corpus / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


if __name__ == "__main__":
    main()

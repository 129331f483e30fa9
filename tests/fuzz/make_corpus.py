#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of the safetensors, GGUF, weights, KV segment, config and transfer fuzz targets to tests/fuzz/corpus.
Standard library only."""

import json
import pathlib
import struct

U8, U32, F32, BOOL, STRING, ARRAY, U64 = 0, 4, 6, 7, 8, 9, 10


def safetensors(header, data_bytes, tail=b""):
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + bytes(range(256))[:data_bytes] + tail


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


def kv_segment_header():
    """As fuzz_kv_segment.cc wants it, which puts the checksum: two slots for pages of 512 bytes."""
    return b"HMKVSEGM" + struct.pack("<4I6Q", 1, 2, 16, 2, 512, 3, 4, 5, 4096, 4 * 4096)


def kv_segment_record(slot):
    return b"HKVB" + struct.pack("<I7Q", slot, 1, slot, 2, 3, 4, 0, 0)


def weights_table():
    """As fuzz_weights.cc wants it: the table of a file with 8192 bytes of data, in one block."""
    def text(content):
        return struct.pack("<I", len(content)) + content.encode()
    table = text("key") + struct.pack("<Q", 1) + text("/m.gguf") + struct.pack("<QQq", 5, 7, -1)
    table += struct.pack("<Q", 2)
    for name, form, rows, cols, offset in [("a", 8, 16, 256, 4096), ("b", 0, 3, 10, 8192)]:
        table += text(name) + struct.pack("<BiqqQ", form, 0, rows, cols, offset)
    table += struct.pack("<Q", 1) + text("norm") + struct.pack("<Qff", 2, 1.0, -2.5)
    return table + struct.pack("<QQ", 1, 0)


def transfers():
    """Segment descriptor and messages of docs/formats/transfer.md."""
    request = struct.pack("<BBHIQ16sQQQQ", 1, 0, 2, 7, 1, b"s" * 16, 0, 4096, 8192, 1)
    lease = struct.pack("<BBHIQ16sQQ", 3, 0, 1, 8, 1, b"s" * 16, 0, 1 << 20)
    secret = ",secret=" + "0f" * 16
    return {
        "transfer/descriptor.txt": ("hmseg1,id=1f,size=4096" + secret + ",shm=halfmoon-ab,tcp=[::1]:7001").encode(),
        "transfer/ipv4.txt": ("hmseg1,id=1,size=1" + secret + ",tcp=10.0.0.1:7001,quic=far").encode(),
        "transfer/requests": request + lease,
        "transfer/replies": struct.pack("<BBHIQQ", 1, 0, 0, 7, 4097, 0) + struct.pack("<BBHIQQ", 5, 0, 0, 0, 1, 0),
        "transfer/hello": struct.pack("<8sHB5x16s", b"HMTRANSF", 1, 2, b"n" * 16),
        "transfer/verdict": struct.pack("<B7x32s", 1, b"p" * 32),
    }


# As in fuzz_config.cc: the first byte of an input chooses the weights beside it.
CHECKPOINTS = ["llama/llama3_rope_untied", "qwen3_moe/norm_topk", "deepseek_v3/no_q_lora_no_yarn", "deepseek_v32/bf16",
               "minimax_m2/bf16", "bailing_moe_v2/one_group_qkv_bias", "glm4_moe/bf16_mtp"]
DESCRIPTION = 128


def configs():
    root = pathlib.Path(__file__).parents[2]
    for i, name in enumerate(CHECKPOINTS):
        config = json.loads((root / "tests" / "golden" / name / "config.json").read_text(encoding="utf-8"))
        yield f"config/{name.split('/')[0]}.json", bytes([i]) + json.dumps(config).encode()
    description = root / "examples" / "descriptions" / "glm4_moe.json"
    yield "config/description.json", bytes([DESCRIPTION + CHECKPOINTS.index("glm4_moe/bf16_mtp")]) + description.read_bytes()


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
        "safetensors/fp8.safetensors": safetensors({
            "a.weight": {"dtype": "F8_E4M3", "shape": [2, 3], "data_offsets": [0, 6]},
            "a.weight_scale_inv": {"dtype": "F32", "shape": [1, 1], "data_offsets": [6, 10]}}, 10),
        "safetensors/int4.safetensors": safetensors({
            "a.weight_packed": {"dtype": "I32", "shape": [1, 4], "data_offsets": [0, 16]},
            "a.weight_scale": {"dtype": "BF16", "shape": [1, 1], "data_offsets": [16, 18]},
            "a.weight_shape": {"dtype": "I32", "shape": [2], "data_offsets": [18, 26]}}, 18, b"\1\0\0\0\40\0\0\0"),
        "safetensors/int8.safetensors": safetensors({
            "a.weight_packed": {"dtype": "I32", "shape": [1, 8], "data_offsets": [0, 32]},
            "a.weight_scale": {"dtype": "F16", "shape": [1, 2], "data_offsets": [32, 36]},
            "a.weight_shape": {"dtype": "I32", "shape": [2], "data_offsets": [36, 44]}}, 36, b"\1\0\0\0\40\0\0\0"),
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
    seeds["weights/table.bin"] = weights_table()
    seeds["kv_segment/header.bin"] = kv_segment_header()
    seeds["kv_segment/records.bin"] = b"".join(kv_segment_record(slot) for slot in range(4))
    seeds.update(transfers())
    for name, content in [*seeds.items(), *configs()]:
        path = corpus / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Writes a GGUF file with random weights in the layer shape of a published model, for measuring speed without a download.

    python bench/make_moe_model.py --out moe.gguf [--shape qwen3_moe|deepseek_v3|deepseek_v3_attention] [--layers 8]
                                   [--heads N] [--type q4_0|q4_1|q8_0] [--seed 1] [--router-skew 1]

qwen3_moe is Qwen3-30B-A3B: hidden 2048, 32 heads and 4 KV heads of 128, 128 experts of 768 of which 8 are used.
deepseek_v3 is DeepSeek V3 scaled to fit: its attention (latents of 512 + 64, query latents of 1536, heads of 128 + 64
and 128), its routing (sigmoid, 8 groups of which 4 may be chosen from, 8 experts of a token) and a shared expert, with
hidden 2048 instead of 7168, 32 heads instead of 128, 64 experts of 1024 instead of 256 of 2048, and no dense layer.
deepseek_v3_attention is for its attention alone: 16 heads, query latents of 768, 16 experts of 768 of which 4 are used.
Vocabulary 49152 for all. Quantised blocks are random bytes under scales that keep each product near the size of its
input, so activations stay finite however many layers there are; norms are ones; the router is float32 noise, so experts
are chosen about evenly. A router skew of S multiplies each expert's row by a factor between 1/S and S, so that some are
chosen often and others hardly ever. With a 4-bit type the output matrix is Q6_K, as in published files. One tensor at a time is in
memory. Needs gguf and numpy: requirements.txt.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
import time

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type


@dataclasses.dataclass
class Shape:
    """Sizes of the layers. Latent attention has q_rank > 0; the others of its sizes are those of DeepSeek V3."""

    architecture: str
    title: str
    heads: int
    experts: int
    experts_used: int
    kv_heads: int = 0
    q_rank: int = 0
    expert_groups: int = 0  # 0: none
    groups_used: int = 0
    hidden: int = 2048
    expert_ffn: int = 768
    head_dim: int = 128  # of values, and of keys without the rotated part
    latent: int = 512
    rotary: int = 64
    context: int = 32768


SHAPES = {
    "qwen3_moe": Shape("qwen3moe", "Qwen3-MoE", heads=32, kv_heads=4, experts=128, experts_used=8),
    "deepseek_v3": Shape("deepseek2", "DeepSeek-V3", heads=32, q_rank=1536, experts=64, experts_used=8, expert_groups=8,
                         groups_used=4, expert_ffn=1024, context=163840),
    "deepseek_v3_attention": Shape("deepseek2", "DeepSeek-V3 attention", heads=16, q_rank=768, experts=16,
                                   experts_used=4, context=163840),
}
VOCABULARY = 49152
CONTROL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

FILE_TYPES = {
    Type.Q4_0: gguf.LlamaFileType.MOSTLY_Q4_0,
    Type.Q4_1: gguf.LlamaFileType.MOSTLY_Q4_1,
    Type.Q8_0: gguf.LlamaFileType.MOSTLY_Q8_0,
}


def halves(rng, count, size):
    """`count` float16 of about `size` and either sign, as bytes [count, 2]: block scales of a matrix around zero."""
    values = size * rng.uniform(0.75, 1.25, count) * rng.choice([-1.0, 1.0], count)
    return values.astype("<f2").view(np.uint8).reshape(count, 2)


def random_blocks(rng, kind, count, deviation):
    """`count` blocks whose weights have about the given standard deviation, as bytes [count, bytes of one block]."""
    block = np.empty((count, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8)
    if kind == Type.Q4_0:  # scale, 16 bytes; (0..15) - 8 deviates by 4.6
        block[:, :2] = halves(rng, count, deviation / 4.6)
        block[:, 2:] = rng.integers(0, 256, (count, 16), np.uint8)
    elif kind == Type.Q4_1:  # scale, minimum, 16 bytes
        block[:, :2] = halves(rng, count, deviation / 4.6)
        scale = block[:, :2].copy().view("<f2")
        block[:, 2:4] = (scale * np.float16(-7.5)).view(np.uint8)
        block[:, 4:] = rng.integers(0, 256, (count, 16), np.uint8)
    elif kind == Type.Q8_0:  # scale, 32 bytes; encoders never write -128, and kernels may rely on it
        block[:, :2] = halves(rng, count, deviation / 73.3)
        block[:, 2:] = rng.integers(-127, 128, (count, 32), np.int8).view(np.uint8)
    elif kind == Type.Q6_K:  # 192 bytes, 16 scales of int8, scale; (0..63) - 32 deviates by 18.5
        block[:, :192] = rng.integers(0, 256, (count, 192), np.uint8)
        block[:, 192:208] = rng.integers(48, 128, (count, 16), np.int8).view(np.uint8)
        block[:, 208:] = halves(rng, count, deviation / (18.5 * 90.0))
    else:
        raise ValueError(f"no random blocks of {kind.name}")
    return block


class Tensor:
    """A tensor that is made when it is written. `shape` is outermost first; `kind` is F32 or a quantised type."""

    def __init__(self, name, shape, kind, fill=None, skew=1.0):
        self.name = name
        self.shape = shape
        self.kind = kind
        self.fill = fill
        self.skew = skew

    def byte_shape(self):
        values, size = gguf.GGML_QUANT_SIZES[self.kind]
        return (*self.shape[:-1], self.shape[-1] // values * size)

    def make(self, rng):
        deviation = 1.0 / np.sqrt(self.shape[-1])  # A product of such rows with a unit vector has unit size.
        if self.fill is not None:
            return np.full(self.shape, self.fill, np.float32)
        if self.kind == Type.F32:
            factors = 1.0 if self.skew == 1.0 else self.skew ** rng.uniform(-1.0, 1.0, (self.shape[0], 1))
            return (rng.standard_normal(self.shape) * deviation * factors).astype(np.float32)
        count = int(np.prod(self.shape)) // gguf.GGML_QUANT_SIZES[self.kind][0]
        return random_blocks(rng, self.kind, count, deviation).reshape(self.byte_shape())


def norm(name, width):
    return Tensor(name, (width,), Type.F32, fill=1.0)


def grouped_attention(at, shape, kind):
    width = shape.heads * shape.head_dim
    yield Tensor(at + "attn_q.weight", (width, shape.hidden), kind)
    yield Tensor(at + "attn_k.weight", (shape.kv_heads * shape.head_dim, shape.hidden), kind)
    yield Tensor(at + "attn_v.weight", (shape.kv_heads * shape.head_dim, shape.hidden), kind)
    yield norm(at + "attn_q_norm.weight", shape.head_dim)
    yield norm(at + "attn_k_norm.weight", shape.head_dim)


def latent_attention(at, shape, kind):
    key = shape.head_dim + shape.rotary
    yield Tensor(at + "attn_q_a.weight", (shape.q_rank, shape.hidden), kind)
    yield norm(at + "attn_q_a_norm.weight", shape.q_rank)
    yield Tensor(at + "attn_q_b.weight", (shape.heads * key, shape.q_rank), kind)
    yield Tensor(at + "attn_kv_a_mqa.weight", (shape.latent + shape.rotary, shape.hidden), kind)
    yield norm(at + "attn_kv_a_norm.weight", shape.latent)
    yield Tensor(at + "attn_k_b.weight", (shape.heads, shape.latent, shape.head_dim), kind)
    yield Tensor(at + "attn_v_b.weight", (shape.heads, shape.head_dim, shape.latent), kind)


def experts(at, shape, kind):
    for suffix, stacked in (("_exps", (shape.experts,)), ("_shexp", ())):
        if suffix == "_shexp" and not shape.q_rank:
            continue
        yield Tensor(f"{at}ffn_gate{suffix}.weight", (*stacked, shape.expert_ffn, shape.hidden), kind)
        yield Tensor(f"{at}ffn_up{suffix}.weight", (*stacked, shape.expert_ffn, shape.hidden), kind)
        yield Tensor(f"{at}ffn_down{suffix}.weight", (*stacked, shape.hidden, shape.expert_ffn), kind)


def tensors(shape, layers, kind, skew):
    yield Tensor("token_embd.weight", (VOCABULARY, shape.hidden), kind)
    yield norm("output_norm.weight", shape.hidden)
    yield Tensor("output.weight", (VOCABULARY, shape.hidden), kind if kind == Type.Q8_0 else Type.Q6_K)
    for layer in range(layers):
        at = f"blk.{layer}."
        yield norm(at + "attn_norm.weight", shape.hidden)
        yield from (latent_attention if shape.q_rank else grouped_attention)(at, shape, kind)
        yield Tensor(at + "attn_output.weight", (shape.hidden, shape.heads * shape.head_dim), kind)
        yield norm(at + "ffn_norm.weight", shape.hidden)
        yield Tensor(at + "ffn_gate_inp.weight", (shape.experts, shape.hidden), Type.F32, skew=skew)
        if shape.q_rank:
            yield Tensor(at + "exp_probs_b.bias", (shape.experts,), Type.F32, fill=0.0)
        yield from experts(at, shape, kind)


def byte_characters():
    """The 256 characters that stand for bytes in byte-level vocabularies: printable ones for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [table[byte] for byte in range(256)]


def add_vocabulary(writer):
    """256 bytes, merges of two bytes each, and control tokens at the end: 49152 in all, each reachable."""
    characters = byte_characters()
    count = VOCABULARY - len(characters) - len(CONTROL_TOKENS)
    pairs = [(characters[i // 256], characters[i % 256]) for i in range(count)]
    tokens = characters + [left + right for left, right in pairs] + CONTROL_TOKENS
    normal = VOCABULARY - len(CONTROL_TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * normal + [gguf.TokenType.CONTROL] * len(CONTROL_TOKENS))
    writer.add_token_merges([f"{left} {right}" for left, right in pairs])
    writer.add_eos_token_id(VOCABULARY - 1)
    writer.add_pad_token_id(normal)
    writer.add_add_bos_token(False)


def add_latent_metadata(writer, shape):
    writer.add_head_count_kv(1)
    writer.add_q_lora_rank(shape.q_rank)
    writer.add_kv_lora_rank(shape.latent)
    writer.add_rope_dimension_count(shape.rotary)
    writer.add_key_length(shape.latent + shape.rotary)
    writer.add_value_length(shape.latent)
    writer.add_key_length_mla(shape.head_dim + shape.rotary)
    writer.add_value_length_mla(shape.head_dim)
    writer.add_leading_dense_block_count(0)
    writer.add_expert_shared_count(1)
    writer.add_expert_weights_norm(True)
    writer.add_expert_weights_scale(1.0)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if shape.expert_groups:
        writer.add_expert_group_count(shape.expert_groups)
        writer.add_expert_group_used_count(shape.groups_used)


def add_metadata(writer, shape, layers, kind):
    writer.add_name(f"random {shape.title} shape, {layers} layers, {kind.name}")
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.expert_ffn * shape.experts_used)
    writer.add_head_count(shape.heads)
    if shape.q_rank:
        add_latent_metadata(writer, shape)
    else:
        writer.add_head_count_kv(shape.kv_heads)
        writer.add_key_length(shape.head_dim)
        writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_expert_count(shape.experts)
    writer.add_expert_used_count(shape.experts_used)
    writer.add_expert_feed_forward_length(shape.expert_ffn)
    writer.add_vocab_size(VOCABULARY)


def write(path, shape, layers, kind, seed, skew):
    writer = gguf.GGUFWriter(path, shape.architecture)
    add_metadata(writer, shape, layers, kind)
    add_vocabulary(writer)
    wanted = list(tensors(shape, layers, kind, skew))
    for tensor in wanted:
        if tensor.kind == Type.F32:
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), 4 * int(np.prod(tensor.shape)))
        else:
            shape = tensor.byte_shape()
            writer.add_tensor_info(tensor.name, shape, np.dtype(np.uint8), int(np.prod(shape)), raw_dtype=tensor.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(seed)
    began = shown = time.monotonic()
    for index, tensor in enumerate(wanted):
        writer.write_tensor_data(tensor.make(rng))
        if time.monotonic() - shown > 2:
            shown = time.monotonic()
            print(f"[{shown - began:.0f} s] {index + 1} of {len(wanted)} tensors", file=sys.stderr)
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the file to write")
    parser.add_argument("--shape", choices=list(SHAPES), default="qwen3_moe")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--heads", type=int, help="query heads (default: what the shape has)")
    parser.add_argument("--type", choices=[kind.name.lower() for kind in FILE_TYPES], default="q4_0")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--router-skew", type=float, default=1.0, metavar="S")
    options = parser.parse_args()
    if options.layers < 1:
        parser.error("--layers has to be at least 1")
    shape = SHAPES[options.shape]
    if options.heads is not None:
        shape = dataclasses.replace(shape, heads=options.heads)
    if shape.heads < 1 or (shape.kv_heads and shape.heads % shape.kv_heads):
        parser.error(f"--heads {shape.heads}: expected a positive multiple of the {max(1, shape.kv_heads)} KV heads")
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        # Renamed when whole, so that an interrupted run leaves no half file under the name.
        partial = options.out.with_name(options.out.name + ".partial")
        write(partial, shape, options.layers, Type[options.type.upper()], options.seed, options.router_skew)
        os.replace(partial, options.out)
    except OSError as error:
        print(f"error: cannot write {options.out}: {error.strerror or error}", file=sys.stderr)
        return 1
    print(f"{options.out}: {options.out.stat().st_size / 1e9:.2f} GB", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a folder with random bf16 weights in the layer shape of DeepSeek V3.2, scaled to fit, for measuring sparse
attention at depth without a download.

    python bench/make_sparse_model.py --out build/v32 [--layers 2] [--heads 16] [--index-heads 64] [--top-k 2048]
                                      [--fp8] [--seed 1]

Attention is that of DeepSeek V3.2 but for the number of heads: latents of 512 + 64, heads of 128 + 64 and 128, index
keys of 128. Around it: hidden 2048, query latents of 768, 64 experts of 512 of which 8 are used and a shared one, no
dense layer, vocabulary 4096. Weights are normal noise under the inverse root of a row's length, so activations stay
finite; norms are ones. --fp8: projections and experts in float8 with a scale for each block of 128 by 128, as
published; the router, embeddings and the output stay bf16. Safetensors, because GGUF has no name for this
architecture. One tensor at a time is in memory. Needs numpy.
"""

import argparse
import json
import pathlib
import struct
import sys

import numpy as np

VOCABULARY = 4096
HIDDEN = 2048
Q_RANK, LATENT, NOPE, ROPE, VALUE, INDEX = 768, 512, 128, 64, 128, 128
EXPERTS, EXPERTS_USED, EXPERT_FFN = 64, 8, 512
BLOCK = 128
FP8 = ("q_a_proj", "q_b_proj", "kv_a_proj", "kv_b_proj", "o_proj", "indexer.wq_b", "indexer.wk", "experts.")
# What the 127 codes from 0 on of float8 E4M3 stand for.
E4M3 = np.array([(c % 8) / 512 if c < 8 else (1 + c % 8 / 8) * 2.0 ** (c // 8 - 7) for c in range(127)], np.float32)


def config(options):
    quantization = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                    "weight_block_size": [BLOCK, BLOCK]}
    return {
        "architectures": ["DeepseekV32ForCausalLM"], "model_type": "deepseek_v32", "hidden_act": "silu",
        "attention_bias": False, "max_position_embeddings": 163840, "rms_norm_eps": 1e-6, "rope_theta": 10000,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": VOCABULARY, "hidden_size": HIDDEN,
        "intermediate_size": EXPERT_FFN, "num_hidden_layers": options.layers, "num_attention_heads": options.heads,
        "num_key_value_heads": options.heads, "q_lora_rank": Q_RANK, "kv_lora_rank": LATENT, "qk_nope_head_dim": NOPE,
        "qk_rope_head_dim": ROPE, "v_head_dim": VALUE, "index_head_dim": INDEX, "index_n_heads": options.index_heads,
        "index_topk": options.top_k, "n_routed_experts": EXPERTS, "num_experts_per_tok": EXPERTS_USED,
        "n_shared_experts": 1, "moe_intermediate_size": EXPERT_FFN, "first_k_dense_replace": 0, "n_group": 1,
        "topk_group": 1, "norm_topk_prob": True, "routed_scaling_factor": 1.0, "scoring_func": "sigmoid",
        "topk_method": "noaux_tc", **({"quantization_config": quantization} if options.fp8 else {}),
    }


def tensors(options):
    """(name, shape, fill) of each; fill None is noise. Biases and index norms are float32, as published."""
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN), None
    yield "model.norm.weight", (HIDDEN,), 1.0
    yield "lm_head.weight", (VOCABULARY, HIDDEN), None
    for layer in range(options.layers):
        at = f"model.layers.{layer}."
        attention, mlp = at + "self_attn.", at + "mlp."
        yield at + "input_layernorm.weight", (HIDDEN,), 1.0
        yield at + "post_attention_layernorm.weight", (HIDDEN,), 1.0
        yield attention + "q_a_proj.weight", (Q_RANK, HIDDEN), None
        yield attention + "q_a_layernorm.weight", (Q_RANK,), 1.0
        yield attention + "q_b_proj.weight", (options.heads * (NOPE + ROPE), Q_RANK), None
        yield attention + "kv_a_proj_with_mqa.weight", (LATENT + ROPE, HIDDEN), None
        yield attention + "kv_a_layernorm.weight", (LATENT,), 1.0
        yield attention + "kv_b_proj.weight", (options.heads * (NOPE + VALUE), LATENT), None
        yield attention + "o_proj.weight", (HIDDEN, options.heads * VALUE), None
        yield attention + "indexer.wq_b.weight", (options.index_heads * INDEX, Q_RANK), None
        yield attention + "indexer.wk.weight", (INDEX, HIDDEN), None
        yield attention + "indexer.k_norm.weight", (INDEX,), 1.0
        yield attention + "indexer.k_norm.bias", (INDEX,), 0.0
        yield attention + "indexer.weights_proj.weight", (options.index_heads, HIDDEN), None
        yield mlp + "gate.weight", (EXPERTS, HIDDEN), None
        yield mlp + "gate.e_score_correction_bias", (EXPERTS,), 0.0
        for expert in [f"experts.{i}." for i in range(EXPERTS)] + ["shared_experts."]:
            yield mlp + expert + "gate_proj.weight", (EXPERT_FFN, HIDDEN), None
            yield mlp + expert + "up_proj.weight", (EXPERT_FFN, HIDDEN), None
            yield mlp + expert + "down_proj.weight", (HIDDEN, EXPERT_FFN), None


def is_f32(name):
    return "k_norm" in name or "e_score" in name


def is_fp8(name):
    return any(part in name for part in FP8)


def stored(options):
    """(name, dtype, bytes a value, shape) of everything in the file, in the order of make()."""
    for name, shape, _ in tensors(options):
        if options.fp8 and is_fp8(name):
            yield name, "F8_E4M3", 1, shape
            yield name + "_scale_inv", "F32", 4, tuple(-(-size // BLOCK) for size in shape)
        elif is_f32(name):
            yield name, "F32", 4, shape
        else:
            yield name, "BF16", 2, shape


def fp8(values):
    """Codes, and scales of blocks."""
    rows, columns = values.shape
    scales = np.empty((-(-rows // BLOCK), -(-columns // BLOCK)), np.float32)
    codes = np.empty(values.shape, np.uint8)
    between = (E4M3[1:] + E4M3[:-1]) / 2
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            at = slice(i * BLOCK, (i + 1) * BLOCK), slice(j * BLOCK, (j + 1) * BLOCK)
            scales[i, j] = np.abs(values[at]).max() / E4M3[-1]
            scaled = values[at] / scales[i, j]
            codes[at] = np.searchsorted(between, np.abs(scaled)) | np.signbit(scaled).astype(np.uint8) << 7
    return codes, scales


def make(rng, options, name, shape, fill):
    """The arrays of a tensor."""
    if fill is None:
        values = rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[-1]))
    else:
        values = np.full(shape, fill, np.float32)
    if options.fp8 and is_fp8(name):
        return fp8(values)
    return [values if is_f32(name) else (values.view(np.uint32) >> 16).astype("<u2")]


def write(options):
    header, offset = {}, 0
    for name, dtype, size_bytes, shape in stored(options):
        size = int(np.prod(shape)) * size_bytes
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    options.out.mkdir(parents=True, exist_ok=True)
    partial = options.out / "model.safetensors.partial"
    rng = np.random.default_rng(options.seed)
    with open(partial, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape, fill in tensors(options):
            for array in make(rng, options, name, shape, fill):
                file.write(array.tobytes())
    partial.rename(options.out / "model.safetensors")  # Under its name when it is whole.
    (options.out / "config.json").write_text(json.dumps(config(options), indent=1) + "\n")
    return offset


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the folder to write")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--index-heads", type=int, default=64)
    parser.add_argument("--top-k", type=int, default=2048, help="keys that the indexer chooses for a query")
    parser.add_argument("--fp8", action="store_true", help="projections and experts in float8")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if min(options.layers, options.heads, options.index_heads, options.top_k) < 1:
        parser.error("counts have to be at least 1")
    try:
        size = write(options)
    except OSError as error:
        print(f"error: cannot write {options.out}: {error.strerror or error}", file=sys.stderr)
        return 1
    print(f"{options.out}: {size / 1e9:.2f} GB", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

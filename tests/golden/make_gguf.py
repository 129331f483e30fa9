# SPDX-License-Identifier: Apache-2.0
"""Converts a small checkpoint folder to GGUF, as the public converter does: names, metadata, permutations, tokenizer.

    pip install gguf==0.19.0
    python make_gguf.py CHECKPOINT OUT.gguf [--fused-kv-b] [--joint-experts]

Names come from the package's own table, so that it, and not this repository, says what files look like. Weights stay
what they are; vectors and routers become float32. Quantised checkpoints (FP8, INT4) are not converted.
"""

import argparse
import base64
import json
import math
import pathlib
import re

import gguf
import numpy as np

FAMILIES = {
    # model_type: (architecture, its table of names, tokenizer.ggml.pre)
    "llama": ("llama", gguf.MODEL_ARCH.LLAMA, "smollm"),
    "mixtral": ("llama", gguf.MODEL_ARCH.LLAMA, ""),
    "qwen3": ("qwen3", gguf.MODEL_ARCH.QWEN3, "qwen2"),
    "qwen3_moe": ("qwen3moe", gguf.MODEL_ARCH.QWEN3MOE, "qwen2"),
    "deepseek_v3": ("deepseek2", gguf.MODEL_ARCH.DEEPSEEK2, "deepseek-v3"),
    "kimi_k2": ("deepseek2", gguf.MODEL_ARCH.DEEPSEEK2, "kimi-k2"),
    # The package does not know the architecture yet; its tensors are those of GLM-5.
    "deepseek_v32": ("deepseek32", gguf.MODEL_ARCH.GLM_DSA, "deepseek-v3"),
    "bailing_moe_v2": ("bailingmoe2", gguf.MODEL_ARCH.BAILINGMOE2, "bailingmoe2"),
    "minimax_m2": ("minimax-m2", gguf.MODEL_ARCH.MINIMAXM2, "minimax-m2"),
    "glm4_moe": ("glm4moe", gguf.MODEL_ARCH.GLM4_MOE, "glm4"),
}
NUMPY_TYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
EXPERT = re.compile(r"(model\.layers\.\d+\..+\.experts)\.(\d+)\.(\w+)\.weight")


def read_tensors(folder):
    """{name: (dtype, array)}; bfloat16 as its bits."""
    tensors = {}
    for path in sorted(folder.glob("model*.safetensors")):
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        for name, entry in json.loads(data[8:8 + size]).items():
            if name == "__metadata__":
                continue
            if entry["dtype"] not in NUMPY_TYPES:
                raise SystemExit(f"{name}: {entry['dtype']} is not converted")
            begin, end = entry["data_offsets"]
            array = np.frombuffer(data[8 + size + begin:8 + size + end], NUMPY_TYPES[entry["dtype"]])
            tensors[name] = entry["dtype"], array.reshape(entry["shape"])
    return tensors


def as_float32(dtype, array):
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


class Converter:
    def __init__(self, folder, out, fused_kv_b, joint_experts, split_max_tensors):
        self.folder, self.fused_kv_b, self.joint_experts = folder, fused_kv_b, joint_experts
        self.config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.model_type = self.config["model_type"]
        self.architecture, table, self.pre = FAMILIES[self.model_type]
        self.layers = self.config["num_hidden_layers"]
        self.draft_layers = self.config.get("num_nextn_predict_layers") or 0
        if self.architecture == "deepseek2":
            self.draft_layers = 0  # left out by the public converter
        self.latent = "kv_lora_rank" in self.config
        self.names = gguf.get_tensor_name_map(table, self.layers + self.draft_layers)
        self.writer = gguf.GGUFWriter(out, self.architecture, split_max_tensors=split_max_tensors)

    def first(self, *keys):
        return next((self.config[key] for key in keys if self.config.get(key) is not None), None)

    # Metadata

    def add_metadata(self):
        c, w = self.config, self.writer
        w.add_block_count(self.layers + self.draft_layers)
        w.add_context_length(c["max_position_embeddings"])
        w.add_embedding_length(c["hidden_size"])
        w.add_feed_forward_length(c["intermediate_size"])
        w.add_head_count(c["num_attention_heads"])
        w.add_layer_norm_rms_eps(c["rms_norm_eps"])
        w.add_rope_freq_base(float(c.get("rope_theta") or c.get("rope_parameters", {}).get("rope_theta", 10000.0)))
        w.add_vocab_size(c["vocab_size"])
        if c.get("sliding_window"):
            w.add_sliding_window(c["sliding_window"])
        if self.latent:
            self.add_latent_metadata()
        else:
            head_dim = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
            w.add_head_count_kv(c["num_key_value_heads"])
            w.add_key_length(head_dim)
            w.add_value_length(head_dim)
            partial = 0.5 if self.model_type in ("bailing_moe_v2", "glm4_moe") else 1.0
            w.add_rope_dimension_count(c.get("rotary_dim") or int(head_dim * c.get("partial_rotary_factor", partial)))
        self.add_rope_scaling()
        self.add_expert_metadata()

    def add_latent_metadata(self):
        c, w = self.config, self.writer
        key, value = c["qk_nope_head_dim"] + c["qk_rope_head_dim"], c["v_head_dim"]
        if c.get("q_lora_rank"):
            w.add_q_lora_rank(c["q_lora_rank"])
        w.add_kv_lora_rank(c["kv_lora_rank"])
        w.add_rope_dimension_count(c["qk_rope_head_dim"])
        if self.fused_kv_b:
            w.add_head_count_kv(c["num_attention_heads"])
            w.add_key_length(key)
            w.add_value_length(value)
        else:
            w.add_head_count_kv(1)
            w.add_key_length(c["kv_lora_rank"] + c["qk_rope_head_dim"])
            w.add_value_length(c["kv_lora_rank"])
            w.add_key_length_mla(key)
            w.add_value_length_mla(value)
        if "index_topk" in c:
            w.add_indexer_head_count(c["index_n_heads"])
            w.add_indexer_key_length(c["index_head_dim"])
            w.add_indexer_top_k(c["index_topk"])

    def add_rope_scaling(self):
        scaling = self.config.get("rope_scaling") or self.config.get("rope_parameters") or {}
        kind = scaling.get("rope_type", scaling.get("type"))
        if kind == "llama3":
            self.writer.add_tensor("rope_freqs.weight", self.llama3_factors(scaling))
        if kind != "yarn":
            return
        w = self.writer
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        w.add_rope_scaling_factor(scaling["factor"])
        w.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        if not self.fused_kv_b:
            w.add_rope_scaling_yarn_beta_fast(scaling["beta_fast"])
            w.add_rope_scaling_yarn_beta_slow(scaling["beta_slow"])
        if "mscale_all_dim" in scaling:
            w.add_rope_scaling_yarn_log_mul(0.1 * scaling["mscale_all_dim"])

    def llama3_factors(self, scaling):
        dim = self.config.get("head_dim") or self.config["hidden_size"] // self.config["num_attention_heads"]
        theta, positions = self.config["rope_theta"], scaling["original_max_position_embeddings"]
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        factors = []
        for i in range(0, dim, 2):
            wavelength = 2 * math.pi * theta ** (i / dim)
            smooth = min(max((positions / wavelength - low) / (high - low), 0.0), 1.0)
            factors.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
        return np.array(factors, np.float32)

    def add_expert_metadata(self):
        c, w = self.config, self.writer
        experts = self.first("n_routed_experts", "num_experts", "num_local_experts")
        if not experts:
            return
        w.add_expert_count(experts)
        w.add_expert_used_count(c["num_experts_per_tok"])
        if self.model_type == "mixtral":
            return
        w.add_expert_feed_forward_length(self.first("moe_intermediate_size", "intermediate_size"))
        if self.first("scoring_func", "score_function") == "sigmoid" or self.model_type == "glm4_moe":
            w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
        if c.get("norm_topk_prob") is not None and (c["norm_topk_prob"] or not self.latent):
            w.add_expert_weights_norm(c["norm_topk_prob"])
        if c.get("routed_scaling_factor") is None:
            return
        w.add_expert_weights_scale(c["routed_scaling_factor"])
        w.add_leading_dense_block_count(c["first_k_dense_replace"])
        shared = self.first("n_shared_experts", "num_shared_experts")
        w.add_expert_shared_count(shared)
        if "moe_shared_expert_intermediate_size" in c:
            w.add_expert_shared_feed_forward_length(c["moe_shared_expert_intermediate_size"])
        w.add_expert_group_count(c["n_group"])
        w.add_expert_group_used_count(c["topk_group"])
        if self.draft_layers:
            w.add_nextn_predict_layers(self.draft_layers)

    # Tensors

    def permute(self, name, array):
        """Rows of q and k into rotation pairs, for architecture llama."""
        heads = self.config["num_attention_heads" if ".q_proj." in name else "num_key_value_heads"]
        paired = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
        return np.ascontiguousarray(paired.swapaxes(1, 2)).reshape(array.shape)

    def split_kv_b(self, array):
        c = self.config
        heads, key = c["num_attention_heads"], c["qk_nope_head_dim"]
        both = array.reshape(heads, key + c["v_head_dim"], array.shape[-1])
        return np.ascontiguousarray(both[:, :key].transpose(0, 2, 1)), np.ascontiguousarray(both[:, key:])

    def add(self, name, dtype, array):
        name = re.sub(r"e_score_correction_bias$", "e_score_correction.bias", name)
        name = re.sub(r"expert_bias$", "expert_bias.bias", name)
        if name.endswith(".indexer.weights_proj.weight"):  # in the package's table under another spelling
            new_name = re.sub(r"model\.layers\.(\d+)\.self_attn\.indexer\.weights_proj", r"blk.\1.indexer.proj", name)
        else:
            new_name = self.names.get_name(name, try_suffixes=(".weight", ".bias"))
        if new_name is None:
            raise SystemExit(f"no name for {name}")
        self.write(new_name, dtype, array)

    def write(self, name, dtype, array):
        if array.ndim == 1 or name.endswith("ffn_gate_inp.weight") or dtype == "F32":
            self.writer.add_tensor(name, as_float32(dtype, array))
        elif dtype == "F16":
            self.writer.add_tensor(name, array)
        else:
            self.writer.add_tensor(name, array.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)

    def add_experts(self, stacks):
        """{(prefix, projection): {expert: (dtype, array)}}"""
        arrays = {}
        for (prefix, projection), experts in stacks.items():
            ordered = [experts[e] for e in range(len(experts))]
            arrays[prefix, projection] = ordered[0][0], np.stack([array for _, array in ordered])
        for (prefix, projection), (dtype, array) in arrays.items():
            if self.joint_experts and projection in ("gate_proj", "up_proj"):
                if projection == "gate_proj":
                    both = np.concatenate([array, arrays[prefix, "up_proj"][1]], axis=1)
                    layer = re.search(r"layers\.(\d+)\.", prefix)[1]
                    self.write(f"blk.{layer}.ffn_gate_up_exps.weight", dtype, both)
                continue
            self.add(f"{prefix}.{projection}.weight", dtype, array)

    def add_tensors(self):
        stacks = {}
        for name, (dtype, array) in read_tensors(self.folder).items():
            layer = re.match(r"model\.layers\.(\d+)\.", name)
            if layer and int(layer[1]) >= self.layers + self.draft_layers:
                continue
            if name == "lm_head.weight" and self.config.get("tie_word_embeddings"):
                continue
            if expert := EXPERT.fullmatch(name):
                stacks.setdefault((expert[1], expert[3]), {})[int(expert[2])] = dtype, array
            elif self.architecture == "llama" and re.search(r"\.[qk]_proj\.", name):
                self.add(name, dtype, self.permute(name, array))
            elif name.endswith("kv_b_proj.weight") and not self.fused_kv_b:
                key, value = self.split_kv_b(array)
                self.add(name.replace("kv_b_proj", "k_b_proj"), dtype, key)
                self.add(name.replace("kv_b_proj", "v_b_proj"), dtype, value)
            else:
                self.add(name, dtype, array)
        self.add_experts(stacks)

    # Tokenizer

    def add_tokenizer(self):
        config = json.loads((self.folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        added = {int(i): token for i, token in config.get("added_tokens_decoder", {}).items()}
        if (self.folder / "tiktoken.model").is_file():
            vocab, merges = tiktoken_vocabulary(self.folder / "tiktoken.model")
        else:
            file = json.loads((self.folder / "tokenizer.json").read_text(encoding="utf-8"))
            vocab = file["model"]["vocab"]
            merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in file["model"]["merges"]]
            added |= {token["id"]: token for token in file["added_tokens"]}
        spellings = {i: token for token, i in vocab.items()}
        size = max(*spellings, *added) + 1
        tokens, types = [], []
        for i in range(size):
            if i in added:
                tokens.append(added[i]["content"])
                types.append(gguf.TokenType.CONTROL if added[i]["special"] else gguf.TokenType.USER_DEFINED)
            else:
                tokens.append(spellings.get(i, f"[PAD{i}]"))
                is_byte = self.model_type == "mixtral" and re.fullmatch(r"<0x[0-9A-F]{2}>", tokens[-1])
                types.append(gguf.TokenType.UNUSED if i not in spellings else
                             gguf.TokenType.BYTE if is_byte else gguf.TokenType.NORMAL)
        w = self.writer
        w.add_tokenizer_model("llama" if self.model_type == "mixtral" else "gpt2")
        if self.pre:
            w.add_tokenizer_pre(self.pre)
        w.add_token_list(tokens)
        w.add_token_types(types)
        if self.model_type == "mixtral":
            ranks = {merge.replace(" ", ""): rank for rank, merge in reversed(list(enumerate(merges)))}
            w.add_token_scores([-float(ranks.get(token, len(ranks))) for token in tokens])
        else:
            w.add_token_merges(merges)
        self.add_special_tokens(config, {token: i for i, token in enumerate(tokens)})

    def add_special_tokens(self, config, ids):
        w = self.writer

        def content(key):
            token = config.get(key)
            return token["content"] if isinstance(token, dict) else token

        for key, add in (("bos_token", w.add_bos_token_id), ("eos_token", w.add_eos_token_id),
                         ("unk_token", w.add_unk_token_id), ("pad_token", w.add_pad_token_id)):
            if content(key) in ids:
                add(ids[content(key)])
        w.add_add_bos_token(bool(config.get("add_bos_token")))
        w.add_add_eos_token(bool(config.get("add_eos_token")))
        template = config.get("chat_template")
        if isinstance(template, str):
            w.add_chat_template(template)

    def run(self):
        self.add_metadata()
        if (self.folder / "tokenizer_config.json").is_file():
            self.add_tokenizer()
        self.add_tensors()
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()


def byte_characters():
    """GPT-2's character for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(rest)}


def tiktoken_vocabulary(path):
    """Tokens and, for each of more than a byte, the last pair that merging by rank makes it from."""
    ranks = {}
    for line in path.read_bytes().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    characters = byte_characters()

    def spell(token):
        return "".join(characters[b] for b in token)

    merges = []
    for token, rank in ranks.items():
        parts = [bytes([b]) for b in token]
        while len(parts) > 2:
            best = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], rank))
            if ranks.get(parts[best] + parts[best + 1], rank) >= rank:
                break
            parts[best:best + 2] = [parts[best] + parts[best + 1]]
        if len(parts) == 2:
            merges.append(spell(parts[0]) + " " + spell(parts[1]))
    return {spell(token): rank for token, rank in ranks.items()}, merges


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--fused-kv-b", action="store_true", help="latent attention as files until April 2025 have it")
    parser.add_argument("--joint-experts", action="store_true", help="gate and up of experts in one tensor")
    parser.add_argument("--split-max-tensors", type=int, default=0, help="split into files of at most so many tensors")
    arguments = parser.parse_args()
    Converter(arguments.checkpoint, arguments.out, arguments.fused_kv_b, arguments.joint_experts,
              arguments.split_max_tensors).run()


if __name__ == "__main__":
    main()

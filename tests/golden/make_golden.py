#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes a golden folder: a tiny random checkpoint and what the reference implementation computes for it.

Set up once (some GB, nothing of it is needed to run the tests):
  python3 -m venv .venv && .venv/bin/pip install -r tests/golden/requirements.txt

A new variant of a family is one command. The family's base config is changed field by field (--set), or replaced
(--config FILE):
  .venv/bin/python tests/golden/make_golden.py --family llama --variant linear_rope \\
      --set 'rope_scaling={"rope_type": "linear", "factor": 2.5}' --out tests/golden/llama/linear_rope
Then name the variant in Variants() of tests/golden/golden_data.cc; every golden test runs on it from there on.

A new family is one entry of FAMILIES: a config in the published spelling and a kind of tokenizer. Tensor names and
shapes come from the library, so nothing else has to be told. tests/golden/README.md describes the format.

  --check FOLDER   computes a folder's outputs again from its files and compares everything that is stored there.

The reference is transformers in float32 with eager attention, on exactly the stored weights.
"""

import argparse
import dataclasses
import json
import math
import os
import pathlib
import re
import shlex
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"  # everything comes from files made here

import numpy as np
import safetensors
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch.nn import functional
from torch.overrides import TorchFunctionMode

PROMPT_LENGTHS = (1, 7, 64, 200)
HIDDEN_PROMPT = 2      # the prompt whose hidden states and router choices are stored
GREEDY_TOKENS = 24
CANDIDATES = 12        # prompts tried per length; the widest greedy margin wins
SEEDS_TRIED = 8
LOGITS_STD = 2.5
# A prompt is taken only if no decision on its way comes this near to a tie.
MIN_ROUTING_GAP = 5e-6     # probability of the last chosen expert minus that of the first one not chosen
MIN_ARGMAX_GAP = 1e-4      # logits, every position of the prompt
MIN_GREEDY_MARGIN = 0.02   # logits, every step of the continuation
MAX_EXPERT_SHARE = 0.5
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

QWEN_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
              r"|\s+(?!\S)|\s+")

# What tokenizers learn from and prompts are cut from: prose, contractions, numbers, code, several scripts.
TEXT = """\
The moon was half full when the small boat left the harbour, and nobody on the quay could say where it went.
"It'll be back by morning," she said; "they've never stayed out longer than that, and I'm sure he'd tell us."
We don't measure a tide by looking at one wave. We've learned to wait, to count, and to write down what we see.
On day 17 there were 1,284 gulls, 96 seals and 3 whales; by day 204 it was 88,019 gulls (give or take 5%).
A table of sums: 12 + 30 = 42, 7 * 8 = 56, 1/3 = 0.3333, 2^10 = 1024, -40 C = -40 F, pi = 3.14159265.
def moving_average(values, width):
    total = 0.0
    for index, value in enumerate(values):
        total += value
        if index >= width:
            total -= values[index - width]
        yield total / min(index + 1, width)
for (int i = 0; i < rows; ++i) { sum[i] += weight * input[i * stride + column]; }  // one column at a time
{"name": "halfmoon", "tokens": [1, 2, 3], "ready": true, "error": null, "url": "http://127.0.0.1:8080/v1"}
Le bateau est rentré à l'aube, chargé de poissons; les pêcheurs étaient fatigués mais très contents.
Das Schiff fuhr spät hinaus; größere Wellen schlugen über die Brücke, und niemand wußte, wie lange noch.
El niño preguntó: ¿cuándo vuelve la luna? Mañana, respondió su abuela, si el cielo está despejado.
Луна светила над тихой водой, и лодка медленно шла к берегу. Сегодня рыбы было очень много.
月亮升起来了,小船慢慢地离开了港口。老人说:明天早上我们会回来,不用担心。
月が昇り、小さな船は静かに港を出た。明日の朝には戻るでしょう。テストのためのカタカナ。
달이 떠오르자 작은 배가 항구를 떠났다. 내일 아침에 돌아올 것이다.
عاد القارب مع الفجر وكان البحر هادئا جدا. नाव सुबह तक लौट आई। เรือกลับมาแล้ว
Symbols: <= >= != == -> => :: && || ++ -- ** // /* */ #$%^&~`| ... 🌙🚤🐟 e\u0301 fi ½ ™ €99.95 \t tab, two  spaces.

    Indented by four, then an empty line above. THE END of the LOG: [INFO] 2026-01-31T23:59:59Z took 12.5 ms.
"""


@dataclasses.dataclass(frozen=True)
class Family:
    config: dict     # in the spelling of published checkpoints
    tokenizer: str   # smollm, qwen or sentencepiece


_LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "mlp_bias": False,
    "hidden_act": "silu", "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
    "rope_scaling": None, "rope_theta": 100000, "tie_word_embeddings": False, "vocab_size": 640,
}
_QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False, "hidden_act": "silu",
    "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 40960, "max_window_layers": 3,
    "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None,
    "use_sliding_window": False, "tie_word_embeddings": True, "vocab_size": 640,
}
FAMILIES = {
    "llama": Family(_LLAMA, "smollm"),
    "qwen3": Family(_QWEN3, "qwen"),
    "qwen3_moe": Family(_QWEN3 | {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "moe_intermediate_size": 48,
        "num_experts": 12, "num_experts_per_tok": 4, "norm_topk_prob": True, "decoder_sparse_step": 1,
        "mlp_only_layers": [], "tie_word_embeddings": False}, "qwen"),
    "mixtral": Family({
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_act": "silu", "hidden_size": 96,
        "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2,
        "num_local_experts": 8, "num_experts_per_tok": 2, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0, "sliding_window": None, "tie_word_embeddings": False, "vocab_size": 640},
        "sentencepiece"),
}

# (end of the name, standard deviation times sqrt(inputs)); what is not listed gets 1. Chosen so that attention is
# neither uniform nor one-hot and experts share the load.
GAINS = [
    (r"[qk]_proj\.weight", 1.2), (r"o_proj\.weight", 0.8), (r"(gate_proj|up_proj|w1|w3)\.weight", 1.3),
    (r"(down_proj|w2)\.weight", 1.1), (r"(mlp|moe)\.gate\.weight", 1.6),
]


# Tokenizers

def train_tokenizer(kind: str, vocab_size: int) -> tuple[Tokenizer, dict]:
    """A tokenizer in the manner of the family, of about `vocab_size` tokens, and its special ids by role."""
    room = vocab_size - 24  # as in published checkpoints, the model has more rows than the tokenizer has tokens
    special = {"smollm": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
               "qwen": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
               "sentencepiece": ["<unk>", "<s>", "</s>"]}[kind]
    if kind == "sentencepiece":
        return train_sentencepiece(special, room)
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "smollm")
    if kind == "qwen":
        tokenizer.normalizer = normalizers.NFC()
        first = pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated")
    else:
        first = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    leading = special if kind == "smollm" else []  # Qwen's special tokens follow the vocabulary
    tokenizer.train_from_iterator(TEXT.splitlines(keepends=True), trainers.BpeTrainer(
        vocab_size=room - len(special) + len(leading), special_tokens=leading, initial_alphabet=alphabet,
        show_progress=False))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    if kind == "qwen":  # found in text like any special token, kept when special tokens are left out
        tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in ("<think>", "</think>")])
    ids = {token: tokenizer.token_to_id(token) for token in special}
    if kind == "qwen":
        return tokenizer, {"eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]}
    return tokenizer, {"bos_token_id": ids["<|im_start|>"], "eos_token_id": ids["<|im_end|>"],
                       "pad_token_id": ids["<|im_end|>"]}


def train_sentencepiece(special: list[str], room: int) -> tuple[Tokenizer, dict]:
    """BPE over characters with a mark for spaces and bytes to fall back on."""
    trained = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    # Rare characters are left to the bytes.
    trained.train_from_iterator(TEXT.splitlines(), trainers.BpeTrainer(
        vocab_size=room - len(special) - 256, limit_alphabet=90, show_progress=False))
    learned = json.loads(trained.to_str())["model"]
    tokens = special + [f"<0x{byte:02X}>" for byte in range(256)]
    tokens += [token for token, _ in sorted(learned["vocab"].items(), key=lambda item: item[1])]
    tokenizer = Tokenizer(models.BPE(
        vocab={token: index for index, token in enumerate(tokens)}, merges=[tuple(pair) for pair in learned["merges"]],
        unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return tokenizer, {"bos_token_id": 1, "eos_token_id": 2}


def tokenizer_config(kind: str, tokenizer: Tokenizer, ids: dict) -> dict:
    """tokenizer_config.json, without a chat template: those in use are their authors' work."""
    name = {role: tokenizer.id_to_token(ids[role]) if role in ids else None
            for role in ("bos_token_id", "eos_token_id", "pad_token_id")}
    added = {str(index): {"content": token.content, "lstrip": token.lstrip, "normalized": token.normalized,
                          "rstrip": token.rstrip, "single_word": token.single_word, "special": token.special}
             for index, token in sorted(tokenizer.get_added_tokens_decoder().items())}
    return {"add_bos_token": kind == "sentencepiece", "add_eos_token": False, "bos_token": name["bos_token_id"],
            "eos_token": name["eos_token_id"], "pad_token": name["pad_token_id"],
            "unk_token": "<unk>" if kind == "sentencepiece" else None, "clean_up_tokenization_spaces": False,
            "model_max_length": 131072, "tokenizer_class": {
                "smollm": "GPT2Tokenizer", "qwen": "Qwen2Tokenizer", "sentencepiece": "LlamaTokenizerFast"}[kind],
            "added_tokens_decoder": added}


# Weights

def published_tensors(config: dict) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the family's tensors on disk, as the library itself writes them."""
    settings = transformers.AutoConfig.for_model(**config)
    with tempfile.TemporaryDirectory() as folder:
        transformers.AutoModelForCausalLM.from_config(settings).save_pretrained(folder)
        return {name: tuple(tensor.shape) for name, tensor in load_file(f"{folder}/model.safetensors").items()}


def draw_weights(config: dict, tokenizer_size: int, seed: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Seeded Gaussians, one stream for each tensor so that no tensor depends on which others there are.

    Rows of the vocabulary above the tokenizer's size are padding, all zeros.
    """
    weights = {}
    for name, shape in published_tensors(config).items():
        key = int.from_bytes(name.encode(), "big")
        normal = np.random.default_rng([seed, key]).standard_normal(shape).astype(np.float32)
        if name.endswith(".bias"):
            values = 0.3 * normal
        elif len(shape) == 1:
            values = 1.0 + 0.15 * normal
        elif "embed" in name and not config["tie_word_embeddings"]:
            values = normal
        else:
            gain = next((gain for pattern, gain in GAINS if re.search(pattern + "$", name)), 1.0)
            if name == "lm_head.weight" or "embed" in name:
                gain = LOGITS_STD
            values = gain / math.sqrt(shape[-1]) * normal
        if name == "lm_head.weight" or "embed" in name:
            values[tokenizer_size:] = 0.0
        weights[name] = torch.from_numpy(values).to(dtype)
    return weights


def save_weights(folder: pathlib.Path, weights: dict[str, torch.Tensor], shards: int) -> None:
    for stale in folder.glob("model*.safetensors*"):
        stale.unlink()
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    total = sum(tensor.nbytes for tensor in weights.values())
    files, done = {}, 0
    for name in sorted(weights):
        shard = min(done * shards // total, shards - 1) + 1
        files.setdefault(f"model-{shard:05}-of-{shards:05}.safetensors", {})[name] = weights[name]
        done += weights[name].nbytes
    for file, tensors in files.items():
        save_file(tensors, folder / file, metadata={"format": "pt"})
    write_json(folder / "model.safetensors.index.json", {
        "metadata": {"total_size": total},
        "weight_map": {name: file for file, tensors in files.items() for name in tensors}})


# The reference

def load_reference(folder: pathlib.Path, dtype: torch.dtype = torch.float32):
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", experts_implementation="eager", output_loading_info=True)
    lost = {kind: found for kind, found in report.items() if found}
    if lost:
        sys.exit(f"{folder}: the library did not take every tensor as it is: {lost}")
    return model.eval()


@dataclasses.dataclass
class Run:
    """What one pass over a prompt computed, all float32 (float64 for a model of that type)."""
    logits: torch.Tensor                 # [T, V]
    hidden: dict[str, torch.Tensor]      # [T, H] of embed, each layer, final
    router: dict[int, tuple]             # layer > logits [T, E], indices [T, K] ascending, weights [T, K], gap [T]


@torch.no_grad()
def run(model, ids: list[int]) -> Run:
    hidden, router, handles = {}, {}, []

    def keep_hidden(name):
        def hook(_module, _inputs, output):
            hidden[name] = (output[0] if isinstance(output, tuple) else output)[0]
        return hook

    def keep_router(layer):
        def hook(_module, _inputs, output):
            logits, weights, indices = output
            indices, order = indices.sort(-1)
            best = logits.float().softmax(-1).sort(-1, descending=True).values
            chosen = indices.shape[-1]
            gap = best[:, chosen - 1] - best[:, chosen] if chosen < best.shape[-1] else torch.ones(len(best))
            router[layer] = (logits, indices.int(), weights.gather(-1, order), gap)
        return hook

    body = model.model
    handles.append(body.embed_tokens.register_forward_hook(keep_hidden("embed")))
    handles.append(body.norm.register_forward_hook(keep_hidden("final")))
    for layer, block in enumerate(body.layers):
        handles.append(block.register_forward_hook(keep_hidden(str(layer))))
        for module in block.modules():
            if type(module).__name__.endswith("TopKRouter"):
                handles.append(module.register_forward_hook(keep_router(layer)))
    try:
        logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return Run(logits if logits.dtype == torch.float64 else logits.float(), hidden, router)


@torch.no_grad()
def greedy(model, ids: list[int]) -> tuple[list[int], list[float]]:
    """Continuation and its margins, token by token through the library's cache; end-of-sequence is ignored."""
    chosen, margins, cache, step = [], [], None, ids
    while len(chosen) < GREEDY_TOKENS:
        output = model(torch.tensor([step]), past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        best = output.logits[0, -1].topk(2)
        chosen.append(best.indices[0].item())
        margins.append((best.values[0] - best.values[1]).item())
        step = chosen[-1:]
    return chosen, margins


def pick_prompt(model, tokens: list[int], tokenizer_size: int, length: int, rng: np.random.Generator) -> dict | None:
    """The prompt of `length` tokens of the text with the widest greedy margin; None if all come near a tie."""
    best = None
    for start in rng.choice(len(tokens) - length + 1, CANDIDATES, replace=False):
        ids = tokens[start:start + length]
        chosen, margins = greedy(model, ids)
        if min(margins) < max(MIN_GREEDY_MARGIN, best["min_greedy_margin"] if best else 0.0):
            continue
        full = run(model, ids + chosen)
        top = full.logits[:length].topk(2).values
        argmax = (top[:, 0] - top[:, 1]).min().item()
        routing = min((gap.min().item() for *_, gap in full.router.values()), default=None)
        if argmax < MIN_ARGMAX_GAP or (routing is not None and routing < MIN_ROUTING_GAP):
            continue
        again = full.logits[length - 1:-1].argmax(-1).tolist()
        if again != chosen:
            continue
        best = {"length": length, "text": None, "input_ids": ids, "greedy_ids": chosen, "greedy_text": None,
                "greedy_margin": [round(margin, 5) for margin in margins], "min_greedy_margin": min(margins),
                "logits_std": logits_std(model, [ids], tokenizer_size), "cached_vs_full_argmax_equal": True,
                "distance_to_tie": {"routing": routing, "selection": None, "argmax": argmax}}
    return best


def stored_positions(length: int) -> list[int]:
    return list(range(length)) if length <= 100 else sorted({*range(0, length, 8), *range(length - 48, length)})


# Noise of low precision, so that a low-precision run has something to be held to

def round_to_int8(x: torch.Tensor) -> torch.Tensor:
    """-127..127 times one scale a row."""
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127
    return (x / scale).round() * scale


def round_to_int4(x: torch.Tensor) -> torch.Tensor:
    """-8..7 times one scale for each 32 neighbours of a row; the last group may be shorter."""
    groups = functional.pad(x, (0, -x.shape[-1] % 32)).unflatten(-1, (-1, 32))
    scale = groups.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 7.5
    return ((groups / scale).round().clamp(-8, 7) * scale).flatten(-2)[..., :x.shape[-1]]


class LowPrecision(TorchFunctionMode):
    """Rounds weights and inputs of every matrix product but routers and the output head."""

    def __init__(self, model, round_weights, round_inputs):
        super().__init__()
        self.exact = {model.lm_head.weight.data_ptr()}
        self.exact |= {module.weight.data_ptr() for module in model.modules()
                       if type(module).__name__.endswith("TopKRouter")}
        self.round_weights, self.round_inputs = round_weights, round_inputs

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is functional.linear and args[1].data_ptr() not in self.exact:
            args = (self.round_inputs(args[0]), self.round_weights(args[1]), *args[2:])
        return func(*args, **(kwargs or {}))


def difference(got: torch.Tensor, want: torch.Tensor) -> dict:
    want, error = want.to(got.dtype), got - want.to(got.dtype)
    rows = (error.norm(dim=-1) / want.norm(dim=-1)).float()
    return {"max_abs": error.abs().max().item(), "mean_abs": error.abs().mean().item(),
            "rel_rms": (error.norm() / want.norm()).item(), "rel_rms_position_p50": rows.quantile(0.5).item(),
            "rel_rms_position_p90": rows.quantile(0.9).item(), "rel_rms_position_max": rows.max().item(),
            "argmax_agree": (got.argmax(-1) == want.argmax(-1)).float().mean().item()}


def measure_noise(folder: pathlib.Path, model, tokenizer_size: int, prompts: list[dict]) -> dict:
    """Low-precision runs of the longest prompt against the float32 run, padding of the vocabulary left out."""
    longest, hidden_prompt = prompts[-1]["input_ids"], prompts[HIDDEN_PROMPT]["input_ids"]

    def logits(some_model):
        return run(some_model, longest).logits[:, :tokenizer_size]

    want, noise = logits(model), {}
    schemes = {"w8a8": (round_to_int8, round_to_int8), "w4a16": (round_to_int4, lambda x: x)}
    for name, scheme in schemes.items():
        with LowPrecision(model, *scheme):
            noise[name] = difference(logits(model), want)
    half = load_reference(folder, torch.bfloat16)
    noise["bf16"] = difference(logits(half), want)
    exact, rounded = run(model, hidden_prompt).router, run(half, hidden_prompt).router
    if exact:
        agree = [(exact[layer][1] == rounded[layer][1]).all(-1).float().mean() for layer in exact]
        noise["bf16"]["router_index_agree"] = torch.stack(agree).mean().item()
    noise["f64_vs_f32"] = difference(logits(load_reference(folder, torch.float64)), want)
    return noise


# The folder

def write_json(path: pathlib.Path, value) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def compute_tensors(model, prompts: list[dict]) -> dict[str, torch.Tensor]:
    """expected.safetensors, from ids alone."""
    tensors = {}
    for number, prompt in enumerate(prompts):
        ids, positions = prompt["input_ids"], stored_positions(prompt["length"])
        chosen, margins = greedy(model, ids)
        tensors |= {f"p{number}.input_ids": torch.tensor(ids, dtype=torch.int32),
                    f"p{number}.positions": torch.tensor(positions, dtype=torch.int32),
                    f"p{number}.logits": run(model, ids).logits[positions],
                    f"p{number}.greedy_ids": torch.tensor(chosen, dtype=torch.int32),
                    f"p{number}.greedy_margin": torch.tensor(margins)}
    shown = run(model, prompts[HIDDEN_PROMPT]["input_ids"])
    tensors |= {f"hidden.{name}": rows for name, rows in shown.hidden.items()}
    for layer, parts in shown.router.items():
        tensors |= {f"router.{layer}.{name}": part
                    for name, part in zip(("logits", "indices", "weights", "gap"), parts)}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def router_load(tensors: dict[str, torch.Tensor]) -> dict:
    load = {}
    for name, indices in tensors.items():
        if match := re.fullmatch(r"router\.(\d+)\.indices", name):
            experts = tensors[f"router.{match[1]}.logits"].shape[1]
            counts = torch.bincount(indices.flatten(), minlength=experts)
            load[match[1]] = {"max_share": (counts.max() / indices.numel()).item(),
                              "unused": int((counts == 0).sum())}
    return load


def logits_std(model, prompts: list[list[int]], tokenizer_size: int) -> float:
    """Spread of the logits of all positions, padding of the vocabulary left out."""
    return torch.cat([run(model, ids).logits[:, :tokenizer_size] for ids in prompts]).std().item()


def versions() -> dict:
    return {module.__name__: module.__version__.split("+")[0]
            for module in (torch, transformers, tokenizers, safetensors, np)}


def make(options: argparse.Namespace) -> None:
    family = FAMILIES[options.family]
    config = json.loads(options.config.read_text()) if options.config else dict(family.config)
    for setting in options.set:
        key, _, value = setting.partition("=")
        config[key] = json.loads(value)
    folder = options.out
    folder.mkdir(parents=True, exist_ok=True)

    tokenizer, ids = train_tokenizer(family.tokenizer, config["vocab_size"])
    config |= {**ids, "torch_dtype": options.dtype, "transformers_version": transformers.__version__}
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {**ids, "do_sample": False})
    write_json(folder / "tokenizer.json", json.loads(tokenizer.to_str()))
    write_json(folder / "tokenizer_config.json", tokenizer_config(family.tokenizer, tokenizer, ids))
    tokens = tokenizer.encode(TEXT, add_special_tokens=False).ids

    for seed in range(options.seed, options.seed + SEEDS_TRIED):
        save_weights(folder, draw_weights(config, tokenizer.get_vocab_size(), seed, DTYPES[options.dtype]), options.shards)
        model = load_reference(folder)
        rng = np.random.default_rng(seed)
        prompts = [pick_prompt(model, tokens, tokenizer.get_vocab_size(), length, rng) for length in PROMPT_LENGTHS]
        if None in prompts:
            print(f"seed {seed}: every prompt of some length comes near a tie; next seed", file=sys.stderr)
            continue
        tensors = compute_tensors(model, prompts)
        load = router_load(tensors)
        spread = logits_std(model, [prompt["input_ids"] for prompt in prompts], tokenizer.get_vocab_size())
        if any(layer["unused"] or layer["max_share"] > MAX_EXPERT_SHARE for layer in load.values()):
            print(f"seed {seed}: experts do not share the load: {load}; next seed", file=sys.stderr)
            continue
        break
    else:
        sys.exit(f"no seed from {options.seed} on stays away from ties; change the config or the seed")

    for prompt in prompts:
        prompt["text"] = tokenizer.decode(prompt["input_ids"], skip_special_tokens=False)
        prompt["greedy_text"] = tokenizer.decode(prompt["greedy_ids"], skip_special_tokens=False)
    save_file(tensors, folder / "expected.safetensors")
    write_json(folder / "expected.json", {
        "family": options.family, "variant": options.variant, "seed": seed, "command": options.command,
        "reference": f"transformers {transformers.__version__} {config['model_type']} (float32, eager)",
        "versions": versions(), "hidden_prompt": HIDDEN_PROMPT, "vocab_size": config["vocab_size"],
        "tokenizer_size": tokenizer.get_vocab_size(), "prompts": prompts, "router_load": load, "indexer": {},
        "mtp": None, "logits_std": spread, "min_greedy_margin": min(p["min_greedy_margin"] for p in prompts),
        "noise": measure_noise(folder, model, tokenizer.get_vocab_size(), prompts),
        "greedy_note": "greedy ids ignore end-of-sequence tokens", "tensors": sorted(tensors)})
    for file in folder.iterdir():
        file.chmod(0o644)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: seed {seed}, logits std {spread:.2f}, {size / 1e6:.1f} MB")


def check(folder: pathlib.Path) -> bool:
    """Computes the folder's outputs again. True if all are what is stored, but for float noise."""
    expected = json.loads((folder / "expected.json").read_text())
    stored = load_file(folder / "expected.safetensors")
    model = load_reference(folder)
    tensors = compute_tensors(model, expected["prompts"])
    good = True
    if sorted(tensors) != sorted(stored) or sorted(stored) != sorted(expected["tensors"]):
        print("tensor names differ:", sorted(set(tensors) ^ set(stored) ^ set(expected["tensors"])))
        good = False
    worst = 0.0
    for name in sorted(set(tensors) & set(stored)):
        got, want = tensors[name], stored[name]
        if got.dtype != want.dtype or got.shape != want.shape:
            print(f"{name}: {got.dtype} {tuple(got.shape)} here, {want.dtype} {tuple(want.shape)} stored")
            good = False
            continue
        error = (got - want).abs().max().item()
        worst = max(worst, error)
        if error > (0 if got.dtype == torch.int32 else 1e-4):
            print(f"{name}: differs by {error}")
            good = False
    for kind, measured in measure_noise(folder, model, expected["tokenizer_size"], expected["prompts"]).items():
        for key in sorted(set(measured) | set(expected["noise"][kind])):
            here, there = measured.get(key, math.nan), expected["noise"][kind].get(key, math.nan)
            # A value that rounds the other way elsewhere moves these a little.
            if kind != "f64_vs_f32" and not math.isclose(here, there, rel_tol=0.05):
                print(f"noise.{kind}.{key}: {here} here, {there} stored")
                good = False
    prompts = [prompt["input_ids"] for prompt in expected["prompts"]]
    facts = {"router_load": router_load(tensors), "logits_std": logits_std(model, prompts, expected["tokenizer_size"])}
    for key, here in facts.items():
        if here != expected[key] and not (isinstance(here, float) and math.isclose(here, expected[key], rel_tol=1e-4)):
            print(f"{key}: {here} here, {expected[key]} stored")
            good = False
    print(f"{folder}: {len(tensors)} tensors, largest difference {worst:.2g}, {'equal' if good else 'DIFFERENT'}")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=sorted(FAMILIES), help="whose base config and kind of tokenizer to take")
    parser.add_argument("--variant", help="name of the variant, also that of its folder")
    parser.add_argument("--config", type=pathlib.Path, metavar="FILE", help="a config.json instead of the base config")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON",
                        help="change a field of the config; may be given several times")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bfloat16", help="stored type (default: bfloat16)")
    parser.add_argument("--seed", type=int, default=1, help="first seed tried (default: 1)")
    parser.add_argument("--shards", type=int, default=1, help="files the weights are spread over (default: 1)")
    parser.add_argument("--out", type=pathlib.Path, metavar="FOLDER", help="folder to write")
    parser.add_argument("--check", type=pathlib.Path, metavar="FOLDER", help="only compare FOLDER with a new run")
    options = parser.parse_args()
    options.command = shlex.join(["tests/golden/make_golden.py", *sys.argv[1:]])
    torch.set_num_threads(1)  # sums in one order
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if options.check:
        return 0 if check(options.check) else 1
    missing = [name for name in ("family", "variant", "out") if getattr(options, name) is None]
    if missing:
        parser.error("needed: " + ", ".join("--" + name for name in missing))
    make(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())

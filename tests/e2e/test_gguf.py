# SPDX-License-Identifier: Apache-2.0
"""Each family's checkpoint as a GGUF file: the same logits, the same token ids, the same prompt as from its folder.

tests/golden/make_gguf.py writes the files with the package that belongs to the format.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from reference import RELATIVE_RMS
from server import ROOT

# The rest is equal bit for bit: vectors are stored as they are, and matrices keep their type.
FOLDED_CONSTANTS = {"llama/llama3_rope_untied"}  # llama3's frequencies are a tensor of float32

VARIANTS = ["llama/smollm2_tied_f32", "llama/llama3_rope_untied", "llama/attention_bias", "mixtral/base",
            "mixtral/sliding_window", "qwen3/dense", "qwen3_moe/norm_topk", "deepseek_v3/bf16",
            "deepseek_v3/no_q_lora_no_yarn", "deepseek_v32/bf16", "kimi_k2/bf16", "bailing_moe_v2/bf16_mtp",
            "bailing_moe_v2/one_group_qkv_bias", "minimax_m2/bf16", "glm4_moe/bf16_mtp"]


@pytest.fixture(scope="module")
def convert(golden, tmp_path_factory):
    """convert(variant, *flags): the GGUF file made from a folder of tests/golden."""
    def make(variant, *flags):
        out = tmp_path_factory.mktemp("gguf") / "model.gguf"
        subprocess.run([sys.executable, golden / "make_gguf.py", golden / variant, out, *flags], check=True, timeout=300)
        return out
    return make


def model_flags(variant):
    described = ROOT / "examples" / "descriptions" / "glm4_moe.json"
    return ["--describe", described] if variant.startswith("glm4_moe") else []


def flat_logits(logits, model, lists, *flags):
    tensors = load_file(logits(model, lists, "--activation", "f32", *flags))
    return np.concatenate([tensors[f"logits.{i}"].ravel() for i in range(len(lists))])


def prompts(folder):
    return [prompt["input_ids"] for prompt in json.loads((folder / "expected.json").read_text())["prompts"]]


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_those_of_the_folder(logits, convert, golden, variant):
    lists = prompts(golden / variant)
    flags = model_flags(variant)
    expected = flat_logits(logits, golden / variant, lists, *flags)
    found = flat_logits(logits, convert(variant), lists, *flags)
    if variant not in FOLDED_CONSTANTS:
        np.testing.assert_array_equal(found, expected)
    assert np.linalg.norm(found - expected) <= RELATIVE_RMS * np.linalg.norm(expected)


@pytest.mark.parametrize("flags", [(), ("--joint-experts",)], ids=["stacks", "joint"])
def test_stacked_experts_on_disk_give_the_same_logits(logits, convert, golden, flags):
    model = convert("qwen3_moe/norm_topk", *flags)
    lists = prompts(golden / "qwen3_moe" / "norm_topk")
    expected = flat_logits(logits, model, lists)
    # 36 experts of 28 to 37 kB in memory; room for about a third.
    found = flat_logits(logits, model, lists, "--expert-memory", "512K")
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("variant", ["deepseek_v3/bf16", "deepseek_v3/no_q_lora_no_yarn", "kimi_k2/bf16"])
def test_older_and_newer_layouts_of_latent_models_are_equal(logits, convert, golden, variant):
    lists = prompts(golden / variant)
    expected = flat_logits(logits, golden / variant, lists)
    for layout in ("--fused-kv-b", "--joint-experts"):
        np.testing.assert_array_equal(flat_logits(logits, convert(variant, layout), lists), expected, layout)


@pytest.mark.parametrize("variant", ["qwen3_moe/norm_topk"])
def test_a_split_file_is_opened_by_any_part_or_its_folder(logits, convert, golden, variant):
    lists = prompts(golden / variant)
    expected = flat_logits(logits, golden / variant, lists)
    out = convert(variant, "--split-max-tensors", "20")
    parts = sorted(out.parent.glob("model-*-of-*.gguf"))
    assert len(parts) > 1 and not out.exists()
    for model in (parts[0], parts[-1], out.parent):
        np.testing.assert_array_equal(flat_logits(logits, model, lists), expected)


TEXTS = ["Hello, world! It's 2025: 12345 tokens.", "  two  spaces\n\n\ttab\r\n", "Grüße aus Köln, naïve café",
         "汉字和かな、한국어 mixed with English", "def f(x):\n    return x ** 2  # comment", "\U0001f600\U0001f680 emoji"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_vocabulary_gives_the_ids_of_the_folder(generate, convert, golden, variant):
    def ids(model):
        return [generate(model, "--prompt", text, "--max-tokens", 1, "--temperature", 0,
                         *model_flags(variant))["results"][0]["prompt_ids"] for text in TEXTS]
    assert ids(convert(variant)) == ids(golden / variant)

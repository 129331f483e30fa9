# SPDX-License-Identifier: Apache-2.0
"""Every family through the commands that anyone checks a model port with: logits, captures, greedy continuations.

Tolerances and what the reference files hold: tests/golden/README.md.
"""

import json
import shutil
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file

from reference import MAX_ABS, RELATIVE_RMS, TIE_GAP, Expected, relative_rms
from server import ROOT

VARIANTS = ["qwen3_moe/norm_topk", "mixtral/base", "deepseek_v3/bf16", "deepseek_v3/no_q_lora_no_yarn", "deepseek_v3/fp8",
            "deepseek_v32/bf16", "deepseek_v32/fp8_ue8m0", "kimi_k2/bf16", "kimi_k2/int4", "minimax_m2/bf16",
            "minimax_m2/fp8", "bailing_moe_v2/bf16_mtp", "bailing_moe_v2/one_group_qkv_bias", "glm4_moe/bf16_mtp"]
DESCRIPTION = ROOT / "examples" / "descriptions" / "glm4_moe.json"


def flags_of(variant):
    return ["--describe", DESCRIPTION] if variant.startswith("glm4_moe") else []


@pytest.fixture(scope="module", params=VARIANTS)
def family(request, golden, logits):
    """(variant, what is expected, what `halfmoon logits` wrote with every capture)."""
    expected = Expected(golden / request.param)
    found = load_file(logits(expected.folder, expected.lists, "--activation", "f32", "--capture", "hidden,router,indexer",
                             "--chunk", 48, *flags_of(request.param)))
    return request.param, expected, found


def test_logits_match(family):
    _, expected, found = family
    for i in range(len(expected.lists)):
        want = expected.tensors[f"p{i}.logits"]
        got = found[f"logits.{i}"][expected.tensors[f"p{i}.positions"]]
        assert relative_rms(got, want) <= RELATIVE_RMS, f"prompt {i}"
        assert np.abs(got - want).max() <= MAX_ABS, f"prompt {i}"
        assert np.array_equal(got.argmax(1), want.argmax(1)), f"prompt {i}"


def test_hidden_states_and_routing_match(family):
    _, expected, found = family
    prompt = expected.facts["hidden_prompt"]
    compared = 0
    for name, want in expected.tensors.items():
        kind, _, rest = name.partition(".")
        if kind not in ("hidden", "router") or name.endswith(".gap"):
            continue
        got = found[f"{kind}.{prompt}.{rest}"]
        if name.endswith(".indices"):
            clear = expected.tensors[name.replace("indices", "gap")] > TIE_GAP
            assert np.array_equal(got[clear], want[clear]), name
        else:
            assert relative_rms(got, want) <= RELATIVE_RMS, name
        compared += 1
    assert compared > 0


def test_sparse_attention_matches_and_is_sparse(family):
    variant, expected, found = family
    longest = len(expected.lists) - 1
    names = [name for name in expected.tensors if name.startswith("indexer.")]
    assert bool(names) == variant.startswith("deepseek_v32")
    for name in names:
        want = expected.tensors[name]
        got = found[f"indexer.{longest}.{name.removeprefix('indexer.')}"]
        if name.endswith(".topk"):
            assert np.array_equal(got, want), name
        else:
            seen = np.tril(np.ones(want.shape, bool))
            assert relative_rms(got[seen], want[seen]) <= RELATIVE_RMS, name


def test_dense_attention_is_another_result(logits, golden, tmp_path):
    """The sparse model read as one that attends to everything: so what was compared above is not the dense result."""
    expected = Expected(golden / "deepseek_v32" / "bf16")
    folder = tmp_path / "dense"
    shutil.copytree(expected.folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["index_topk"] = 4096
    (folder / "config.json").write_text(json.dumps(config))
    longest = len(expected.lists) - 1
    found = load_file(logits(folder, [expected.lists[longest]], "--activation", "f32"))["logits.0"]
    want = expected.tensors[f"p{longest}.logits"]
    assert relative_rms(found[expected.tensors[f"p{longest}.positions"]], want) > 1e3 * RELATIVE_RMS


@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_continuations_are_equal(generate, golden, variant):
    expected = Expected(golden / variant)
    answer = generate(expected.folder, "--max-tokens", 24, "--temperature", 0, "--ignore-eos", "--activation", "f32",
                      *flags_of(variant), lists=expected.lists)
    assert [result["ids"] for result in answer["results"]] == [prompt["greedy_ids"] for prompt in expected.prompts]


def test_unknown_family_says_what_to_do(halfmoon_run, golden):
    done = halfmoon_run("generate", "-m", golden / "glm4_moe" / "bf16_mtp", "--prompt", "x", "--json")
    assert done.returncode == 1
    assert "glm4_moe" in done.stderr and "--describe" in done.stderr


def add_tensor(path, name, array):
    """Adds a float32 tensor to a safetensors file, whose other types numpy need not know."""
    data = path.read_bytes()
    size, = struct.unpack_from("<Q", data)
    header, values = json.loads(data[8:8 + size]), data[8 + size:]
    header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [len(values), len(values) + array.nbytes]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + values + array.tobytes())


def test_part_that_is_not_known_is_named(halfmoon_run, golden, tmp_path):
    description = json.loads(DESCRIPTION.read_text())
    description["attention"]["sinks"] = True
    (tmp_path / "description.json").write_text(json.dumps(description))
    done = halfmoon_run("generate", "-m", golden / "glm4_moe" / "bf16_mtp", "--describe", tmp_path / "description.json",
                        "--prompt", "x", "--json")
    assert done.returncode == 1 and "unknown part 'sinks'" in done.stderr
    # The checkpoint has the part, and the description does not mention it.
    folder = tmp_path / "sinks"
    shutil.copytree(golden / "glm4_moe" / "bf16_mtp", folder)
    add_tensor(folder / "model.safetensors", "model.layers.0.self_attn.sinks", np.zeros(4, np.float32))
    done = halfmoon_run("generate", "-m", folder, "--describe", DESCRIPTION, "--prompt", "x", "--json")
    assert done.returncode == 1 and "'model.layers.0.self_attn.sinks'" in done.stderr

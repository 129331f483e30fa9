# SPDX-License-Identifier: Apache-2.0
"""`halfmoon logits` and `halfmoon generate` against reference outputs: a real GGUF file and tiny checkpoints.

Tolerances and what the reference files hold: tests/golden/README.md.
"""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from reference import MAX_ABS, RELATIVE_RMS, Expected, relative_rms

@pytest.fixture(scope="module")
def isas(halfmoon_run):
    """Instruction sets of this machine, as --isa takes them."""
    lines = halfmoon_run("version").stdout.splitlines()
    names = next(line.removeprefix("kernels:").split() for line in lines if line.startswith("kernels:"))
    assert "generic" in names
    return names


@pytest.fixture(scope="module")
def smollm2(golden):
    return Expected(golden / "smollm2_135m_instruct_q4_1")


@pytest.fixture(scope="module")
def tiny_moe(golden):
    return Expected(golden / "qwen3_moe" / "norm_topk")


@pytest.fixture(scope="module")
def smollm2_f32(logits, model, smollm2):
    """Logits of every prompt and position of the real model, in float32."""
    found = load_file(logits(model, smollm2.lists, "--activation", "f32"))
    assert set(found) == {f"logits.{i}" for i in range(len(smollm2.lists))}
    return found


def test_logits_f32_match_reference(smollm2, smollm2_f32):
    for i, ids in enumerate(smollm2.lists):
        got = smollm2_f32[f"logits.{i}"]
        assert got.dtype == np.float32 and got.shape == (len(ids), 49152)
        last = smollm2.tensors[f"p{i}.last_logits"]
        assert relative_rms(got[-1], last) <= RELATIVE_RMS, f"prompt {i}"
        assert np.abs(got[-1] - last).max() <= MAX_ABS, f"prompt {i}"


def test_logits_f32_every_position_matches_reference(smollm2, smollm2_f32):
    for i in range(len(smollm2.lists)):
        got = smollm2_f32[f"logits.{i}"]
        ids, values = smollm2.tensors[f"p{i}.top8_ids"], smollm2.tensors[f"p{i}.top8_logits"]
        # Both together: the same eight tokens, in any order among those that tie.
        assert np.abs(np.take_along_axis(got, ids, 1) - values).max() <= MAX_ABS, f"prompt {i}"
        assert np.abs(np.sort(got, 1)[:, :-9:-1] - values).max() <= MAX_ABS, f"prompt {i}"
        assert np.array_equal(got.argmax(1), ids[:, 0]), f"prompt {i}"
        top = got.max(1, keepdims=True).astype(np.float64)
        logsumexp = np.log(np.exp(got - top).sum(1)) + top[:, 0]
        assert np.abs(logsumexp - smollm2.tensors[f"p{i}.logsumexp"]).max() <= MAX_ABS, f"prompt {i}"


def test_logits_int8_within_reference_noise(logits, model, smollm2, smollm2_f32):
    want = smollm2_f32[f"logits.{len(smollm2.lists) - 1}"]
    got = load_file(logits(model, smollm2.lists[-1:]))["logits.0"]
    errors = [relative_rms(*rows) for rows in zip(got, want)]
    noise = smollm2.facts["noise_on_last_prompt"]["w8a8"]
    assert 0 < np.median(errors) <= 1.25 * noise["rel_rms_position_p50"]
    assert (got.argmax(1) == want.argmax(1)).mean() >= noise["argmax_agree"]


def test_generate_greedy_f32_same_ids(generate, model, smollm2):
    steps = len(smollm2.prompts[0]["greedy_ids"])
    document = generate(model, "--activation", "f32", "--temperature", 0, "--max-tokens", steps, "--ignore-eos",
                        lists=smollm2.lists)
    assert len(document["results"]) == len(smollm2.prompts)
    for result, prompt in zip(document["results"], smollm2.prompts):
        assert result["prompt_ids"] == prompt["input_ids"]
        assert result["ids"] == prompt["greedy_ids"], prompt["text"]
        assert result["text"] == prompt["greedy_text"]
        assert result["finish_reason"] == "length"
    timings = document["timings"]
    assert timings["prompt_tokens"] == sum(map(len, smollm2.lists))
    assert timings["generated_tokens"] == steps * len(smollm2.prompts)


def test_generate_prompt_text_same_ids(generate, model, smollm2):
    flags = [flag for prompt in smollm2.prompts for flag in ("--prompt", prompt["text"])]
    results = generate(model, "--max-tokens", 1, *flags)["results"]
    assert [result["prompt_ids"] for result in results] == smollm2.lists


def test_generate_end_of_sequence_stops(generate, model, smollm2):
    prompt = next(prompt for prompt in smollm2.prompts if prompt["kind"] == "chat")
    end = prompt["greedy_ids"].index(2)
    result = generate(model, "--activation", "f32", "--max-tokens", 32, lists=[prompt["input_ids"]])["results"][0]
    assert result["finish_reason"] == "stop"
    assert result["ids"][:end] == prompt["greedy_ids"][:end] and len(result["ids"]) <= end + 1


def test_logits_capture_names_and_values(logits, tiny_moe):
    prompt = tiny_moe.facts["hidden_prompt"]
    length = len(tiny_moe.lists[prompt])
    found = load_file(logits(tiny_moe.folder, [tiny_moe.lists[0], tiny_moe.lists[prompt]], "--activation", "f32",
                             "--capture", "hidden,router", "--chunk", 5))
    layers = [str(layer) for layer in range(3)]
    names = {f"logits.{i}" for i in range(2)}
    names |= {f"hidden.{i}.{name}" for i in range(2) for name in ("embed", *layers, "final")}
    names |= {f"router.{i}.{layer}.{part}" for i in range(2) for layer in layers for part in ("logits", "indices", "weights")}
    assert set(found) == names
    for name, want in tiny_moe.tensors.items():
        kind, _, rest = name.partition(".")
        if kind not in ("hidden", "router") or name.endswith(".gap"):
            continue
        got = found[f"{kind}.1.{rest}"]
        assert got.dtype == want.dtype and got.shape == want.shape and len(got) == length, name
        if name.endswith(".indices"):
            clear = tiny_moe.tensors[name.replace("indices", "gap")] > 1e-5
            assert np.array_equal(got[clear], want[clear]), name
        else:
            assert relative_rms(got, want) <= RELATIVE_RMS, name


def test_logits_capture_of_nothing_says_so(halfmoon_run, model, tmp_path):
    (tmp_path / "ids.json").write_text("[[1]]")
    done = halfmoon_run("logits", "-m", model, "--ids", tmp_path / "ids.json", "--out", tmp_path / "out.safetensors",
                        "--capture", "router,indexer")
    assert done.returncode == 0
    assert "--capture router: a llama model has none" in done.stderr
    assert "--capture indexer: a llama model has none" in done.stderr
    assert set(load_file(tmp_path / "out.safetensors")) == {"logits.0"}


def test_logits_any_chunk_threads_same_bytes(logits, tiny_moe, isas):
    for isa in isas:
        outputs = {(chunk, threads): logits(tiny_moe.folder, tiny_moe.lists[-1:], "--activation", "f32", "--isa", isa,
                                            "--chunk", chunk, "-t", threads).read_bytes()
                   for chunk in (1, 7, 64, 512) for threads in (1, 2)}
        assert len(set(outputs.values())) == 1, isa


@pytest.mark.parametrize("activation", ["int8", "f32"])
def test_logits_real_model_any_chunk_threads_same_bytes(logits, model, smollm2, isas, activation):
    for isa in isas:
        lists = [smollm2.lists[3][:9 if isa != "generic" else 5]]  # the plain loops of generic take their time
        outputs = {(chunk, threads): logits(model, lists, "--activation", activation, "--isa", isa, "--chunk", chunk,
                                            "-t", threads).read_bytes()
                   for chunk, threads in ((1, 1), (2, 2), (7, 1), (512, 2))}
        assert len(set(outputs.values())) == 1, isa


BAD_IDS = {
    "cut": ("[[1, 2", "not JSON"),
    "no list": ('{"ids": [1]}', "expected a list of token-id lists"),
    "flat": ("[1, 2]", "list 0: expected a list of token ids"),
    "empty list": ("[[1], []]", "list 1: is empty"),
    "above the vocabulary": ("[[1, 49152]]", "position 1: expected a token id below 49152, found 49152"),
    "negative": ("[[-1]]", "position 0: expected a token id below 49152, found -1"),
    "fraction": ("[[1, 2.5]]", "position 1: expected a token id"),
    "text": ('[["a"]]', "position 0: expected a token id"),
}


def expect_refused(done, *parts):
    """Exit code 1 and one message that names what is wrong."""
    assert done.returncode == 1, done.stderr
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("halfmoon: ")
    for part in parts:
        assert part in message


@pytest.mark.parametrize("command", ["logits", "generate"])
@pytest.mark.parametrize("case", BAD_IDS)
def test_ids_file_that_is_wrong_is_named(halfmoon_run, model, tmp_path, command, case):
    text, message = BAD_IDS[case]
    (tmp_path / "ids.json").write_text(text)
    out = ["--out", tmp_path / "out.safetensors"] if command == "logits" else ["--max-tokens", 1]
    done = halfmoon_run(command, "-m", model, "--ids", tmp_path / "ids.json", *out)
    expect_refused(done, "ids.json", message)
    assert not (tmp_path / "out.safetensors").exists()


def test_files_that_are_not_there_are_named(halfmoon_run, model, tmp_path):
    (tmp_path / "ids.json").write_text("[[1]]")
    out = tmp_path / "out.safetensors"
    expect_refused(halfmoon_run("logits", "-m", model, "--ids", tmp_path / "none.json", "--out", out), "none.json")
    expect_refused(halfmoon_run("logits", "-m", tmp_path / "none.gguf", "--ids", tmp_path / "ids.json", "--out", out),
                   "none.gguf")
    expect_refused(halfmoon_run("logits", "-m", model, "--ids", tmp_path / "ids.json", "--out", tmp_path / "none" / "out"),
                   "none/out")


def test_expanded_prefill_says_what_it_gives_up_and_matches_reference(halfmoon_run, golden, tmp_path):
    expected = Expected(golden / "deepseek_v3" / "bf16")
    (tmp_path / "ids.json").write_text(json.dumps(expected.lists))
    found = {}
    for form in ("absorbed", "expanded"):
        done = halfmoon_run("logits", "-m", expected.folder, "--ids", tmp_path / "ids.json", "--activation", "f32",
                            "--mla-prefill", form, "--out", tmp_path / form)
        assert done.returncode == 0, done.stderr
        assert ("last bits of a token may change" in done.stderr) == (form == "expanded")
        found[form] = load_file(tmp_path / form)
    for i in range(len(expected.lists)):
        positions = expected.tensors[f"p{i}.positions"]
        assert relative_rms(found["expanded"][f"logits.{i}"][positions], expected.tensors[f"p{i}.logits"]) < RELATIVE_RMS
    last = f"logits.{len(expected.lists) - 1}"
    assert not np.array_equal(found["absorbed"][last], found["expanded"][last])
    done = halfmoon_run("logits", "-m", golden / "qwen3" / "dense", "--ids", tmp_path / "ids.json", "--mla-prefill",
                        "expanded", "--out", tmp_path / "none")
    expect_refused(done, "expanded MLA prefill", "a qwen3 model has grouped-query attention")


def test_prompt_above_the_context_is_refused(halfmoon_run, model, tmp_path):
    (tmp_path / "ids.json").write_text(json.dumps([[1], [1] * 40]))
    done = halfmoon_run("logits", "-m", model, "-c", 32, "--ids", tmp_path / "ids.json", "--out", tmp_path / "out")
    expect_refused(done, "list 1 has 40 tokens", "context is 32")


def test_truncated_gguf_is_named(halfmoon_run, model, tmp_path):
    (tmp_path / "ids.json").write_text("[[1]]")
    with open(model, "rb") as whole:
        for size in (3, 20, 100_000, 50_000_000):
            whole.seek(0)
            (tmp_path / "cut.gguf").write_bytes(whole.read(size))
            done = halfmoon_run("logits", "-m", tmp_path / "cut.gguf", "--ids", tmp_path / "ids.json", "--out", tmp_path / "out")
            expect_refused(done, "cut.gguf")
            assert not (tmp_path / "out").exists()


def test_broken_checkpoint_folder_is_named(halfmoon_run, golden, tmp_path):
    (tmp_path / "ids.json").write_text("[[1]]")
    whole = golden / "qwen3" / "dense"

    def refused(change, *parts):
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        change(folder)
        expect_refused(halfmoon_run("logits", "-m", folder, "--ids", tmp_path / "ids.json", "--out", tmp_path / "out"), *parts)

    def edit_config(**fields):
        def change(folder):
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(config | fields))
        return change

    def cut_weights(folder):
        weights = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(weights[:-1000])

    refused(edit_config(model_type="no_such_family"), "model_type 'no_such_family' is not supported; known: llama")
    refused(edit_config(num_hidden_layers=4), "model.layers.3.")
    refused(edit_config(hidden_size="many"), "hidden_size")
    refused(edit_config(vocab_size=641), "641")
    refused(cut_weights, "model.safetensors")
    refused(lambda folder: (folder / "config.json").unlink(), "config.json")
    refused(lambda folder: (folder / "config.json").write_text("{"), "config.json")


def test_wrong_use_is_explained(halfmoon_run, model, tmp_path):
    (tmp_path / "ids.json").write_text("[[1]]")
    both = halfmoon_run("generate", "-m", model, "--ids", tmp_path / "ids.json", "--prompt", "a")
    assert both.returncode == 2 and "either --prompt or --ids" in both.stderr
    kind = halfmoon_run("logits", "-m", model, "--ids", tmp_path / "ids.json", "--out", tmp_path / "out", "--capture", "all")
    assert kind.returncode == 2 and "--capture" in kind.stderr
    isa = halfmoon_run("logits", "-m", model, "--ids", tmp_path / "ids.json", "--out", tmp_path / "out", "--isa", "mmx")
    expect_refused(isa, '"mmx"', "available: auto, generic")

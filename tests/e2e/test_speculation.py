# SPDX-License-Identifier: Apache-2.0
"""`--speculative` on the command line: same ids whatever guesses, and refusals that say what is wrong."""

import json
import subprocess

import pytest

LISTS = [[5, 6, 7, 8] * 6, list(range(20, 60)), [9]]


@pytest.fixture(scope="module")
def generate(halfmoon, tmp_path_factory):
    """generate(model, *flags): the finished process, which printed JSON if it succeeded."""
    path = tmp_path_factory.mktemp("speculation") / "ids.json"
    path.write_text(json.dumps(LISTS))

    def run(model, *flags):
        return subprocess.run([halfmoon, "generate", "-m", model, "--ids", path, "--json", "--ignore-eos", "--max-tokens", "40",
                               *map(str, flags)], capture_output=True, text=True, timeout=300)
    return run


def document(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def ids(found):
    return [result["ids"] for result in found["results"]]


@pytest.mark.parametrize("sampling", [(), ("--temperature", "0.8", "--seed", "3")], ids=["greedy", "sampled"])
def test_each_source_same_ids(generate, golden, sampling):
    model = golden / "deepseek_v3" / "bf16"
    plain = document(generate(model, "--speculative", "none", *sampling))
    assert plain["timings"]["draft_tokens"] == 0 and plain["timings"]["steps"] >= 40
    sources = {
        "ngram": ("--speculative", "ngram"),
        "mtp": ("--spec-type", "mtp"),
        "auto": ("--speculative", "auto", "--num-speculative-tokens", "3"),
        "draft": ("-md", model, "--draft-max", "5"),
    }
    for name, flags in sources.items():
        found = document(generate(model, *flags, "--no-draft-adaptive", *sampling))
        assert ids(found) == ids(plain), name
        assert found["timings"]["accepted_draft_tokens"] <= found["timings"]["draft_tokens"], name
        if name == "draft":
            assert found["timings"]["accepted_draft_tokens"] > 50 and found["timings"]["steps"] < plain["timings"]["steps"]
        if name in ("mtp", "auto"):
            assert found["timings"]["draft_tokens"] > 20


def test_real_model_ngram_same_ids(generate, model):
    plain = document(generate(model, "--speculative", "none"))
    assert ids(document(generate(model))) == ids(plain)
    fixed = document(generate(model, "--no-draft-adaptive", "--draft-max", "12"))
    assert ids(fixed) == ids(plain)
    assert fixed["timings"]["accepted_draft_tokens"] > 0


def test_draft_layer_missing_refused(generate, golden):
    done = generate(golden / "qwen3" / "dense", "--speculative", "mtp")
    assert done.returncode == 1 and "no draft layer" in done.stderr and "qwen3" in done.stderr
    # auto takes what there is.
    document(generate(golden / "qwen3" / "dense", "--speculative", "auto"))


def test_draft_model_of_another_vocabulary_refused(generate, golden):
    target, draft = golden / "deepseek_v3" / "bf16", golden / "llama" / "smollm2_tied_f32"
    done = generate(target, "-md", draft)
    assert done.returncode == 1 and done.stdout == ""
    assert str(target) in done.stderr and str(draft) in done.stderr and "vocabulary" in done.stderr


def test_draft_model_not_there_refused(generate, golden):
    model = golden / "qwen3" / "dense"
    done = generate(model, "-md", "/no/such/model.gguf")
    assert done.returncode == 1 and "/no/such/model.gguf" in done.stderr
    done = generate(model, "--speculative", "draft")
    assert done.returncode == 1 and "--model-draft" in done.stderr
    assert generate(model, "--speculative", "telepathy").returncode == 2
    # Off is off, whatever else is set.
    document(generate(model, "--speculative", "none", "-md", "/no/such/model.gguf"))

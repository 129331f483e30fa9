# SPDX-License-Identifier: Apache-2.0
"""`halfmoon perplexity` and `halfmoon quantize` on a real GGUF file and on tiny checkpoints of every published precision."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

TEXT = "\n".join(f"The {ordinal} line of a text that a model should predict, and it says {ordinal} again."
                 for ordinal in ("first", "second", "third", "fourth", "fifth", "sixth"))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def perplexity(halfmoon_run, text):
    """perplexity(model, *flags): what `halfmoon perplexity --json` printed."""
    def measure(model, *flags):
        done = halfmoon_run("perplexity", "-m", model, text, "--json", *flags)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
    return measure


def test_perplexity_equals_the_one_computed_from_logits(halfmoon_run, perplexity, golden, text, tmp_path):
    model = golden / "qwen3" / "dense"
    listed = perplexity(model, "--activation", "f32", "-c", 512)
    done = halfmoon_run("generate", "-m", model, "--json", "-p", TEXT, "--max-tokens", 1)
    assert done.returncode == 0, done.stderr
    ids = json.loads(done.stdout)["results"][0]["prompt_ids"]
    assert listed["text_tokens"] == len(ids) and listed["scored_tokens"] == len(ids) - 1
    (tmp_path / "ids.json").write_text(json.dumps([ids]))
    done = halfmoon_run("logits", "-m", model, "--ids", tmp_path / "ids.json", "--out", tmp_path / "out.safetensors",
               "--activation", "f32")
    assert done.returncode == 0, done.stderr
    logits = load_file(tmp_path / "out.safetensors")["logits.0"].astype(np.float64)[:-1]
    nll = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(ids) - 1), ids[1:]]
    assert listed["mean_nll"] == pytest.approx(nll.mean(), rel=1e-5)
    assert listed["perplexity"] == pytest.approx(np.exp(nll.mean()), rel=1e-4)
    assert listed["mean_nll_standard_error"] == pytest.approx(nll.std(ddof=1) / np.sqrt(len(nll)), rel=1e-4)


def test_perplexity_of_a_real_model_does_not_depend_on_threads(perplexity, model):
    one = perplexity(model, "-t", 1, "-c", 64, "--stride", 32)
    two = perplexity(model, "-t", 2, "-c", 64, "--stride", 32)
    assert one["perplexity"] == two["perplexity"]
    assert 1 < one["perplexity"] < 100
    assert one["tokens_per_s"] > 0 and one["standard_error"] > 0


def test_quantize_gguf_gives_a_model_that_predicts_nearly_as_well(halfmoon_run, model, text, tmp_path):
    out = tmp_path / "out.gguf"
    done = halfmoon_run("quantize", "-m", model, "-o", out, "--type", "q4_0", "--perplexity", text)
    assert done.returncode == 0, done.stderr
    assert "blk.0.attn_q.weight" in done.stdout and "Q4_1 > Q4_0, relative RMS error 0.0" in done.stdout
    assert "token_embd.weight" in done.stdout and "perplexity" in done.stdout
    assert out.stat().st_size < model.stat().st_size
    before, after = (float(word) for word in
                     done.stdout.rsplit("perplexity", 1)[1].replace("+/-", " ").replace(">", " ").split()[0:3:2])
    assert 0.7 * before < after < 1.5 * before
    again = halfmoon_run("quantize", "-m", model, "-o", out, "--type", "q4_0")
    assert again.returncode == 1 and "exists already (--force replaces it)" in again.stderr


@pytest.mark.parametrize("variant", ["qwen3_moe/norm_topk", "deepseek_v3/fp8", "minimax_m2/fp8", "bailing_moe_v2/bf16_mtp"])
def test_quantize_folder_keeps_what_surrounds_the_weights(halfmoon_run, perplexity, golden, variant, tmp_path):
    out = tmp_path / "out"
    done = halfmoon_run("quantize", "-m", golden / variant, "-o", out, "--type", "int4", "-q")
    assert done.returncode == 0, done.stderr
    assert (out / "tokenizer.json").read_bytes() == (golden / variant / "tokenizer.json").read_bytes()
    config = json.loads((out / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    assert config["model_type"] == json.loads((golden / variant / "config.json").read_text())["model_type"]
    before, after = perplexity(golden / variant), perplexity(out)
    assert abs(np.log(after["perplexity"] / before["perplexity"])) < 0.5


def test_wrong_use_is_refused_with_what_is_possible(halfmoon_run, golden, model, text, tmp_path):
    folder = golden / "qwen3" / "dense"
    for arguments, message in [
        (("quantize", "-m", folder, "-o", tmp_path / "o", "--type", "q4_k"), "those are int8 int4"),
        (("quantize", "-m", model, "-o", tmp_path / "o.gguf", "--type", "int4"), "those are q8_0"),
        (("quantize", "-m", golden / "kimi_k2" / "int4", "-o", tmp_path / "o", "--type", "int8"), "4 bits a weight already"),
        (("perplexity", "-m", folder, tmp_path / "missing.txt"), "missing.txt"),
        (("perplexity", "-m", folder, text, "-c", 64, "--stride", 65), "stride of 65"),
    ]:
        done = halfmoon_run(*arguments)
        assert done.returncode == 1 and message in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []

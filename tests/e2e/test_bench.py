# SPDX-License-Identifier: Apache-2.0
"""`halfmoon bench`: which cases it prints, and the bytes of KV that it says a token takes."""

import json
import subprocess

import pytest


def bench(halfmoon, *arguments):
    return subprocess.run([halfmoon, "bench", *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=300)


@pytest.mark.parametrize("variant, kv_bytes, is_latent", [
    ("deepseek_v3/bf16", 3 * (48 + 16) * 2, True),
    ("deepseek_v32/bf16", 3 * (48 + 16 + 32) * 2, True),
    ("qwen3/dense", None, False),
])
def test_cases_at_each_depth(halfmoon, golden, variant, kv_bytes, is_latent):
    # Steps shorter than a page, and depths that are no whole pages or less than one.
    done = bench(halfmoon, "-m", golden / variant, "-c", 256, "-b", 16, "-p", 20, "-n", 2, "-r", 1, "--decode-batch", "1,2",
                 "--depth", "0,7,100", "--json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["case"] for line in lines] == [
        what + at for at in ("", " at 7", " at 100") for what in ("prefill 20", "decode x1", "decode x2")]
    assert [line["depth"] for line in lines] == [0] * 3 + [7] * 3 + [100] * 3
    assert all(line["tokens_per_s"] > 0 for line in lines)
    if kv_bytes is not None:
        assert {line["kv_bytes_per_token"] for line in lines} == {kv_bytes}
        assert f" {kv_bytes} bytes of KV a token" in done.stderr
    assert {line.get("mla_prefill") for line in lines} == ({"absorbed"} if is_latent else {None})


def test_depth_beyond_the_context_is_refused(halfmoon, golden):
    done = bench(halfmoon, "-m", golden / "qwen3" / "dense", "-c", 128, "-p", 20, "-n", 2, "--depth", 120)
    assert done.returncode == 1
    assert "140 tokens do not fit the context of 128" in done.stderr

# SPDX-License-Identifier: Apache-2.0
"""KV blocks that outlive the process: restarts, kills at any instant, damaged files, full disks and other models' folders."""

import contextlib
import http.client
import os
import random
import subprocess
import threading
import time

import pytest

from server import ROOT

PROMPT = "".join(f"Line {i}: the quick brown fox number {i * 7} jumps over the lazy dog. " for i in range(40))
# Every shape that KV has: heads, latent rows, latent rows with index keys.
FAMILIES = ["llama", "qwen3", "qwen3_moe", "deepseek_v3", "deepseek_v32", "kimi_k2", "minimax_m2", "bailing_moe_v2", "glm4_moe",
            "mixtral"]


def ask(server, prompt=PROMPT, **fields):
    body = {"prompt": prompt, "max_tokens": 12, "temperature": 0.8, "seed": 7, "logprobs": 3, **fields}
    return server.post_json("/v1/completions", body)


def cached(answer):
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def said(answer):
    """What a client sees of the answer itself."""
    choice = answer["choices"][0]
    return choice["text"], choice["logprobs"], choice["finish_reason"]


def metric(server, name, **labels):
    for line in server.get_text("/metrics").splitlines():
        if line.startswith(name + "{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError(f"no {name} {labels}")


def wait_until(condition, timeout_s=30):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def flags(tmp_path):
    return ["--kv-cache-dir", str(tmp_path / "kv"), "--kv-disk", "256M", "--kv-memory", "0.5", "-c", "4096"]


@pytest.fixture
def plain(start_server):
    """What a server without a store answers."""
    with start_server("-c", "4096", "--kv-memory", "0.5") as server:
        return said(ask(server))


@pytest.mark.parametrize("pool", [[], ["--kv-pool", "64M"]])
def test_restart_serves_the_prompt_from_disk(start_server, flags, plain, pool):
    with start_server(*flags, *pool) as server:
        first = ask(server)
        assert cached(first) == 0 and said(first) == plain
        assert server.terminate() == 0
    with start_server(*flags, *pool) as server:
        server.wait_output("blocks found")
        again = ask(server)
        assert said(again) == plain
        assert cached(again) > 0.9 * again["usage"]["prompt_tokens"]
        assert metric(server, "halfmoon_kv_store_hits_total", tier="disk") * 32 == cached(again)
        assert metric(server, "halfmoon_kv_store_corrupt_blocks_total", tier="disk") == 0
        # Now it is in pages.
        assert cached(ask(server)) >= cached(again)
        assert cached(ask(server, cache_salt="tenant")) == 0


def test_chat_counts_what_was_restored(start_server, flags):
    body = {"messages": [{"role": "system", "content": PROMPT}, {"role": "user", "content": "Hi"}], "max_tokens": 8,
            "temperature": 0}
    with start_server(*flags) as server:
        first = server.post_json("/v1/chat/completions", body)
        server.terminate()
    with start_server(*flags) as server:
        again = server.post_json("/v1/chat/completions", body)
    assert again["choices"] == first["choices"]
    assert cached(first) == 0 and cached(again) > 500


def ask_in_vain(server, prompt):
    """From a server that may end meanwhile."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        server.post_json("/v1/completions", {"prompt": prompt, "max_tokens": 2})


def test_killed_at_any_instant(start_server, flags, plain):
    chance = random.Random(5)
    restored = 0
    for _ in range(6):
        server = start_server(*flags)
        answer = ask(server)
        assert said(answer) == plain
        restored += cached(answer) > 0
        # Other prompts are being written when it ends.
        words = " ".join(str(chance.random()) for _ in range(60))
        client = threading.Thread(target=ask_in_vain, args=(server, words))
        client.start()
        time.sleep(chance.random() * 0.6)
        server.kill()
        client.join(30)
        assert not client.is_alive()
    assert restored >= 3


def test_damaged_files_are_never_used(start_server, flags, plain, tmp_path):
    with start_server(*flags) as server:
        ask(server)
        server.terminate()
    segments = sorted((tmp_path / "kv").glob("*.kvseg"))
    assert segments
    chance = random.Random(3)
    for segment in segments:
        content = bytearray(segment.read_bytes())
        for _ in range(200):
            content[chance.randrange(8192, len(content))] ^= 0x55
        segment.write_bytes(content)
    with start_server(*flags) as server:
        assert said(ask(server)) == plain
        server.terminate()
    for segment in sorted((tmp_path / "kv").glob("*.kvseg")):
        os.truncate(segment, segment.stat().st_size // 2 + 17)
    (tmp_path / "kv" / "mine.kvseg").write_bytes(os.urandom(9000))
    (tmp_path / "kv" / "notes.txt").write_text("keep")
    with start_server(*flags) as server:
        answer = ask(server)
        assert said(answer) == plain and cached(answer) == 0
        server.wait_output("cut short")
    assert (tmp_path / "kv" / "notes.txt").read_text() == "keep" and (tmp_path / "kv" / "mine.kvseg").exists()


def test_two_processes_do_not_share_a_folder(start_server, halfmoon_run, flags, model):
    with start_server(*flags):
        done = halfmoon_run("run", "-m", model, *flags, "--max-tokens", "2", "hello")
    assert done.returncode == 1
    assert "--kv-cache-dir" in done.stderr and "another halfmoon" in done.stderr


def test_smaller_budget_is_kept_at_once(start_server, flags, tmp_path):
    with start_server(*flags) as server:
        ask(server)
        server.terminate()
    flags[3] = "8M"
    with start_server(*flags) as server:
        size = sum(path.stat().st_size for path in (tmp_path / "kv").iterdir())
        assert size <= 8 << 20
        ask(server)
        assert sum(path.stat().st_size for path in (tmp_path / "kv").iterdir()) <= 8 << 20


@pytest.mark.parametrize("bad, message", [
    (["--kv-disk", "1G"], "--kv-cache-dir"),
    (["--kv-cache-dir", "kv"], "--kv-disk"),
    (["--kv-cache-dir", "kv", "--kv-disk", "1000"], "holds no KV block"),
    (["--kv-pool", "1000"], "holds no block"),
    (["--kv-cache-dir", "/proc/kv", "--kv-disk", "1G"], "/proc/kv"),
])
def test_flags_that_cannot_work_say_why(halfmoon_run, model, tmp_path, bad, message):
    bad = [str(tmp_path / "kv") if word == "kv" else word for word in bad]
    done = halfmoon_run("run", "-m", model, "-c", "512", *bad, "--max-tokens", "2", "hello")
    assert done.returncode == 1 and message in done.stderr


def test_full_disk_costs_blocks_and_no_answer(start_server, flags, plain, tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(mount)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip("a small file system cannot be mounted here: " + done.stderr.strip())
    try:
        flags[1], flags[3] = str(mount / "kv"), "64M"
        with start_server(*flags) as server:
            assert said(ask(server)) == plain
            wait_until(lambda: metric(server, "halfmoon_kv_store_pending_blocks") == 0)
            # One segment fits, and its blocks make room for others.
            assert metric(server, "halfmoon_kv_store_evictions_total", tier="disk") > 0
            server.wait_output("KV blocks go on in the space they have")
            for i in range(3):
                ask(server, prompt=f"{i} " + PROMPT)
            assert said(ask(server)) == plain
            assert server.terminate() == 0
        with start_server(*flags) as server:
            assert said(ask(server)) == plain
    finally:
        subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_comes_back_as_it_was(generate, golden, tmp_path, family):
    variants = sorted(path.parent for path in (golden / family).glob("*/config.json"))
    assert variants
    ids = [[(7 * i + 3) % 60 + 2 for i in range(75)]]
    common = ["--temperature", "1", "--seed", "3", "--max-tokens", "24", "--ignore-eos"]
    if family == "glm4_moe":
        common += ["--describe", ROOT / "examples" / "descriptions" / "glm4_moe.json"]
    for variant in variants:
        plain = generate(variant, *common, lists=ids)
        # One folder: each variant is another model to the next.
        store = ["--kv-cache-dir", tmp_path / "kv", "--kv-disk", "16M"]
        first = generate(variant, *common, *store, lists=ids)
        again = generate(variant, *common, *store, lists=ids)
        assert first["results"] == plain["results"] and again["results"] == plain["results"]
        assert first["timings"]["cached_tokens"] == 0
        assert again["timings"]["cached_tokens"] == 64

# SPDX-License-Identifier: Apache-2.0
"""`halfmoon bench`: which cases it prints and in which shape, and a peer that is played by a script."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

# Stands where a Python with llama-cpp-python would: called with -c, a program, and the program's arguments.
PEER = """#!{python}
import json, os, sys, time
model, threads, repack = sys.argv[-3:]
mode = {mode!r}
print(json.dumps({{"version": "0.0-" + threads}}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if mode == "dies" and request["do"] == "measure":
        os._exit(9)
    if mode == "nonsense":
        print("Segmentation fault", flush=True)
    elif mode == "silent":
        time.sleep(600)
    elif mode == "refuses":
        print(json.dumps({{"error": "cannot load " + model}}), flush=True)
    elif mode == "odd":
        print(json.dumps({{"seconds": []}}), flush=True)
    elif mode == "empty" and request["do"] == "measure":
        print(json.dumps({{"seconds": [], "tokens": 0}}), flush=True)
    elif request["do"] == "measure":
        assert request["passes"] >= 1
        seconds = [2.0, 1.0, 4.0] if repack == "on" else [8.0]
        print(json.dumps({{"tokens": 64, "seconds": seconds}}), flush=True)
    else:
        print(json.dumps({{"seconds": 0.5}}), flush=True)
"""


def bench(halfmoon, *arguments, **environment):
    # HALFMOON_MODEL, which tells these tests the default model, is -m to the program.
    inherited = {name: value for name, value in os.environ.items() if name != "HALFMOON_MODEL"}
    return subprocess.run([halfmoon, "bench", *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=300, env=inherited | environment)


@pytest.fixture
def peer(tmp_path):
    """peer(mode): a program that plays the peer's Python."""
    def make(mode="good"):
        path = tmp_path / f"python-{mode}"
        path.write_text(PEER.format(python=sys.executable, mode=mode))
        path.chmod(0o755)
        return path
    return make


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
    machine, *lines, load = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["case"] for line in lines] == [
        what + at for at in ("", " at 7", " at 100") for what in ("prefill 20", "decode x1", "decode x2")]
    assert [line["depth"] for line in lines] == [0] * 3 + [7] * 3 + [100] * 3
    assert all(line["tokens_per_s"] > 0 for line in lines)
    for line in lines:
        assert line["share_of_limit"] == pytest.approx(line["tokens_per_s"] / line["limit_tokens_per_s"])
    if kv_bytes is not None:
        assert {line["kv_bytes_per_token"] for line in lines} == {kv_bytes}
        assert f" {kv_bytes} bytes of KV a token" in done.stderr
    assert {line.get("mla_prefill") for line in lines} == ({"absorbed"} if is_latent else {None})
    assert machine["case"] == "machine"
    assert load["case"] == "load" and load["load_s"] > 0 and load["load_again_s"] > 0
    assert load["file_bytes"] > 0
    assert load["resident_over_file"] == pytest.approx(load["resident_bytes"] / load["file_bytes"])


def test_named_cases_in_words(halfmoon, golden):
    done = bench(halfmoon, "-m", golden / "qwen3" / "dense", "-c", 64, "-n", 2, "-r", 1, "--cases", "decode x3 at 5,prefill 9")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["decode x3 at 5", "prefill 9", "load", "resident memory"]
    assert "% of the machine's limit" in lines[0]


def test_usual_cases_that_do_not_fit_are_left_out(halfmoon, golden):
    done = bench(halfmoon, "-m", golden / "qwen3" / "dense", "-c", 64, "-n", 1, "-r", 1, "--json")
    assert done.returncode == 0, done.stderr
    cases = [json.loads(line)["case"] for line in done.stdout.splitlines()]
    assert cases == ["machine", "decode x1", "decode x4", "decode x16", "decode x64", "load"]
    assert "left out: prefill 4096: 4096 tokens do not fit the context of 64" in done.stderr


def test_depth_beyond_the_context_is_refused(halfmoon, golden):
    done = bench(halfmoon, "-m", golden / "qwen3" / "dense", "-c", 128, "-p", 20, "-n", 2, "--depth", 120)
    assert done.returncode == 1
    assert "prefill 20 at 120: 140 tokens do not fit the context of 128" in done.stderr


def test_machine_alone(halfmoon, tmp_path):
    done = bench(halfmoon, "--machine", "--json", XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    machine = json.loads(done.stdout)
    assert machine["isa"] in machine["limits"] and "generic" in machine["limits"]
    for limits in machine["limits"].values():
        assert all(limits[name] > 0 for name in ("read_bytes_per_s", "int8_ops_per_s", "f32_flops_per_s"))
    assert machine["disk"]["read_bytes_per_s"] > 0 and str(tmp_path) in machine["disk"]["file"]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]  # What it wrote to read is gone.


def test_machine_in_words_with_the_disk_of_a_model(halfmoon, model):
    done = bench(halfmoon, "--machine", "-m", model, "--isa", "generic")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["machine", *[word.split()[0] for word in lines[1:-1]], "disk"]
    assert "(in use, --isa)" in next(line for line in lines if line.startswith("generic"))
    assert str(model) in lines[-1]


@pytest.mark.parametrize("arguments, message", [
    ([], "-m names the model"),
    (["-m", "a", "-m", "b"], "several models are for --compare only"),
])
def test_wrong_usage(halfmoon, arguments, message):
    done = bench(halfmoon, *arguments)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize("arguments, message", [
    (["--machine", "--isa", "sse"], "instruction set"),
    (["--machine", "-m", "no/such/model"], "no/such/model"),
    (["-m", "x", "--cases", "decode four"], 'case "decode four"'),
    (["-m", "x", "--compare", "vllm"], "no such peer"),
    (["-m", "x", "--compare", "llama.cpp", "--cases", "decode"], 'case "decode"'),
])
def test_refused(halfmoon, arguments, message):
    done = bench(halfmoon, *arguments)
    assert done.returncode == 1
    assert message in done.stderr


COMPARE = ["--compare", "llama.cpp", "-c", 64, "-n", 2, "-r", 1, "-t", 2, "--rounds", 3, "--start-rounds", 2, "--no-priority"]


def test_compare_takes_turns_and_tells_both_sides(halfmoon, golden, peer, tmp_path):
    table = tmp_path / "table.md"
    done = bench(halfmoon, *COMPARE, "-m", golden / "qwen3" / "dense", "--peer-python", peer(), "--cases",
                 "decode x2,first token,prefill 8 at 4", "--json", "--markdown", table)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["case"] for line in lines] == ["decode x2", "first token", "prefill 8 at 4", "load"]
    for line in lines:
        assert line["threads"] == 2 and line["peer"]["llama_cpp_python"] == "0.0-2" and not line["priority_raised"]
    for line in (lines[0], lines[2]):
        assert line["unit"] == "tokens/s"
        # The median pass of a turn, and the better setting.
        assert line["llama_cpp"] == {"median": 32.0, "spread": 0.0, "rounds": [32.0] * 3, "repack": "on"}
        assert line["llama_cpp_other"]["off"]["median"] == 8.0
        ours = line["halfmoon"]["rounds"]
        assert len(ours) == 3 and line["ratio"]["max"] == pytest.approx(max(ours) / 32)
        assert line["share_of_limit"] > 0
    assert lines[1]["unit"] == "s" and lines[1]["llama_cpp"]["rounds"] == [0.5, 0.5]
    assert len(lines[1]["halfmoon"]["rounds"]) == 2
    assert set(lines[3]["sides"]) == {"halfmoon", "llama.cpp, repack on", "llama.cpp, repack off"}
    assert all(side["resident_bytes"] > 0 for side in lines[3]["sides"].values())
    # Whoever comes first is another one in each round.
    turns = [line.split(", ", 2)[2].split(": ")[0] for line in done.stderr.splitlines()
             if ": round " in line and ", decode x2, " in line]
    sides = ["halfmoon", "llama.cpp, repack on", "llama.cpp, repack off"]
    assert turns == sides + sides[1:] + sides[:1] + sides[2:] + sides[:2]
    text = table.read_text()
    assert "| decode x2 |" in text and "commit " in text and "llama-cpp-python 0.0-2" in text


def test_compare_in_words(halfmoon, golden, peer):
    done = bench(halfmoon, *COMPARE, "-m", golden / "qwen3" / "dense", "--peer-python", peer(), "--cases", "decode x1")
    assert done.returncode == 0, done.stderr
    assert "| dense | decode x1 | " in done.stdout


def test_one_model_fails_and_the_others_go_on(halfmoon, golden, peer):
    done = bench(halfmoon, *COMPARE, "-m", golden / "no-such-model", "-m", golden / "qwen3" / "dense", "--peer-python",
                 peer(), "--cases", "decode x1", "--json")
    assert done.returncode == 1
    assert "no-such-model" in done.stderr
    assert [json.loads(line)["case"] for line in done.stdout.splitlines()] == ["decode x1", "load"]


@pytest.mark.parametrize("mode, arguments, message", [
    ("dies", [], "decode x1: llama.cpp, repack on: ended with code 9 before it had answered"),
    ("nonsense", [], "llama.cpp, repack on: expected a line with a JSON object"),
    ("nonsense", [], "found: Segmentation fault"),
    ("refuses", [], "llama.cpp, repack on: cannot load"),
    ("empty", [], "llama.cpp, repack on: decode x1: expected tokens and seconds of passes"),
    ("odd", [], "llama.cpp, repack on: field 'seconds': expected a number"),
    ("silent", ["--answer-limit", 2], "llama.cpp, repack on: no answer within 2 s"),
])
def test_peer_that_fails_is_named(halfmoon, golden, peer, mode, arguments, message):
    done = bench(halfmoon, *COMPARE, "-m", golden / "qwen3" / "dense", "--peer-python", peer(mode), "--cases", "decode x1",
                 *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stdout == ""


def test_peer_python_that_is_none(halfmoon, golden, tmp_path):
    arguments = [*COMPARE, "-m", golden / "qwen3" / "dense", "--cases", "decode x1", "--peer-python"]
    done = bench(halfmoon, *arguments, tmp_path / "python")
    assert done.returncode == 1 and f"cannot run {tmp_path / 'python'}" in done.stderr
    # The worker that the program carries, in a Python that lacks the peer.
    (tmp_path / "llama_cpp.py").write_text("raise ImportError('left out for a test')")
    done = bench(halfmoon, *arguments, sys.executable, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1 and "has no llama-cpp-python that works: left out for a test" in done.stderr


def test_peer_is_made_once(halfmoon, golden, peer, tmp_path):
    # A python3 whose environments have a pip that only notes what it was asked.
    tools, cache = tmp_path / "tools", tmp_path / "cache"
    tools.mkdir()
    (tools / "python3").write_text(f"""#!/bin/sh
test "$1 $2 $3" = "-m venv --clear" || exit 7
mkdir -p "$4/bin"
printf '%s\\n' '#!/bin/sh' 'if [ "$1" = -m ]; then echo "$CMAKE_ARGS" "$@" >> {tmp_path}/pip; exit 0; fi' \
  'exec {peer()} "$@"' > "$4/bin/python"
chmod +x "$4/bin/python"
""")
    (tools / "python3").chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    for _ in range(2):
        done = bench(halfmoon, *COMPARE, "-m", golden / "qwen3" / "dense", "--cases", "decode x1", PATH=path,
                     XDG_CACHE_HOME=str(cache))
        assert done.returncode == 0, done.stderr
    asked = (tmp_path / "pip").read_text().splitlines()
    assert len(asked) == 1
    assert asked[0].startswith("-DGGML_NATIVE=ON -m pip install ")
    assert "--no-binary llama-cpp-python" in asked[0]
    requirements = (cache / "halfmoon" / "peers" / "llama.cpp-native" / "requirements.txt").read_text()
    assert requirements == (pathlib.Path(__file__).parents[2] / "bench" / "requirements.txt").read_text()


@pytest.mark.parametrize("script, message", [
    (None, "cannot run python3"),
    ("echo ensurepip is missing; exit 1", "ensurepip is missing"),
    ('mkdir -p "$4/bin"; printf "#!/bin/sh\\necho no network; exit 1" > "$4/bin/python"; chmod +x "$4/bin/python"',
     "build llama.cpp (native) from its source distribution failed"),
])
def test_peer_that_cannot_be_made(halfmoon, golden, tmp_path, script, message):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "mkdir", "chmod"):
        (tools / name).symlink_to(pathlib.Path("/bin") / name)
    if script is not None:
        (tools / "python3").write_text("#!/bin/sh\n" + script)
        (tools / "python3").chmod(0o755)
    done = bench(halfmoon, *COMPARE, "-m", golden / "qwen3" / "dense", "--cases", "decode x1", PATH=str(tools),
                 XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.returncode == 1
    assert message in done.stderr
    if script is None or "ensurepip" in script:
        assert "python3-venv" in done.stderr and "--peer-python" in done.stderr

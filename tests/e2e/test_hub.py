# SPDX-License-Identifier: Apache-2.0
"""`halfmoon pull`, and models by name, against a hub of the test's own that also does what hubs should not."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from hub import COMMIT, Hub, Repository, git_sha1, sha256

SHARDED = "org/sharded-moe"
WEIGHTS = "model.safetensors"


def files_of(folder: pathlib.Path) -> dict[str, bytes]:
    """A golden checkpoint as the files of a repository."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith("expected")}
    files["README.md"] = b"---\nlicense: apache-2.0\n---\n# A tiny model\n"
    return files


@pytest.fixture
def hub(golden):
    playing = Hub()
    playing.repositories["org/dense"] = Repository(files_of(golden / "qwen3" / "dense"))
    playing.repositories[SHARDED] = Repository(files_of(golden / "qwen3_moe" / "norm_topk"))
    yield playing
    playing.close()


class Machine:
    """A user's machine: the program with caches of its own and a hub."""

    def __init__(self, binary, hub, home):
        self.binary, self.home = binary, home
        self.hf_cache = home / ".cache" / "huggingface" / "hub"
        self.ms_cache = home / ".cache" / "modelscope"
        kept = {name: value for name, value in os.environ.items()
                if not name.startswith(("HALFMOON_", "HF_", "HUGGING", "MODELSCOPE_", "OLLAMA_", "XDG_", "TRANSFORMERS_"))
                and not name.lower().endswith("_proxy")}
        self.environment = kept | {"HOME": str(home), "HF_ENDPOINT": hub.url, "MODELSCOPE_ENDPOINT": hub.url}

    def start(self, *arguments, **environment):
        return subprocess.Popen([self.binary, *map(str, arguments)], env=self.environment | environment,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __call__(self, *arguments, **environment):
        """The finished process."""
        process = self.start(*arguments, **environment)
        stdout, stderr = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def snapshot(self, name, commit=COMMIT):
        return self.hf_cache / ("models--" + name.replace("/", "--")) / "snapshots" / commit

    def list(self, *arguments):
        return json.loads(self("list", "--json", *arguments).stdout)


@pytest.fixture
def machine(halfmoon, hub, tmp_path):
    return Machine(halfmoon, hub, tmp_path / "home")


def succeeded(done):
    assert done.returncode == 0, done.stderr
    return done


def failed(done, *messages):
    assert done.returncode == 1, (done.returncode, done.stderr)
    for message in messages:
        assert message in done.stderr, done.stderr
    return done


def check_answers(machine, name, golden_folder, tmp_path):
    """The model of that name gives the reference's logits."""
    prompts = [p["input_ids"] for p in json.loads((golden_folder / "expected.json").read_text())["prompts"]]
    (tmp_path / "ids.json").write_text(json.dumps(prompts))
    succeeded(machine("logits", "-m", name, "--ids", tmp_path / "ids.json", "--out", tmp_path / "out.safetensors",
                      "--activation", "f32"))
    succeeded(machine("logits", "-m", golden_folder, "--ids", tmp_path / "ids.json", "--out",
                      tmp_path / "direct.safetensors", "--activation", "f32"))
    found, expected = load_file(tmp_path / "out.safetensors"), load_file(tmp_path / "direct.safetensors")
    for i in range(len(prompts)):
        np.testing.assert_array_equal(found[f"logits.{i}"], expected[f"logits.{i}"])


def test_pull_then_the_model_answers_by_its_name(machine, hub, golden, tmp_path):
    done = succeeded(machine("pull", "org/dense"))
    assert "licence  apache-2.0\n" in done.stderr
    assert "of disk free" in done.stderr and "digests right" in done.stderr
    snapshot = machine.snapshot("org/dense")
    assert done.stdout == f"{snapshot}\n"
    # The layout of the hub's own tools: content by digest, relative links, the branch as a ref.
    files = hub.repositories["org/dense"].files
    for path, data in files.items():
        entry = snapshot / path
        assert entry.is_symlink() and entry.read_bytes() == data
        digest = sha256(data) if len(data) >= 100_000 else git_sha1(data)
        assert os.readlink(entry) == f"../../blobs/{digest}"
    assert (snapshot.parents[1] / "refs" / "main").read_text() == COMMIT
    assert {path.name for path in snapshot.parents[1].iterdir()} == {"blobs", "refs", "snapshots"}
    check_answers(machine, "org/dense", golden / "qwen3" / "dense", tmp_path)

    requests = len(hub.requests("/resolve/"))
    again = succeeded(machine("pull", "org/dense"))
    assert "nothing had to be fetched" in again.stderr and again.stdout == done.stdout
    assert len(hub.requests("/resolve/")) == requests


def test_the_hubs_own_library_and_halfmoon_read_each_others_cache(machine, hub):
    def library(name, **options):
        code = f"import huggingface_hub; print(huggingface_hub.snapshot_download({name!r}, **{options!r}))"
        return succeeded(subprocess.run([sys.executable, "-c", code], env=machine.environment, text=True, capture_output=True,
                                        timeout=120)).stdout.strip()

    succeeded(machine("pull", "org/dense"))
    assert library("org/dense", local_files_only=True) == str(machine.snapshot("org/dense"))
    assert library(SHARDED) == str(machine.snapshot(SHARDED))
    assert {model["name"] for model in machine.list()} == {"org/dense", SHARDED}
    asked = len(hub.requests("/resolve/"))
    assert "nothing had to be fetched" in succeeded(machine("pull", SHARDED)).stderr
    assert len(hub.requests("/resolve/")) == asked + 1  # the index, to know the shards
    succeeded(machine("run", "-m", SHARDED, "-n", 2, "Hello"))


def test_shards_are_pulled_whole(machine, hub, golden, tmp_path):
    succeeded(machine("pull", SHARDED))
    assert len(list(machine.snapshot(SHARDED).glob("model-0000?-of-00003.safetensors"))) == 3
    check_answers(machine, SHARDED, golden / "qwen3_moe" / "norm_topk", tmp_path)


def test_a_shard_that_the_repository_lacks_is_named_before_anything_is_fetched(machine, hub):
    del hub.repositories[SHARDED].files["model-00002-of-00003.safetensors"]
    failed(machine("pull", SHARDED), "model-00002-of-00003.safetensors", "missing from the repository")
    assert not machine.hf_cache.exists()


def test_a_shard_lost_from_the_cache_makes_the_model_incomplete(machine, hub):
    succeeded(machine("pull", SHARDED))
    (machine.snapshot(SHARDED) / "model-00002-of-00003.safetensors").unlink()
    failed(machine("run", "-m", SHARDED, "Hello"), "only in part", "model-00002-of-00003", f"halfmoon pull {SHARDED}")
    assert "model-00002-of-00003" in machine.list()[0]["missing"]
    succeeded(machine("pull", SHARDED))
    assert machine.list()[0]["missing"] == ""


@pytest.mark.parametrize("layout", ["huggingface", "modelscope"])
def test_a_broken_connection_is_resumed_where_it_broke(machine, hub, layout):
    size = len(hub.repositories["org/dense"].files[WEIGHTS])
    hub.faults.cut_after[WEIGHTS] = [300_000, 200_000]
    done = succeeded(machine("pull", "--hub", layout, "org/dense"))
    assert "trying again in 1 s" in done.stderr
    ranges = [seen.headers.get("range") for seen in hub.requests(WEIGHTS, "storage")]
    assert ranges == [None, "bytes=300000-", "bytes=500000-"]
    assert pathlib.Path(done.stdout.strip(), WEIGHTS).stat().st_size == size


def test_a_server_that_ignores_ranges_sends_the_file_again(machine, hub):
    hub.faults.cut_after[WEIGHTS] = [300_000]
    hub.faults.ignores_range.add(WEIGHTS)
    succeeded(machine("pull", "org/dense"))
    assert (machine.snapshot("org/dense") / WEIGHTS).read_bytes() == hub.repositories["org/dense"].files[WEIGHTS]


def test_ctrl_c_keeps_what_arrived_and_the_next_pull_goes_on(machine, hub):
    hub.faults.pause_after[WEIGHTS] = 400_000
    process = machine.start("pull", "org/dense")
    blobs = machine.snapshot("org/dense").parents[1] / "blobs"
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size == 400_000 for path in blobs.glob("*.incomplete")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in stderr
    # Nothing of it counts as a model yet.
    failed(machine("run", "-m", "org/dense", "Hello"), "halfmoon pull org/dense")
    assert [model["format"] for model in machine.list()] == [""]

    hub.faults.pause_after.clear()
    hub.faults.go_on.set()
    done = succeeded(machine("pull", "org/dense"))
    assert hub.requests(WEIGHTS, "storage")[-1].headers["range"] == "bytes=400000-"
    assert not list(blobs.glob("*.incomplete")) and "digests right" in done.stderr


@pytest.mark.parametrize("layout", ["huggingface", "modelscope"])
def test_a_wrong_digest_is_an_error_and_leaves_nothing_that_counts(machine, hub, layout):
    data = hub.repositories["org/dense"].files[WEIGHTS]
    hub.faults.instead[WEIGHTS] = data[:-1] + bytes([data[-1] ^ 1])
    failed(machine("pull", "--hub", layout, "org/dense"), f"org/dense: {WEIGHTS}: sha256 expected {sha256(data)}",
           "the bad copy was removed")
    assert not any(path.is_file() and path.stat().st_size == len(data) for path in machine.home.rglob("*"))
    assert not list(machine.home.rglob("*.incomplete"))
    failed(machine("run", "-m", "org/dense", "Hello"), "halfmoon pull org/dense")


def test_a_wrong_small_file_is_caught_by_its_git_digest(machine, hub):
    data = hub.repositories["org/dense"].files["config.json"]
    hub.faults.instead["config.json"] = data.replace(b"qwen3", b"qwen4")
    failed(machine("pull", "org/dense"), f"config.json: git sha1 expected {git_sha1(data)}")
    assert not list(machine.home.rglob("config.json"))


def test_a_bad_beginning_from_an_earlier_pull_is_fetched_again(machine, hub):
    data = hub.repositories["org/dense"].files[WEIGHTS]
    blobs = machine.snapshot("org/dense").parents[1] / "blobs"
    blobs.mkdir(parents=True)
    (blobs / (sha256(data) + ".incomplete")).write_bytes(b"x" * 1000)
    succeeded(machine("pull", "org/dense"))
    assert (machine.snapshot("org/dense") / WEIGHTS).read_bytes() == data


def test_a_file_longer_or_shorter_than_promised_is_refused(machine, hub):
    data = hub.repositories["org/dense"].files[WEIGHTS]
    hub.faults.instead[WEIGHTS] = data + b"more"
    failed(machine("pull", "org/dense"), "sends more than")
    assert not (machine.snapshot("org/dense") / WEIGHTS).exists()


def test_digests_that_the_list_leaves_out_come_from_the_headers(machine, hub):
    hub.repositories["org/dense"].lists_digests = False
    succeeded(machine("pull", "org/dense"))
    assert (machine.snapshot("org/dense") / WEIGHTS).read_bytes() == hub.repositories["org/dense"].files[WEIGHTS]
    assert any(seen.method == "HEAD" for seen in hub.requests(WEIGHTS))


def test_the_token_goes_to_the_hub_and_nowhere_else(machine, hub):
    hub.repositories["org/dense"].token = "hf_secret"
    succeeded(machine("pull", "org/dense", HF_TOKEN="hf_secret"))
    assert hub.requests(WEIGHTS, "hub") and hub.requests(WEIGHTS, "storage")
    for seen in hub.seen:
        assert ("authorization" in seen.headers) == (seen.origin == "hub")


def test_a_stored_token_is_used(machine, hub):
    hub.repositories["org/dense"].token = "hf_stored"
    (machine.home / ".cache" / "huggingface").mkdir(parents=True)
    (machine.home / ".cache" / "huggingface" / "token").write_text("hf_stored\n")
    succeeded(machine("pull", "org/dense"))


def test_no_access_says_what_to_do(machine, hub):
    hub.repositories["org/dense"].token = "hf_secret"
    failed(machine("pull", "org/dense"), "status 401", f"{hub.url}/org/dense", "set HF_TOKEN", "restricted")
    done = failed(machine("pull", "org/dense", HF_TOKEN="hf_wrong"), "status 403", "the token of HF_TOKEN")
    assert "hf_wrong" not in done.stderr
    failed(machine("pull", "org/dense", "--hub", "modelscope"), "MODELSCOPE_API_TOKEN")


def test_what_the_hub_does_not_have_is_named(machine, hub):
    failed(machine("pull", "org/absent"), "org/absent", "no such model")
    failed(machine("pull", "org/dense@v9"), "org/dense at revision v9")
    hub.repositories["org/pickled"] = Repository({"pytorch_model.bin": b"x", "config.json": b"{}"})
    failed(machine("pull", "org/pickled"), "pickled PyTorch files")
    assert machine("pull", "../etc/passwd").returncode == 2


def test_too_many_requests_waits_as_long_as_asked(machine, hub):
    hub.faults.statuses += [(429, {"Retry-After": "1"}), (503, {})]
    done = succeeded(machine("pull", "org/dense"))
    assert "status 429; trying again in 1 s" in done.stderr
    hub.faults.statuses += [(429, {"Retry-After": "86400"})]
    failed(machine("pull", "org/dense"), "come back in 86400 s")


def test_a_hub_that_is_not_there_is_an_error_with_a_way_out(machine):
    failed(machine("pull", "org/dense", HF_ENDPOINT="http://127.0.0.1:9"), "127.0.0.1 port 9", "HF_ENDPOINT", "given up")


@pytest.mark.parametrize("path", ["../../../../escaped", "/etc/escaped", "a/../../escaped", "a\\b", "a//b", "new\nline", "./b"])
def test_names_that_leave_their_folder_are_refused(machine, hub, path):
    hub.repositories["org/dense"].files[path + ".json"] = b"{}"
    failed(machine("pull", "org/dense"), "refused")
    failed(machine("pull", "--hub", "modelscope", "org/dense"), "refused")
    assert not machine.home.exists() or not list(machine.home.rglob("*escaped*"))


def test_offline_asks_nobody_and_still_runs_what_is_here(machine, hub):
    failed(machine("pull", "org/dense", HF_HUB_OFFLINE="1"), "offline mode is on (HF_HUB_OFFLINE)")
    assert hub.seen == []
    succeeded(machine("pull", "org/dense"))
    asked = len(hub.seen)
    done = succeeded(machine("run", "-m", "org/dense", "-n", 2, "Hello", HF_HUB_OFFLINE="1"))
    assert "licence  apache-2.0\n" in done.stderr
    assert len(hub.seen) == asked


def test_a_name_is_never_fetched_silently(machine, hub):
    failed(machine("run", "-m", "org/dense", "Hello"), "org/dense: there is no such file or folder", "halfmoon pull org/dense")
    assert hub.seen == []


def test_two_pulls_at_once_fetch_once_and_do_no_harm(machine, hub):
    hub.faults.pause_after[WEIGHTS] = 300_000
    first = machine.start("pull", "org/dense")
    deadline = time.monotonic() + 60
    while not hub.requests(WEIGHTS, "storage"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    second = machine.start("pull", "org/dense")
    deadline = time.monotonic() + 60
    while len(hub.requests("/revision/")) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    hub.faults.go_on.set()
    for process in (first, second):
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
    assert len(hub.requests(WEIGHTS, "storage")) == 1
    assert (machine.snapshot("org/dense") / WEIGHTS).read_bytes() == hub.repositories["org/dense"].files[WEIGHTS]


def test_dry_run_shows_the_cost_and_writes_nothing(machine, hub):
    hub.repositories["org/dense"].card = {"license": "other", "license_name": "house-rules", "license_link": "https://x/rules"}
    done = succeeded(machine("pull", "--dry-run", "org/dense"))
    assert "licence  house-rules: not a standard permissive licence" in done.stderr and "https://x/rules" in done.stderr
    assert "to fetch" in done.stderr and done.stdout == ""
    assert not machine.hf_cache.exists()


def test_modelscope_layout_and_licence(machine, hub, golden, tmp_path):
    done = succeeded(machine("pull", "--hub", "modelscope", "org/dense"))
    snapshot = machine.ms_cache / "models" / "org--dense" / "snapshots" / "master"
    assert done.stdout == f"{snapshot}\n" and "licence  apache-2.0\n" in done.stderr
    for path, data in hub.repositories["org/dense"].files.items():
        assert (snapshot / path).read_bytes() == data
    check_answers(machine, "org/dense", golden / "qwen3" / "dense", tmp_path)
    # A file whose size stayed and whose content did not is noticed, since its name says nothing.
    damaged = snapshot / WEIGHTS
    data = damaged.read_bytes()
    damaged.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    succeeded(machine("pull", "--hub", "modelscope", "org/dense"))
    assert damaged.read_bytes() == data


@pytest.mark.parametrize("layout", ["huggingface", "modelscope"])
def test_what_another_cache_holds_is_not_fetched_again(machine, hub, layout):
    other = {"huggingface": "modelscope", "modelscope": "huggingface"}[layout]
    hub.repositories["org/dense"].large_bytes = 10_000
    data = bytes(range(256)) * 8192
    hub.repositories["org/dense"].files[WEIGHTS] = data  # large enough to be worth a look
    succeeded(machine("pull", "--hub", other, "org/dense"))
    fetched = len(hub.requests(WEIGHTS, "storage"))
    done = succeeded(machine("pull", "--hub", layout, "org/dense"))
    assert "taken from other caches" in done.stderr
    assert len(hub.requests(WEIGHTS, "storage")) == fetched
    assert pathlib.Path(done.stdout.strip(), WEIGHTS).read_bytes() == data


@pytest.fixture
def gguf(golden, tmp_path):
    out = tmp_path / "made.gguf"
    subprocess.run([sys.executable, golden / "make_gguf.py", golden / "qwen3" / "dense", out], check=True, timeout=300)
    return out.read_bytes()


def test_one_of_several_gguf_files_is_chosen(machine, hub, gguf):
    hub.repositories["org/many-GGUF"] = Repository({"many-Q4_K_M.gguf": gguf, "many-Q8_0.gguf": gguf + b"\0" * 32,
                                                    "mmproj-F16.gguf": b"x", "README.md": b"---\nlicense: mit\n---\n"})
    done = succeeded(machine("pull", "org/many-GGUF"))
    assert done.stdout.endswith("many-Q4_K_M.gguf\n") and "others   Q8_0" in done.stderr
    failed(machine("run", "-m", "org/many-GGUF:Q8_0", "Hello"), "Q4_K_M")
    done = succeeded(machine("pull", "org/many-GGUF:q8_0"))
    assert done.stdout.endswith("many-Q8_0.gguf\n")
    succeeded(machine("run", "-m", "org/many-GGUF:Q8_0", "-n", 2, "Hello"))
    assert [model["name"] for model in machine.list()] == ["org/many-GGUF:Q4_K_M", "org/many-GGUF:Q8_0"]
    failed(machine("pull", "org/many-GGUF:Q2_K"), "no GGUF model 'Q2_K'", "Q4_K_M, Q8_0")

    succeeded(machine("rm", "--yes", "org/many-GGUF:Q8_0"))
    assert [model["name"] for model in machine.list()] == ["org/many-GGUF:Q4_K_M"]
    succeeded(machine("run", "-m", "org/many-GGUF", "-n", 2, "Hello"))


def test_a_path_that_exists_wins_over_a_name(machine, golden, tmp_path):
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "dense").symlink_to(golden / "qwen3" / "dense")
    done = subprocess.run([machine.binary, "show", "org/dense"], cwd=tmp_path, env=machine.environment, text=True,
                          capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "path     org/dense\n" in done.stdout and "licence  not stated" in done.stdout


def test_a_new_version_leaves_the_old_one_until_it_is_removed(machine, hub):
    repository = hub.repositories["org/dense"]
    succeeded(machine("pull", "org/dense"))
    repository.commit = "f" * 40
    repository.files["config.json"] = repository.files["config.json"] + b"\n"
    done = succeeded(machine("pull", "org/dense"))
    assert done.stdout == f"{machine.snapshot('org/dense', repository.commit)}\n"
    assert len(hub.requests(WEIGHTS, "storage")) == 1  # equal content is shared
    assert {model["name"] for model in machine.list()} == {"org/dense", f"org/dense@{COMMIT}"}
    old = succeeded(machine("rm", "--yes", f"org/dense@{COMMIT}"))
    assert f"remove   org/dense@{COMMIT}" in old.stderr
    assert [model["name"] for model in machine.list()] == ["org/dense"]
    succeeded(machine("run", "-m", "org/dense", "-n", 2, "Hello"))
    blobs = machine.snapshot("org/dense").parents[1] / "blobs"
    assert {path.read_bytes() for path in blobs.iterdir()} == set(repository.files.values())


def test_rm_asks_and_removes_only_what_was_named(machine, hub):
    succeeded(machine("pull", "org/dense"))
    succeeded(machine("pull", SHARDED))
    done = machine("rm", "org/dense")
    assert done.returncode == 2 and "--yes" in done.stderr
    assert len(machine.list()) == 2
    done = succeeded(machine("rm", "-y", "org/dense"))
    assert "frees    " in done.stderr
    assert [model["name"] for model in machine.list()] == [SHARDED]
    assert not machine.snapshot("org/dense").parents[1].exists()
    failed(machine("rm", "-y", "org/dense"), "not in the caches")
    succeeded(machine("run", "-m", SHARDED, "-n", 2, "Hello"))


def test_rm_of_a_model_in_two_caches_wants_to_know_which(machine, hub):
    succeeded(machine("pull", "org/dense"))
    succeeded(machine("pull", "--hub", "modelscope", "org/dense"))
    failed(machine("rm", "-y", "org/dense"), "huggingface, modelscope", "--hub")
    succeeded(machine("rm", "-y", "--hub", "modelscope", "org/dense"))
    assert [model["hub"] for model in machine.list()] == ["huggingface"]


def make_ollama_store(machine, models):
    """models: {(host, namespace, name, tag): [(media type, content)]}."""
    store = machine.home / ".ollama" / "models"
    (store / "blobs").mkdir(parents=True)
    for parts, layers in models.items():
        described = []
        for media_type, content in layers:
            (store / "blobs" / f"sha256-{sha256(content)}").write_bytes(content)
            described.append({"mediaType": "application/vnd.ollama.image." + media_type, "size": len(content),
                              "digest": "sha256:" + sha256(content)})
        manifest = store.joinpath("manifests", *parts)
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_text(json.dumps({"schemaVersion": 2, "layers": described}))
    return store


def test_models_of_ollama_are_listed_run_and_removed(machine, gguf):
    licence = ("license", b"                                 Apache License\n                           Version 2.0, January 2004\n")
    store = make_ollama_store(machine, {
        ("registry.ollama.ai", "library", "tiny", "latest"): [("model", gguf), licence],
        ("registry.ollama.ai", "library", "tiny", "copy"): [("model", gguf), ("params", b"{}")],
        ("hf.co", "org", "tiny-GGUF", "Q4_0"): [("model", gguf + b"\0" * 32)]})
    assert {model["name"] for model in machine.list("--hub", "ollama")} == {"tiny:latest", "tiny:copy", "org/tiny-GGUF:Q4_0"}
    for name in ("tiny", "tiny:copy", "org/tiny-GGUF"):
        succeeded(machine("run", "-m", name, "-n", 2, "Hello"))
    assert "licence  apache-2.0" in succeeded(machine("show", "tiny")).stdout
    # The weights serve another tag still.
    succeeded(machine("rm", "-y", "tiny:latest"))
    assert (store / "blobs" / f"sha256-{sha256(gguf)}").exists()
    assert not (store / "blobs" / f"sha256-{sha256(licence[1])}").exists()
    succeeded(machine("run", "-m", "tiny:copy", "-n", 2, "Hello"))
    succeeded(machine("rm", "-y", "tiny"))
    assert not (store / "blobs" / f"sha256-{sha256(gguf)}").exists()
    assert [model["name"] for model in machine.list()] == ["org/tiny-GGUF:Q4_0"]


def test_older_layouts_of_modelscope_are_found(machine, golden):
    place = machine.ms_cache / "hub" / "models" / "org" / "dense-0___5B"
    place.mkdir(parents=True)
    for path, data in files_of(golden / "qwen3" / "dense").items():
        (place / path).write_bytes(data)
    assert [model["name"] for model in machine.list()] == ["org/dense-0.5B"]
    succeeded(machine("run", "-m", "org/dense-0.5B", "-n", 2, "Hello"))
    succeeded(machine("rm", "-y", "org/dense-0.5B"))
    assert not place.exists() and machine.list() == []


def test_list_and_show_say_what_is_here(machine, hub):
    done = succeeded(machine("list"))
    assert done.stdout == "" and "halfmoon pull org/name" in done.stderr
    succeeded(machine("pull", SHARDED))
    table = succeeded(machine("list")).stdout.splitlines()
    assert table[0].split() == ["NAME", "SIZE", "FORMAT", "HUB"]
    assert table[1].split() == [SHARDED, "1.4", "MiB", "safetensors", "huggingface"]
    shown = json.loads(succeeded(machine("show", "--json", SHARDED)).stdout)
    assert shown["config"]["model_type"] == "qwen3_moe" and shown["license"] == "apache-2.0"
    assert shown["license_note"] == "" and shown["path"] == str(machine.snapshot(SHARDED))


def test_a_licence_that_is_not_permissive_says_so_everywhere(machine, hub, start_server, monkeypatch):
    note = "not a standard permissive licence"
    repository = hub.repositories["org/dense"]
    repository.card = {"license": "qwen-research"}
    repository.files["README.md"] = b"---\nlicense: qwen-research\n---\n"
    assert f"licence  qwen-research: {note}" in succeeded(machine("pull", "org/dense")).stderr
    assert f"licence  qwen-research: {note}" in succeeded(machine("run", "-m", "org/dense", "-n", 2, "Hello")).stderr
    assert f"licence  qwen-research: {note}" in succeeded(machine("show", "org/dense")).stdout
    monkeypatch.setenv("HF_HUB_CACHE", str(machine.hf_cache))
    server = start_server(model="org/dense")
    server.wait_output(f"licence  qwen-research: {note}")
    listed = json.loads(server.get_text("/v1/models"))["data"][0]
    assert listed["id"] == "org/dense" and listed["license"] == "qwen-research" and listed["license_note"].startswith(note)

# SPDX-License-Identifier: Apache-2.0
"""What the end-to-end tests share: one server for those that only ask, and a maker for those that need their own."""

import json
import os
import pathlib
import subprocess
import sys

import openai
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from server import ROOT, Server, binary, default_model, program_environment


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: left out of ./test, run by ./test --slow")


@pytest.fixture(scope="session", autouse=True)
def weight_cache(tmp_path_factory) -> pathlib.Path:
    """The folder of cached weights that all tests share, instead of the user's."""
    folder = tmp_path_factory.mktemp("weights")
    os.environ["HALFMOON_E2E_WEIGHT_CACHE_DIR"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def halfmoon() -> pathlib.Path:
    """The program."""
    path = binary()
    assert path.is_file(), f"{path} is not built; ./run build makes it"
    return path


@pytest.fixture(scope="session")
def model() -> pathlib.Path:
    """SmolLM2-135M-Instruct: a real tokenizer and chat template."""
    path = default_model()
    assert path.is_file(), f"{path} is not there; ./run fetches it"
    return path


@pytest.fixture(scope="session")
def golden() -> pathlib.Path:
    """Tiny reference checkpoints, <family>/<variant>/."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def server(halfmoon, model):
    """A server with default settings, shared: for tests that leave it as they found it."""
    with Server(model) as running:
        yield running


@pytest.fixture(scope="session")
def halfmoon_run(halfmoon):
    """halfmoon_run(*arguments): the finished process."""
    def run(*arguments):
        return subprocess.run([halfmoon, *map(str, arguments)], env=program_environment(), stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, errors="replace", timeout=300)
    return run


@pytest.fixture(scope="session")
def logits(halfmoon_run, tmp_path_factory):
    """logits(model, lists, *flags): path of the file that `halfmoon logits` wrote."""
    def run(model, lists, *flags):
        folder = tmp_path_factory.mktemp("logits")
        (folder / "ids.json").write_text(json.dumps(lists))
        done = halfmoon_run("logits", "-m", model, "--ids", folder / "ids.json", "--out", folder / "out.safetensors", *flags)
        assert done.returncode == 0, done.stderr
        return folder / "out.safetensors"
    return run


@pytest.fixture(scope="session")
def generate(halfmoon_run, tmp_path_factory):
    """generate(model, *flags, lists=None): the document that `halfmoon generate --json` printed."""
    def run(model, *flags, lists=None):
        if lists is not None:
            path = tmp_path_factory.mktemp("generate") / "ids.json"
            path.write_text(json.dumps(lists))
            flags = (*flags, "--ids", path)
        done = halfmoon_run("generate", "-m", model, "--json", *flags)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
    return run


@pytest.fixture
def start_server(halfmoon, model):
    """start_server(*flags, model=..., wait_ready=...): a server of the test's own, ended after it."""
    started = []

    def start(*flags: str, **options) -> Server:
        started.append(Server(options.pop("model", model), *flags, **options))
        return started[-1]

    yield start
    for running in started:
        running.kill()


@pytest.fixture
def client(server) -> openai.OpenAI:
    """The real OpenAI client on the shared server; it does not try again behind the test's back."""
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=60) as connected:
        yield connected


@pytest.fixture(scope="session")
def model_name(server) -> str:
    """What the server calls its model."""
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as connected:
        return connected.models.list().data[0].id


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    running = item.funcargs.get("server") if hasattr(item, "funcargs") else None
    if report.failed and running is not None:
        report.sections.append(("halfmoon serve", running.output[-8000:]))

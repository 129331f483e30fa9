# SPDX-License-Identifier: Apache-2.0
"""A real `halfmoon serve` for tests: started on a port of the system's choice, always ended."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
URL = re.compile(r"https?://[\w.\[\]:-]+:\d+")


def binary() -> pathlib.Path:
    """The program under test: HALFMOON_BINARY, or what ./run builds."""
    return pathlib.Path(os.environ.get("HALFMOON_BINARY", ROOT / "build" / "release" / "halfmoon"))


def default_model() -> pathlib.Path:
    """The model that ./run fetches: HALFMOON_MODEL, or its place in the cache."""
    if "HALFMOON_MODEL" in os.environ:
        return pathlib.Path(os.environ["HALFMOON_MODEL"])
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return cache / "halfmoon" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"


def program_environment() -> dict[str, str]:
    """The variables of a program under test: none of the user's flags, and no word to the user's cache of weights."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HALFMOON_")}
    environment["HALFMOON_WEIGHT_CACHE_DIR"] = os.environ["HALFMOON_E2E_WEIGHT_CACHE_DIR"]
    return environment


class Server:
    """One server process. Everything it prints is kept and shown when a test fails (`output`)."""

    def __init__(self, model: pathlib.Path, *flags: str, command: str = "serve", wait_ready: bool = True,
                 timeout_s: float = 60.0, environment: dict[str, str] | None = None, prefix: tuple[str, ...] = ()):
        defaults = [word for flag, value in (("--host", "127.0.0.1"), ("--port", "0")) if flag not in flags for word in (flag, value)]
        line = [*prefix, str(binary()), command, "-m", str(model), *defaults, *flags]
        self.process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        text=True, errors="replace", env=program_environment() | (environment or {}))
        self._lines: list[str] = []
        self._url: str | None = None
        self._url_seen = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self._deadline = time.monotonic() + timeout_s
            if not self._url_seen.wait(timeout_s) or self._url is None:
                raise RuntimeError(f"the server printed no URL within {timeout_s} s:\n{self.output}")
            if wait_ready:
                self.wait_ready()
        except BaseException:
            self.kill()
            raise

    def _read(self) -> None:
        for line in self.process.stdout:
            self._lines.append(line)
            match = URL.search(line)
            if match and self._url is None:
                self._url = match.group()
                self._url_seen.set()
        self._url_seen.set()

    @property
    def url(self) -> str:
        """Root of the server, no slash at the end."""
        return self._url

    @property
    def output(self) -> str:
        return "".join(self._lines)

    def wait_output(self, text: str, timeout_s: float = 20.0) -> None:
        """Until it has printed that: what a server has printed is read a moment later."""
        deadline = time.monotonic() + timeout_s
        while text not in self.output:
            assert time.monotonic() < deadline, f"not printed: {text}\n{self.output}"
            time.sleep(0.02)

    def status(self, path: str, timeout_s: float = 10.0) -> int:
        """HTTP status of a GET; 0 where no answer came."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=timeout_s) as response:
                return response.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def get_text(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=30) as response:
            return response.read().decode()

    def post_json(self, path: str, body: dict) -> dict:
        """The answer to a POST; a status that is no success raises."""
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    def wait_ready(self) -> None:
        while self.status("/ready") != 200:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}:\n{self.output}")
            if time.monotonic() > self._deadline:
                raise RuntimeError(f"the server did not get ready in time:\n{self.output}")
            time.sleep(0.02)

    def terminate(self, timeout_s: float = 30.0) -> int:
        """SIGTERM, then waits for the end. Returns the exit code; a server that does not end in time is a failure."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"the server did not end within {timeout_s} s of SIGTERM:\n{self.output}") from None
        self._reader.join(5)
        return code

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(5)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, kind, *_) -> None:
        # After a failed test a hanging server should not hide what failed first.
        if self.process.poll() is not None or kind is not None:
            self.kill()
        else:
            self.terminate()

# SPDX-License-Identifier: Apache-2.0
"""A real cluster for tests: a conductor and its nodes, each a process on loopback, always ended."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import signal
import socket
import subprocess
import time
import urllib.request

from server import Server

TOKEN = {"HALFMOON_CLUSTER_TOKEN": "a token for tests only"}


def free_port() -> int:
    """A port that nothing listens on now. Only for what has to be told its port before it starts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Cluster:
    """Nodes join the conductor, so either may be killed and started again. In a `network` (links.py), whose hosts have the
    names of the processes, each is on a host of its own."""

    def __init__(self, model: pathlib.Path, *conductor_flags: str, network=None):
        self.model = model
        self.network = network
        self.port = free_port()
        self.conductor_flags = conductor_flags
        self.nodes: dict[str, Server] = {}
        self.conductor: Server | None = None

    def start_conductor(self, wait_ready: bool = False, port: int | None = None) -> Server:
        flags = ["--cluster-port", str(self.port), *self.conductor_flags]
        if port is not None:
            flags += ["--port", str(port)]
        where, options = self._host("conductor")
        self.conductor = Server(self.model, *where, *flags, command="conductor", wait_ready=wait_ready, environment=TOKEN, **options)
        return self.conductor

    def _host(self, name: str) -> tuple[list[str], dict]:
        """Flags and options of a process on the host of its name."""
        if self.network is None:
            return [], {}
        address = self.network.address(name)
        return ["--host", address, "--cluster-host", address], {"prefix": self.network.inside(name)}

    def start_node(self, name: str, role: str, *flags: str, join: bool = True, **options) -> Server:
        where, on_host = self._host(name)
        if join:
            host = "127.0.0.1" if self.network is None else self.network.address("conductor")
            where += ["--join", f"{host}:{self.port}"]
        if self.network is not None:
            where += ["--transfer", "tcp"]  # other paths would go around the links
        self.nodes[name] = Server(self.model, "--role", role, "--node-name", name, "-t", "1", *where, *flags,
                                  environment=TOKEN, **on_host, **options)
        return self.nodes[name]

    def start(self, *roles: str, flags: tuple[str, ...] = ()) -> "Cluster":
        """A conductor and a node of each role, named after role and number: prefill0, decode1, ..."""
        self.start_conductor()
        for number, role in enumerate(roles):
            self.start_node(f"{role}{number}", role, *flags, wait_ready=False)
        for node in self.nodes.values():
            node.wait_ready()
        self.wait_nodes(len(roles))
        self.conductor.wait_ready()
        return self

    @property
    def url(self) -> str:
        return self.conductor.url

    def status(self) -> dict:
        return json.loads(self.conductor.get_text("/cluster.json"))

    def node(self, name: str) -> dict:
        return next((node for node in self.status()["nodes"] if node["name"] == name), {})

    def wait(self, condition, what: str, timeout_s: float = 30.0):
        """Until condition(status) holds."""
        deadline = time.monotonic() + timeout_s
        while not condition(status := self.status()):
            assert time.monotonic() < deadline, f"{what}: {json.dumps(status, indent=1)}\n{self.output}"
            time.sleep(0.05)
        return status

    def wait_nodes(self, count: int) -> None:
        self.wait(lambda status: sum(node["connected"] for node in status["nodes"]) == count, f"{count} nodes")

    def wait_idle(self, timeout_s: float = 20.0) -> dict:
        """No request anywhere, no page held by anything: what must come after every fault."""
        def idle(status):
            return status["requests"] == 0 and all(
                node["pages_in_use"] == node["exports"] == node["running"] == node["decodes"] == node["prefills"] == 0
                for node in status["nodes"] if node["connected"])
        return self.wait(idle, "pages or requests are left", timeout_s)

    def kill(self, name: str) -> None:
        self.nodes.pop(name).kill()

    def busy(self, load: str = "decodes") -> str:
        """Name of a node that has some of that load now."""
        has = lambda status: [node["name"] for node in status["nodes"] if node["connected"] and node[load] > 0]
        return has(self.wait(has, f"no node has {load}"))[0]

    def process(self, name: str) -> subprocess.Popen:
        return (self.conductor if name == "conductor" else self.nodes[name]).process

    def pause(self, name: str) -> None:
        self.process(name).send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self.process(name).send_signal(signal.SIGCONT)

    @property
    def output(self) -> str:
        every = {"conductor": self.conductor} | self.nodes
        return "\n".join(f"--- {name}\n{server.output}" for name, server in every.items() if server is not None)

    def close(self) -> None:
        for server in [*self.nodes.values(), self.conductor]:
            if server is not None:
                if server.process.poll() is None:
                    server.process.send_signal(signal.SIGCONT)
                server.kill()


@dataclasses.dataclass
class Choice:
    """What a stream brought for one of the n choices, put together again."""

    text: str = ""
    tokens: list = dataclasses.field(default_factory=list)
    logprobs: list = dataclasses.field(default_factory=list)
    end: str | None = None


def stream_choices(url: str, body: dict, on_piece=None, timeout_s: float = 120.0) -> list[Choice]:
    """All choices of a streamed completion with the logprob of each token; on_piece as for stream_text."""
    choices = [Choice() for _ in range(body.get("n", 1))]

    def take(chunk):
        for piece in chunk["choices"]:
            choice = choices[piece["index"]]
            assert choice.end is None, f"something after the end: {piece}"
            choice.text += piece["text"]
            choice.end = piece["finish_reason"]
            if piece.get("logprobs"):
                choice.tokens += piece["logprobs"]["tokens"]
                choice.logprobs += piece["logprobs"]["token_logprobs"]

    stream_text(url, {"logprobs": 1, **body}, on_piece, timeout_s, take)
    return choices


def stream_text(url: str, body: dict, on_piece=None, timeout_s: float = 120.0, on_chunk=None) -> tuple[str, dict]:
    """Text of a streamed completion and its last chunk; on_piece(count) is called after each piece."""
    body = {"temperature": 0, **body, "stream": True, "stream_options": {"include_usage": True}}
    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    text, count, last = "", 0, {}
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:
        for line in answer:
            data = line.decode().strip().removeprefix("data: ")
            if not line.startswith(b"data: "):
                continue
            if data == "[DONE]":
                return text, last
            last = json.loads(data)
            assert "error" not in last, last
            if on_chunk is not None:
                on_chunk(last)
            for choice in last["choices"]:
                text += choice["text"]
                count += 1
                if on_piece is not None:
                    on_piece(count)
    raise AssertionError("the stream ended without [DONE]")

# SPDX-License-Identifier: Apache-2.0
"""Processes of a cluster that die, stop, lie or lose their clients: what the others answer stays right, to the bit, and
no page, export or request is left behind."""

import concurrent.futures
import contextlib
import hmac
import itertools
import json
import os
import random
import socket
import struct
import time
import urllib.error
import urllib.parse

import pytest

import links
from cluster import TOKEN, Cluster, free_port, stream_choices, stream_text
from server import Server

# Of the default node flags only the batch differs: prompts take many steps, so that there is a middle to hit.
NODE = ("--batch-size", "64")
ROLES = {"prefill0": "prefill", "decode1": "decode", "decode2": "decode"}
# Silence after which a peer counts as gone (net::ChannelOptions::dead_after), seconds.
SILENCE_S = 3.0
SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 60}, "years": {"type": "integer"},
                                           "colour": {"enum": ["red", "green", "blue"]}},
          "required": ["name", "years", "colour"], "additionalProperties": False}
_numbers = itertools.count(1)


def prompt_of(tokens: int) -> str:
    """About so many tokens that no test has sent before."""
    return f"Story number {next(_numbers)}. " + "Once upon a time there was a fox who kept bees. " * (tokens // 11)


@pytest.fixture(scope="module")
def server(halfmoon, model):
    """What the answers have to equal."""
    with Server(model, "-t", "1") as alone:
        yield alone


@pytest.fixture(scope="module")
def running(halfmoon, model):
    cluster = Cluster(model, "--policy", "global")
    try:
        yield cluster.start(*ROLES.values(), flags=NODE)
    finally:
        cluster.close()


@pytest.fixture
def cluster(running):
    """One prefill node and two decode nodes, whatever the test before did to them."""
    for name, role in ROLES.items():
        if name not in running.nodes:
            running.start_node(name, role, *NODE)
    running.wait_nodes(len(ROLES))
    yield running
    running.wait_idle()


@pytest.fixture
def own_cluster(halfmoon, model):
    """own_cluster(*roles, conductor_flags=...): of the test's own."""
    with contextlib.ExitStack() as stack:
        def start(*roles, conductor_flags=()):
            made = Cluster(model, "--policy", "global", *conductor_flags)
            stack.callback(made.close)
            return made.start(*roles, flags=NODE)
        yield start


@contextlib.contextmanager
def in_background(call, *arguments):
    """The future of a call that runs beside the body of the `with`."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        yield pool.submit(call, *arguments)


def wait_prefilling(cluster, name="prefill0"):
    """Until the node has computed a part of a prompt, and not yet all of it."""
    def half_way(status):
        node = next((node for node in status["nodes"] if node["name"] == name and node["connected"]), None)
        return node and node["exports"] > 0 and node["pages_in_use"] > 8 and node["waiting_prompt_tokens"] > 0
    cluster.wait(half_way, "no prefill to be seen")


def at_piece(number, action):
    """For on_piece: runs the action once, after so many pieces."""
    def on_piece(count):
        if count == number:
            action()
    return on_piece


# --- a node dies ---


def test_prefill_node_killed_while_it_computes(cluster, server):
    body = {"prompt": prompt_of(2200), "max_tokens": 12, "seed": 1, "temperature": 0.8}
    with in_background(stream_choices, cluster.url, body) as answer:
        wait_prefilling(cluster)
        cluster.kill("prefill0")
        assert answer.result(60) == stream_choices(server.url, body)
    # The decode nodes go on alone.
    body["prompt"] = prompt_of(40)
    assert stream_choices(cluster.url, body) == stream_choices(server.url, body)


def test_decode_node_killed_while_its_kv_is_on_the_way(cluster, server):
    body = {"prompt": prompt_of(1500), "max_tokens": 12, "seed": 2, "temperature": 0.8}
    with in_background(stream_choices, cluster.url, body) as answer:
        wait_prefilling(cluster)
        cluster.kill(cluster.busy())
        assert answer.result(60) == stream_choices(server.url, body)


STREAMS = {
    "sampled": {"temperature": 0.9, "seed": 3, "top_p": 0.95, "logprobs": 3},
    "penalties": {"temperature": 1.0, "seed": 4, "presence_penalty": 0.8, "frequency_penalty": 0.4,
                  "repetition_penalty": 1.2, "logit_bias": {"260": -5}},
    "two": {"temperature": 0.8, "seed": 5, "n": 2},
    "grammar": {"temperature": 0.7, "seed": 6, "ignore_eos": False,
                "response_format": {"type": "json_schema", "json_schema": {"name": "fox", "schema": SCHEMA}}},
}


@pytest.mark.parametrize("kind", STREAMS)
def test_decode_node_killed_in_a_stream(cluster, server, kind):
    body = {"prompt": prompt_of(100), "max_tokens": 48, "ignore_eos": True, **STREAMS[kind]}
    moved = cluster.status()["moved"]
    answer = stream_choices(cluster.url, body, at_piece(9, lambda: cluster.kill(cluster.busy())))
    assert answer == stream_choices(server.url, body)
    cluster.wait(lambda status: status["moved"] > moved, "no request has moved")


def test_stream_outlives_three_nodes(own_cluster, server):
    """Each time the only node there is: the stream waits for it to come back."""
    cluster = own_cluster("both")

    def restart(count):
        if count in (8, 20, 32):
            cluster.kill("both0")
            cluster.start_node("both0", "both", *NODE, wait_ready=False)

    body = {"prompt": prompt_of(200), "max_tokens": 44, "ignore_eos": True, "seed": 7, "temperature": 0.9,
            "presence_penalty": 0.5}
    assert stream_choices(cluster.url, body, restart) == stream_choices(server.url, body)
    assert cluster.wait(lambda status: status["moved"] >= 3, "not moved")["failed"] == 0
    cluster.wait_idle()


def test_last_node_that_does_not_come_back_fails_the_stream_in_time(own_cluster):
    cluster = own_cluster("both", conductor_flags=("--wait-for-nodes", "1"))
    with pytest.raises(AssertionError, match="no node of the cluster can take requests now"):
        stream_text(cluster.url, {"prompt": "Count: one two three", "max_tokens": 400, "ignore_eos": True},
                    at_piece(8, lambda: cluster.kill("both0")))
    with pytest.raises(urllib.error.HTTPError) as refused:
        cluster.conductor.post_json("/v1/completions", {"prompt": "Hello", "max_tokens": 4})
    assert refused.value.code == 503
    assert "no node" in json.load(refused.value)["error"]["message"]
    cluster.start_node("both0", "both", *NODE)
    cluster.wait_nodes(1)
    assert cluster.conductor.post_json("/v1/completions", {"prompt": "Hello", "max_tokens": 4})["usage"]
    cluster.wait_idle()


def test_last_token_lost_ends_the_stream_all_the_same(cluster, server):
    """The node goes when every token is there and only the end is missing, or shortly before."""
    for piece in (10, 11, 12):
        body = {"prompt": prompt_of(50), "max_tokens": 12, "ignore_eos": True}
        answer = stream_choices(cluster.url, body, at_piece(piece, lambda: cluster.kill(cluster_decoder(cluster))))
        assert answer == stream_choices(server.url, body)
        for name, role in ROLES.items():
            if name not in cluster.nodes:
                cluster.start_node(name, role, *NODE)
        cluster.wait_nodes(len(ROLES))


def cluster_decoder(cluster):
    return next((node["name"] for node in cluster.status()["nodes"] if node["decodes"] > 0), "decode1")


# --- the conductor dies ---


def test_conductor_killed_and_started_again(own_cluster, server):
    cluster = own_cluster("prefill", "decode", conductor_flags=("--port", str(free_port())))
    known = {"prompt": prompt_of(300), "max_tokens": 8}
    first = stream_choices(cluster.url, known)
    lost = {"prompt": prompt_of(200), "max_tokens": 2000, "ignore_eos": True}
    with pytest.raises(Exception, match="IncompleteRead|reset|without"):
        stream_text(cluster.url, lost, at_piece(8, lambda: cluster.conductor.kill()))
    cluster.start_conductor()
    cluster.wait_nodes(2)
    cluster.conductor.wait_ready()
    # What the dead conductor had asked for ends by itself.
    cluster.wait_idle()
    assert stream_choices(cluster.url, known) == first == stream_choices(server.url, known)
    usage = cluster.conductor.post_json("/v1/completions", known)["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] > usage["prompt_tokens"] - 40
    cluster.wait_idle()


# --- a process is slow, not dead ---


@contextlib.contextmanager
def stopped(cluster, *names, seconds):
    """The processes do not run for so long, then they do."""
    for name in names:
        cluster.pause(name)
    try:
        time.sleep(seconds)
        yield
    finally:
        for name in names:
            cluster.resume(name)


@pytest.mark.parametrize("victim", ["prefill", "decode"])
def test_node_that_is_slow_loses_nothing(cluster, server, victim):
    """Shorter than the silence that counts as death: nothing is taken from it."""
    before = cluster.status()
    body = {"prompt": prompt_of(600), "max_tokens": 24, "seed": 8, "temperature": 0.8, "ignore_eos": True}
    with in_background(stream_choices, cluster.url, body) as answer:
        wait_prefilling(cluster)
        with stopped(cluster, "prefill0" if victim == "prefill" else cluster.busy(), seconds=1.0):
            pass
        assert answer.result(60) == stream_choices(server.url, body)
    after = cluster.status()
    assert (after["moved"], after["failed"]) == (before["moved"], before["failed"])


def test_nodes_stopped_for_long_count_as_gone_and_come_back(cluster, server):
    """The prefill node and a decode node in the middle of its stream; when they wake up, what they had is not wanted."""
    before = cluster.status()
    bodies = [{"prompt": prompt_of(800), "max_tokens": 8, "seed": 9, "temperature": 0.8},
              {"prompt": prompt_of(60), "max_tokens": 300, "ignore_eos": True}]
    with in_background(stream_choices, cluster.url, bodies[1]) as long, \
            in_background(stream_choices, cluster.url, bodies[0]) as prefilled:
        wait_prefilling(cluster)
        # The one that streams.
        victim = max(cluster.status()["nodes"], key=lambda node: node["running"] * (node["role"] == "decode"))["name"]
        with stopped(cluster, "prefill0", victim, seconds=SILENCE_S):
            cluster.wait_nodes(1)
            got = [prefilled.result(60), long.result(60)]
    assert got == [stream_choices(server.url, body) for body in bodies]
    cluster.wait_nodes(len(ROLES))
    after = cluster.wait_idle()
    assert after["moved"] > before["moved"] and after["failed"] == before["failed"]
    # They are of use again.
    before = after["disaggregated"]
    assert stream_choices(cluster.url, bodies[1] | {"max_tokens": 4, "prompt": prompt_of(80)})
    assert cluster.status()["disaggregated"] > before


@pytest.mark.slow
def test_conductor_stopped_for_long_goes_on_where_it_was(own_cluster, server):
    cluster = own_cluster("prefill", "decode")
    body = {"prompt": prompt_of(200), "max_tokens": 300, "ignore_eos": True, "seed": 10, "temperature": 0.9}

    def stop():
        cluster.pause("conductor")
        # The nodes notice, and cancel what they had of it.
        wait_idle_nodes(cluster.nodes.values())
        cluster.resume("conductor")

    assert stream_choices(cluster.url, body, at_piece(20, stop)) == stream_choices(server.url, body)
    assert cluster.status()["failed"] == 0
    cluster.wait_idle()


def wait_idle_nodes(nodes, timeout_s=20.0):
    """Until no node computes anything, by their own pages."""
    deadline = time.monotonic() + timeout_s
    while any(metric(node, "halfmoon_requests_running") > 0 for node in nodes):
        assert time.monotonic() < deadline, "a node goes on for a conductor that is silent"
        time.sleep(0.1)


def metric(server, name):
    return sum(float(line.split()[-1]) for line in server.get_text("/metrics").splitlines()
               if line.startswith(name) and not line.startswith("#"))


# --- the client goes ---


class Client:
    """A streaming request whose connection can be dropped at any time."""

    def __init__(self, url, body):
        where = urllib.parse.urlsplit(url)
        self.socket = socket.create_connection((where.hostname, where.port), timeout=30)
        data = json.dumps({**body, "stream": True}).encode()
        self.socket.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
                            + f"Content-Length: {len(data)}\r\n\r\n".encode() + data)

    def wait_pieces(self, count):
        seen = b""
        while seen.count(b"data: ") < count:
            assert (piece := self.socket.recv(65536)), seen
            seen += piece

    def close(self):
        self.socket.close()


@pytest.mark.parametrize("phase", ["prefill", "transfer", "stream"])
def test_client_gone_cancels_everything_everywhere(cluster, phase):
    received = sum(node["received_bytes"] for node in cluster.status()["nodes"])
    tokens = 60 if phase == "stream" else 2000
    client = Client(cluster.url, {"prompt": prompt_of(tokens), "max_tokens": 4000, "ignore_eos": True, "n": 2})
    if phase == "stream":
        client.wait_pieces(8)
    else:
        wait_prefilling(cluster)
    if phase == "transfer":
        cluster.wait(lambda status: sum(node["received_bytes"] for node in status["nodes"]) > received, "nothing is copied")
    cluster.wait(lambda status: status["requests"] == 2, "no requests to be seen")
    client.close()
    cluster.wait_idle(10.0)


# --- peers that lie ---


def greeted(port, token):
    """A connection to the cluster port that has proved itself."""
    peer = socket.create_connection(("127.0.0.1", port), timeout=10)
    nonce = os.urandom(32)
    peer.sendall(b"HMCHAN01" + nonce)
    theirs = receive(peer, 40)[8:]
    peer.sendall(hmac.digest(token.encode(), b"HMCHAN01dialler" + nonce + theirs, "sha256"))
    assert receive(peer, 32) == hmac.digest(token.encode(), b"HMCHAN01acceptor" + nonce + theirs, "sha256")
    return peer


def receive(peer, count):
    got = b""
    while len(got) < count:
        assert (piece := peer.recv(count - len(got))), "closed"
        got += piece
    return got


def frame(kind, payload, size=None):
    return struct.pack("<IHH", len(payload) if size is None else size, kind, 0) + payload


def nonsense(random_bytes):
    """What a stranger may send, then what somebody with the token may."""
    strangers = [b"", b"HMCHAN01", b"HMCHAN01" + random_bytes(17), b"HMCHAN01" + random_bytes(32) + random_bytes(32),
                 b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"y" * 64, random_bytes(65536)]
    hellos = [frame(1, struct.pack("<IB", 1, kind)) for kind in (0, 1)]
    insiders = [frame(1, struct.pack("<IB", 99, 0)), frame(1, b""), random_bytes(4096), frame(4, b"", 0xFFFFFFFF),
                frame(0xFFFF, b"life", 4), frame(3, random_bytes(30))]
    for hello in hellos:
        insiders.append(hello + hello)
        # A message that breaks off, and a pull of what does not exist by somebody who goes at once.
        insiders.append(hello + frame(4, random_bytes(100), 5_000_000))
        insiders.append(hello + frame(13, random_bytes(16)))
        insiders += [hello + frame(kind, random_bytes(size)) for kind in range(2, 19) for size in (0, 3, 40, 400)]
    return strangers, insiders


def test_nonsense_ends_no_process(cluster, server):
    token = TOKEN["HALFMOON_CLUSTER_TOKEN"]
    ports = [cluster.port] + [int(node["address"].rpartition(":")[2]) for node in cluster.status()["nodes"]]
    before = {name: node.process.pid for name, node in cluster.nodes.items()}
    for port in ports:
        strangers, insiders = nonsense(random.Random(port).randbytes)
        for data in strangers:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
                peer.sendall(data)
        for data in insiders:
            with contextlib.suppress(OSError), greeted(port, token) as peer:
                peer.sendall(data)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(65536):
                    pass
    for name, node in {**cluster.nodes, "conductor": cluster.conductor}.items():
        assert node.process.poll() is None, f"{name} has ended:\n{node.output}"
    assert before == {name: node.process.pid for name, node in cluster.nodes.items()}
    body = {"prompt": prompt_of(100), "max_tokens": 8}
    assert stream_choices(cluster.url, body) == stream_choices(server.url, body)


# --- links between hosts ---


@pytest.fixture(scope="module")
def far_running(halfmoon, model):
    if reason := links.why_not():
        pytest.skip(f"no hosts of their own here: {reason}")
    network = links.Network("conductor", "prefill0", "decode1")
    cluster = Cluster(model, "--policy", "global", network=network)
    try:
        yield cluster.start("prefill", "decode", flags=NODE)
    finally:
        cluster.close()
        network.close()


@pytest.fixture
def far(far_running):
    """A conductor, a prefill and a decode node on hosts of their own, with links that work."""
    between = [far_running.network.link(one, other) for one, other in
               itertools.combinations(("conductor", "prefill0", "decode1"), 2)]
    yield far_running
    for link in between:
        link.up, link.delay_s, link.loss, link.bytes_per_s = True, 0.0, 0.0, 0.0
    far_running.wait_nodes(2)
    far_running.wait_idle()


def kv_link(cluster):
    return cluster.network.link("prefill0", "decode1")


def wait_carried(link, count):
    """Until so many bytes more have gone over the link."""
    end = link.carried_bytes + count
    deadline = time.monotonic() + 30
    while link.carried_bytes < end:
        assert time.monotonic() < deadline, "no transfer to be seen"
        time.sleep(0.005)


def test_link_with_delay_and_loss(far, server):
    for one, other in itertools.combinations(("conductor", "prefill0", "decode1"), 2):
        far.network.link(one, other).delay_s = 0.05
        far.network.link(one, other).loss = 0.02
    before = far.status()
    body = {"prompt": prompt_of(300), "max_tokens": 24, "seed": 11, "temperature": 0.8, "ignore_eos": True}
    assert stream_choices(far.url, body) == stream_choices(server.url, body)
    after = far.status()
    assert after["disaggregated"] > before["disaggregated"]
    assert (after["moved"], after["failed"]) == (before["moved"], before["failed"])


def test_link_cut_for_less_than_the_silence_limit(far, server):
    body = {"prompt": prompt_of(700), "max_tokens": 12, "seed": 12, "temperature": 0.8}
    with in_background(stream_choices, far.url, body) as answer:
        wait_carried(kv_link(far), 2_000_000)
        kv_link(far).up = False
        time.sleep(2.0)
        kv_link(far).up = True
        assert answer.result(60) == stream_choices(server.url, body)


def test_link_cut_for_long_is_computed_around(far, server):
    body = {"prompt": prompt_of(700), "max_tokens": 12, "seed": 13, "temperature": 0.8}
    with in_background(stream_choices, far.url, body) as answer:
        wait_carried(kv_link(far), 2_000_000)
        kv_link(far).up = False
        got = answer.result(60)
    # While it is down, too.
    body_while = {"prompt": prompt_of(60), "max_tokens": 4}
    got_while = stream_choices(far.url, body_while)
    kv_link(far).up = True
    assert got == stream_choices(server.url, body)
    assert got_while == stream_choices(server.url, body_while)
    carried = kv_link(far).carried_bytes
    body["prompt"] = prompt_of(300)
    assert stream_choices(far.url, body) == stream_choices(server.url, body)
    assert kv_link(far).carried_bytes > carried + 1_000_000, "no KV is copied any more"


@pytest.mark.slow
def test_host_cut_off_for_ten_seconds_comes_back(far, server):
    """The only decode node, in the middle of its stream."""
    body = {"prompt": prompt_of(300), "max_tokens": 60, "seed": 14, "temperature": 0.8, "ignore_eos": True}

    def cut():
        for other in ("conductor", "prefill0"):
            far.network.link(other, "decode1").up = False
        time.sleep(10.0)
        for other in ("conductor", "prefill0"):
            far.network.link(other, "decode1").up = True

    assert stream_choices(far.url, body, at_piece(12, cut)) == stream_choices(server.url, body)


def test_link_of_which_a_tenth_is_left(far, server):
    link = kv_link(far)
    link.bytes_per_s = 40e6
    body = {"prompt": prompt_of(600), "max_tokens": 12, "seed": 15, "temperature": 0.8}
    with in_background(stream_choices, far.url, body) as answer:
        wait_carried(link, 2_000_000)
        link.bytes_per_s = 4e6
        assert answer.result(60) == stream_choices(server.url, body)

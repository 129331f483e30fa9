# SPDX-License-Identifier: Apache-2.0
"""Processes of a cluster that die, stop, lie or lose their clients: what the others answer stays right, to the bit, and
no page, export or request is left behind."""

import concurrent.futures
import contextlib
import itertools
import json
import time
import urllib.error

import pytest

import links
from cluster import Cluster, stream_choices, stream_text

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
    body = {"prompt": prompt_of(3000), "max_tokens": 12, "seed": 1, "temperature": 0.8}
    with in_background(stream_choices, cluster.url, body) as answer:
        wait_prefilling(cluster)
        cluster.kill("prefill0")
        assert answer.result(60) == stream_choices(server.url, body)
    # The decode nodes go on alone.
    body["prompt"] = prompt_of(40)
    assert stream_choices(cluster.url, body) == stream_choices(server.url, body)


def test_decode_node_killed_while_its_kv_is_on_the_way(cluster, server):
    body = {"prompt": prompt_of(3000), "max_tokens": 12, "seed": 2, "temperature": 0.8}
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
    body = {"prompt": prompt_of(900), "max_tokens": 12, "seed": 12, "temperature": 0.8}
    with in_background(stream_choices, far.url, body) as answer:
        wait_carried(kv_link(far), 2_000_000)
        kv_link(far).up = False
        time.sleep(2.0)
        kv_link(far).up = True
        assert answer.result(60) == stream_choices(server.url, body)

# SPDX-License-Identifier: Apache-2.0
"""A conductor in front of nodes: the same answers as one server, wherever they are computed."""

import concurrent.futures
import json
import urllib.error
import urllib.request

import openai
import pytest

from cluster import TOKEN, Cluster, stream_text
from server import Server

STORY = "Once upon a time there was a fox who kept bees. " * 12


@pytest.fixture(scope="module")
def cluster(halfmoon, model):
    running = Cluster(model, "--policy", "global")
    try:
        yield running.start("prefill", "decode", "decode")
    finally:
        running.close()


@pytest.fixture
def start_cluster(halfmoon, model):
    """start_cluster(*roles): a cluster of the test's own."""
    started = []

    def start(*roles, conductor_flags=(), flags=(), model=model):
        started.append(Cluster(model, *(conductor_flags or ("--policy", "global"))))
        return started[-1].start(*roles, flags=flags)

    yield start
    for running in started:
        running.close()


def complete(url, **body):
    body = {"temperature": 0, "max_tokens": 24, **body}
    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def test_answers_equal_those_of_one_server(cluster, server):
    for body in ({"prompt": STORY}, {"prompt": "Two plus two is", "seed": 5, "temperature": 0.9},
                 {"prompt": STORY + "The bees", "logprobs": 3, "n": 2, "seed": 1, "temperature": 0.7},
                 {"prompt": STORY, "echo": True, "logprobs": 1, "max_tokens": 1},
                 {"prompt": STORY, "presence_penalty": 0.8, "frequency_penalty": 0.3, "repetition_penalty": 1.2, "seed": 3,
                  "temperature": 1.0}):
        assert complete(cluster.url, **body)["choices"] == complete(server.url, **body)["choices"], body
    cluster.wait_idle()


def test_prompts_are_read_by_the_prefill_node(cluster):
    before = cluster.status()["disaggregated"]
    complete(cluster.url, prompt="A prompt that nobody has asked before. " * 20)
    assert cluster.status()["disaggregated"] == before + 1
    cluster.wait(lambda status: any(node["role"] == "decode" and node["received_bytes"] > 0 for node in status["nodes"]),
                 "no KV was copied")
    cluster.wait_idle()


def test_repeated_prompt_is_cached(cluster):
    prompt = "What is asked twice is computed once. " * 20
    complete(cluster.url, prompt=prompt)
    cluster.wait_idle()
    usage = complete(cluster.url, prompt=prompt)["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] > usage["prompt_tokens"] - 64


def test_grammar_goes_to_the_node(cluster, server):
    schema = {"type": "object", "properties": {"day": {"enum": ["Monday", "Friday"]}}, "required": ["day"],
              "additionalProperties": False}
    body = {"prompt": "The day as JSON: ", "max_tokens": 60,
            "response_format": {"type": "json_schema", "json_schema": {"name": "day", "schema": schema}}}
    answer = complete(cluster.url, **body)["choices"][0]["text"]
    assert answer == complete(server.url, **body)["choices"][0]["text"]
    assert json.loads(answer)["day"] in ("Monday", "Friday")


def test_openai_client_chats_and_streams(cluster, model_name):
    with openai.OpenAI(base_url=cluster.url + "/v1", api_key="none", max_retries=0, timeout=60) as client:
        messages = [{"role": "user", "content": "Say hello."}]
        whole = client.chat.completions.create(model=model_name, messages=messages, temperature=0, max_tokens=16)
        pieces = client.chat.completions.create(model=model_name, messages=messages, temperature=0, max_tokens=16, stream=True)
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole.choices[0].message.content


def test_many_at_once_get_their_own_answers(cluster, server):
    bodies = [{"prompt": f"{STORY} Chapter {number}.", "seed": number, "temperature": 0.8} for number in range(12)]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        got = list(pool.map(lambda body: complete(cluster.url, **body)["choices"], bodies))
    assert got == [complete(server.url, **body)["choices"] for body in bodies]
    cluster.wait_idle()


def test_too_long_prompt_names_both_lengths(cluster):
    with pytest.raises(urllib.error.HTTPError) as refused:
        complete(cluster.url, prompt="word " * 20000)
    assert refused.value.code == 400
    message = json.load(refused.value)["error"]["message"]
    assert "20" in message and "8192" in message


def test_pages_for_people_and_monitors(cluster):
    assert "<table>" in cluster.conductor.get_text("/cluster")
    names = {node["name"] for node in cluster.status()["nodes"]}
    assert names == {"prefill0", "decode1", "decode2"}
    metrics = cluster.conductor.get_text("/metrics")
    assert "halfmoon_requests_running" in metrics
    assert 'halfmoon_cluster_node_up{node="prefill0"} 1' in metrics


def test_node_with_another_model_is_refused_by_name(start_cluster, golden):
    cluster = start_cluster("both")
    other = Server(golden / "qwen3" / "dense", "--role", "both", "--node-name", "stranger", "--join",
                   f"127.0.0.1:{cluster.port}", environment=TOKEN)
    try:
        status = cluster.wait(lambda status: any("computes other bits" in node["error"] for node in status["nodes"]), "no error")
        assert sum(node["connected"] for node in status["nodes"]) == 1
    finally:
        other.kill()


def test_wrong_token_does_not_join(start_cluster, model):
    cluster = start_cluster("both")
    other = Server(model, "--role", "both", "--join", f"127.0.0.1:{cluster.port}", "--log-level", "debug",
                   environment={"HALFMOON_CLUSTER_TOKEN": "not the token of this cluster"})
    try:
        cluster.wait(lambda _: "another cluster token" in other.output, "the node was not refused")
        assert len(cluster.status()["nodes"]) == 1
    finally:
        other.kill()


def test_static_list_needs_no_join(halfmoon, model):
    cluster = Cluster(model)
    try:
        node = cluster.start_node("alone", "both", join=False)
        address = next(line.split(" at ")[1].split(",")[0] for line in node.output.splitlines() if line.startswith("cluster"))
        cluster.conductor_flags = ("--nodes", address)
        cluster.start_conductor(wait_ready=True)
        assert complete(cluster.url, prompt="Hello")["usage"]["completion_tokens"] > 0
    finally:
        cluster.close()


def test_node_drains_before_it_ends(start_cluster):
    cluster = start_cluster("both", "both")
    seen = []

    def drain(count):
        if count != 20:
            return
        busy = next(node["name"] for node in cluster.status()["nodes"] if node["decodes"] > 0)
        seen.append(busy)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            pool.submit(cluster.nodes[busy].process.terminate)

    text, last = stream_text(cluster.url, {"prompt": STORY, "max_tokens": 120, "ignore_eos": True}, drain)
    assert last["usage"]["completion_tokens"] == 120
    assert cluster.nodes[seen[0]].process.wait(30) == 0
    assert cluster.status()["moved"] == 0
    cluster.nodes.pop(seen[0])
    assert complete(cluster.url, prompt="After that")["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize("flags", [("--cluster-token", "short"), ()])
def test_without_a_secret_nothing_starts(halfmoon_run, model, flags):
    done = halfmoon_run("serve", "-m", model, "--port", "0", "--role", "both", *flags)
    assert done.returncode == 1
    assert "secret of at least 8 characters" in done.stderr


def test_overload_is_refused_with_the_time_to_come_back(start_cluster):
    cluster = start_cluster("both", conductor_flags=("--ttft-limit", "0.2", "--reject", "early"))
    complete(cluster.url, prompt=STORY * 4, max_tokens=8)  # costs are known from now on
    cluster.wait(lambda status: status["nodes"][0]["prompt_token_us"] > 0, "no costs")
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        def ask(number):
            try:
                return complete(cluster.url, prompt=f"{number} {STORY * 20}", max_tokens=4), None
            except urllib.error.HTTPError as error:
                return json.load(error), error
        answers = list(pool.map(ask, range(12)))
    refused = [(body, error) for body, error in answers if error is not None]
    assert refused, "nothing was refused"
    for body, error in refused:
        assert error.code == 429 and 1 <= int(error.headers["Retry-After"]) <= 120
        assert "the first token would take" in body["error"]["message"]
    cluster.wait_idle()


def test_classes_have_limits_and_priorities_of_their_own(start_cluster):
    cluster = start_cluster("both", conductor_flags=("--service-class", "hurried,ttft=0.2,priority=1",
                                                     "--reject", "early"))
    complete(cluster.url, prompt=STORY * 4, max_tokens=8)  # costs are known from now on
    cluster.wait(lambda status: status["nodes"][0]["prompt_token_us"] > 0, "no costs")
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        def ask(number):
            tier = ("default", "hurried")[number % 2]
            try:
                answer = complete(cluster.url, prompt=f"{number} {STORY * 20}", max_tokens=4, service_tier=tier)
                assert answer["service_tier"] == tier
                return 200
            except urllib.error.HTTPError as error:
                assert error.code == 429 and "the first token would take" in json.load(error)["error"]["message"]
                return error.code
        answers = list(pool.map(ask, range(12)))
    assert set(answers[::2]) == {200}, "nothing was promised to these"
    assert 429 in answers[1::2], "nothing was refused"
    cluster.wait_idle()
    with pytest.raises(urllib.error.HTTPError) as refused:
        complete(cluster.url, prompt="Hello", service_tier="gold")
    assert refused.value.code == 400 and "'default', 'hurried'" in json.load(refused.value)["error"]["message"]

# SPDX-License-Identifier: Apache-2.0
"""The server as an operator sees it: overload, cancelling, shutdown, keys, metrics, raw HTTP."""

import concurrent.futures
import http.client
import json
import os
import re
import shutil
import socket
import threading
import time
import urllib.parse

import openai
import pytest

LONG = {"prompt": "Tell a very long story.", "max_tokens": 1500, "temperature": 1, "ignore_eos": True}


def connect(server, **options) -> openai.OpenAI:
    options.setdefault("api_key", "none")
    return openai.OpenAI(base_url=server.url + "/v1", max_retries=0, timeout=60, **options)


def raw(server) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urllib.parse.urlsplit(server.url).netloc, timeout=30)


def metric(server, name: str) -> float:
    """Sum over the labels of one metric."""
    text = server.get_text("/metrics")
    values = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
    assert values, f"{name} is not in /metrics"
    return sum(float(value) for value in values)


def wait_until(condition, what: str, timeout_s: float = 20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s} s"
        time.sleep(0.02)


def open_stream(server, body: dict) -> socket.socket:
    """A streaming completion over a bare socket, whose first bytes have come."""
    payload = json.dumps({**body, "stream": True}).encode()
    url = urllib.parse.urlsplit(server.url)
    connection = socket.create_connection((url.hostname, url.port), timeout=30)
    connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
                       b"Content-Length: %d\r\n\r\n%s" % (len(payload), payload))
    return connection


def test_disconnect_in_the_middle_of_a_stream_frees_the_engine(server):
    connection = open_stream(server, LONG)
    assert b"200 OK" in connection.recv(4096)
    wait_until(lambda: metric(server, "halfmoon_requests_running") == 1, "the request running")
    connection.close()
    wait_until(lambda: metric(server, "halfmoon_requests_running") == 0, "the engine being idle again")


def test_client_close_cancels(server):
    with connect(server) as client:
        stream = client.completions.create(model="", stream=True, prompt=LONG["prompt"], max_tokens=1500,
                                           extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
    wait_until(lambda: metric(server, "halfmoon_requests_running") == 0, "the engine being idle again")


def test_disconnect_while_waiting_leaves_the_queue(start_server):
    server = start_server("--parallel", "1", "--max-queue", "4")
    first = open_stream(server, LONG)
    assert b"200 OK" in first.recv(4096)
    wait_until(lambda: metric(server, "halfmoon_requests_running") == 1, "the first request running")
    second = open_stream(server, LONG)
    wait_until(lambda: metric(server, "halfmoon_requests_waiting") == 1, "the second request waiting")
    second.close()
    wait_until(lambda: metric(server, "halfmoon_requests_waiting") == 0, "the second request leaving the queue")
    assert metric(server, "halfmoon_requests_running") == 1
    first.close()


def test_overload_is_429_and_passes(start_server):
    server = start_server("--parallel", "2", "--max-queue", "2")

    def ask(_):
        try:
            with connect(server) as client:
                client.completions.create(model="", prompt="Once", max_tokens=60, extra_body={"ignore_eos": True})
            return "served"
        except openai.RateLimitError as error:
            assert int(error.response.headers["retry-after"]) >= 1
            assert error.type == "rate_limit_error"
            return "refused"

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(ask, range(16)))
    assert outcomes.count("refused") >= 1
    assert outcomes.count("served") >= 2
    assert ask(0) == "served"


def test_health_answers_while_the_engine_is_busy(server):
    streams = [open_stream(server, LONG) for _ in range(4)]
    for _ in range(10):
        started = time.monotonic()
        assert server.status("/health") == 200
        assert time.monotonic() - started < 2
    for stream in streams:
        stream.close()


def test_sigterm_lets_short_answers_end(start_server):
    server = start_server()
    answers = []

    def ask():
        with connect(server) as client:
            answers.append(client.completions.create(model="", prompt="Once", max_tokens=40,
                                                     extra_body={"ignore_eos": True}))

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: metric(server, "halfmoon_requests_running") == 1, "the request running")
    assert server.terminate() == 0
    asking.join(10)
    assert answers[0].choices[0].finish_reason == "length"


def test_sigterm_ends_long_streams_with_a_reason(start_server):
    server = start_server("--grace-seconds", "1")
    ended = []

    def read():
        with connect(server) as client:
            try:
                for chunk in client.completions.create(model="", prompt="Once", max_tokens=1900, stream=True,
                                                       extra_body={"ignore_eos": True}):
                    if chunk.choices and chunk.choices[0].finish_reason:
                        ended.append(chunk.choices[0].finish_reason)
            except openai.APIError as error:
                ended.append(error.message)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    wait_until(lambda: metric(server, "halfmoon_requests_running") == 4, "the streams running")
    assert server.terminate(20) == 0
    for reader in readers:
        reader.join(10)
        assert not reader.is_alive()
    assert len(ended) == 4
    assert all(reason == "length" or "shutting down" in reason for reason in ended), ended


def test_api_keys(start_server):
    server = start_server("--api-key", "one-key", "--served-model-name", "my-model")
    with connect(server, api_key="wrong") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.models.list()
        assert caught.value.code == "invalid_api_key"
    with connect(server, api_key="one-key") as client:
        assert [model.id for model in client.models.list()] == ["my-model"]
    assert server.status("/health") == server.status("/ready") == server.status("/metrics") == 200
    assert server.status("/v1/models") == 401


def test_short_context_is_kept(start_server):
    server = start_server("-c", "64")
    with connect(server) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model="", prompt=[5] * 100)
        assert "100" in caught.value.message and "64" in caught.value.message
        answer = client.completions.create(model="", prompt=[5] * 60, max_tokens=50, extra_body={"ignore_eos": True})
        assert answer.usage.completion_tokens == 4 and answer.choices[0].finish_reason == "length"


def test_experts_on_disk_answer_the_same_and_survive_a_broken_file(start_server, golden, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(golden / "minimax_m2" / "bf16", folder)
    request = {"model": "", "prompt": [7, 30, 99, 12] * 10, "max_tokens": 20, "temperature": 1, "seed": 5,
               "extra_body": {"ignore_eos": True}}
    with connect(start_server(model=folder)) as client:
        expected = client.completions.create(**request).choices[0].text
    server = start_server("--expert-memory", "512K", model=folder)
    with connect(server) as client:
        assert client.completions.create(**request).choices[0].text == expected
        assert metric(server, "halfmoon_expert_misses_total") > 0
        assert metric(server, "halfmoon_expert_read_bytes_total") > 0
        file = folder / "model.safetensors"
        os.truncate(file, file.stat().st_size * 3 // 4)
        with pytest.raises(openai.InternalServerError) as caught:
            client.completions.create(**{**request, "prompt": [40, 3, 77, 21] * 30})
        assert "model.safetensors" in caught.value.message and ".experts." in caught.value.message
    assert server.status("/ready") == 200
    assert metric(server, "halfmoon_expert_errors_total") > 0


def test_metrics_count(server):
    before = metric(server, "vllm:generation_tokens_total")
    with connect(server) as client:
        answer = client.completions.create(model="", prompt="Once", max_tokens=5, extra_body={"ignore_eos": True})
    assert metric(server, "vllm:generation_tokens_total") - before == answer.usage.completion_tokens
    for name in ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
                 "vllm:time_to_first_token_seconds_count", "vllm:time_per_output_token_seconds_count",
                 "vllm:e2e_request_latency_seconds_count", "vllm:prompt_tokens_total", "vllm:request_success_total",
                 "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"):
        metric(server, name)


def test_metrics_count_guesses(start_server):
    # A text that repeats itself: n-grams, which are the default, find what follows.
    server = start_server("--no-draft-adaptive")
    text = "one two three four five six seven eight nine ten. " * 8
    with connect(server) as client:
        client.completions.create(model="", prompt=text, max_tokens=60, temperature=0, extra_body={"ignore_eos": True})
    drafted = metric(server, "vllm:spec_decode_num_draft_tokens_total")
    accepted = metric(server, "vllm:spec_decode_num_accepted_tokens_total")
    assert drafted >= accepted > 0 and metric(server, "vllm:spec_decode_num_drafts_total") > 0
    assert metric(server, "halfmoon_engine_steps_total") < 60


def cpu_ticks(server) -> int:
    """Processor time of all threads of the server so far, in clock ticks."""
    with open(f"/proc/{server.process.pid}/stat", encoding="utf-8") as file:
        # The name in parentheses may hold spaces; utime and stime are the 12th and 13th field after it.
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_idle_server_uses_no_cpu(start_server):
    server = start_server()
    server.post_json("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 32})
    time.sleep(0.5)  # what the last request left to do
    before = cpu_ticks(server)
    time.sleep(3)
    used = (cpu_ticks(server) - before) / os.sysconf("SC_CLK_TCK")
    # One thread that polls would be at 3 s, one that wakes a thousand times a second at about 0.05.
    assert used <= 0.03, server.output


def test_long_prompt_leaves_running_answers_their_share(start_server):
    server = start_server("--decode-share", "0.5", "--max-stall", "20")
    client = connect(server)
    options = {key: value for key, value in LONG.items() if key != "ignore_eos"}
    with client.completions.create(model="", stream=True, extra_body={"ignore_eos": True}, **options) as stream:
        next(iter(stream))
        answer = server.post_json("/v1/completions", {"prompt": "one two three " * 200, "max_tokens": 1})
        assert answer["usage"]["prompt_tokens"] > 500
        assert metric(server, "halfmoon_requests_running") >= 1, "the answer ended before the prompt was read"
        # It was read in chunks smaller than a step, with steps between them that only decode.
        assert 0 < metric(server, "halfmoon_prompt_chunk_tokens") < 512
        assert metric(server, "halfmoon_prompt_wait_steps_total") > 0
        assert metric(server, "halfmoon_decode_step_seconds") > 0


def test_connection_is_kept(server):
    connection = raw(server)
    connection.connect()
    port = connection.sock.getsockname()[1]
    body = json.dumps({"prompt": "Hi", "max_tokens": 1})
    for method, path, payload in (("GET", "/health", None), ("POST", "/v1/completions", body),
                                  ("GET", "/nothing", None), ("POST", "/v1/completions", "{"),
                                  ("POST", "/v1/completions", body)):
        connection.request(method, path, payload, {"Content-Type": "application/json"})
        connection.getresponse().read()
        assert connection.sock is not None and connection.sock.getsockname()[1] == port
    connection.close()


@pytest.mark.parametrize("method, path, body, status", [
    ("GET", "/nothing", None, 404), ("GET", "/v1/chat/completions", None, 405), ("POST", "/v1/completions", "{", 400),
    ("POST", "/v1/completions", "[" * 5000, 400), ("POST", "/v1/completions", '{"prompt": "\ud800"}', 400),
    ("POST", "/v1/completions", '{"prompt": 1}', 400)])
def test_errors_have_one_shape(server, method, path, body, status):
    connection = raw(server)
    payload = None if body is None else body.encode("utf-8", "surrogatepass")
    connection.request(method, path, payload, {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.status == status
    assert set(json.loads(response.read())["error"]) == {"message", "type", "param", "code"}
    connection.close()


def test_landing_page_has_lines_to_paste(server):
    page = server.get_text("/")
    assert server.url + "/v1" in page and "curl" in page and "openai" in page

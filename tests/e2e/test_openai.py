# SPDX-License-Identifier: Apache-2.0
"""The real OpenAI client against a real server with a real model: what every user of the API relies on."""

import concurrent.futures
import json
import math

import openai
import pytest

HELLO = [{"role": "user", "content": "Say hello in one short sentence."}]


def chat(client, model_name, **fields):
    fields.setdefault("messages", HELLO)
    fields.setdefault("max_tokens", 16)
    fields.setdefault("temperature", 0)
    return client.chat.completions.create(model=model_name, **fields)


def complete(client, model_name, **fields):
    fields.setdefault("max_tokens", 8)
    fields.setdefault("temperature", 0)
    return client.completions.create(model=model_name, **fields)


def text_of(stream) -> str:
    return "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)


def test_chat_answers(client, model_name):
    answer = chat(client, model_name)
    assert answer.object == "chat.completion" and answer.model == model_name
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content.strip()
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens is not None
    assert answer.system_fingerprint.startswith("fp_")


def test_stream_equals_whole_answer(client, model_name):
    whole = chat(client, model_name).choices[0].message.content
    chunks = list(chat(client, model_name, stream=True, stream_options={"include_usage": True}))
    assert text_of(chunks) == whole
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in chunks}) == 1
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_max_tokens_is_the_length(client, model_name):
    answer = chat(client, model_name, max_tokens=3, extra_body={"ignore_eos": True})
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3
    answer = client.chat.completions.create(model=model_name, messages=HELLO, max_completion_tokens=2,
                                            extra_body={"ignore_eos": True})
    assert answer.usage.completion_tokens == 2


def test_stop_cuts_the_text(client, model_name):
    whole = complete(client, model_name, prompt="One, two, three, four,", max_tokens=24).choices[0].text
    stop = whole[6:9]
    cut = complete(client, model_name, prompt="One, two, three, four,", max_tokens=24, stop=[stop, "never there"])
    assert cut.choices[0].text == whole[: whole.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    streamed = complete(client, model_name, prompt="One, two, three, four,", max_tokens=24, stop=stop, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed if chunk.choices) == cut.choices[0].text


def test_same_seed_same_output_alone_and_in_a_batch(client, model_name):
    def draw(seed):
        return chat(client, model_name, temperature=1.2, seed=seed, max_tokens=24).choices[0].message.content

    alone = [draw(seed) for seed in range(4)]
    assert len(set(alone)) > 1
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        together = list(pool.map(draw, [0, 1, 2, 3] * 3))
    assert together == alone * 3


def test_n_choices_differ_and_repeat(client, model_name):
    def draw():
        answer = chat(client, model_name, n=3, seed=11, temperature=1.5, max_tokens=20)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.message.content for choice in answer.choices]

    first = draw()
    assert len(set(first)) == 3
    assert draw() == first
    alone = chat(client, model_name, seed=11, temperature=1.5, max_tokens=20).choices[0].message.content
    assert first[0] == alone
    streamed = {0: "", 1: "", 2: ""}
    for chunk in chat(client, model_name, n=3, seed=11, temperature=1.5, max_tokens=20, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert list(streamed.values()) == first


def test_sixteen_at_once(client, model_name):
    prompts = [f"Count from {i} to {i + 3}:" for i in range(16)]
    alone = [complete(client, model_name, prompt=prompt).choices[0].text for prompt in prompts]

    def stream(prompt):
        chunks = complete(client, model_name, prompt=prompt, stream=True)
        return "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert list(pool.map(stream, prompts)) == alone


def test_chat_logprobs(client, model_name):
    answer = chat(client, model_name, logprobs=True, top_logprobs=3, max_tokens=6)
    entries = answer.choices[0].logprobs.content
    spelled = b"".join(bytes(entry.bytes) for entry in entries).decode()
    assert spelled.strip() == answer.choices[0].message.content.strip()
    for entry in entries:
        assert entry.logprob <= 0 and len(entry.top_logprobs) == 3
        values = [top.logprob for top in entry.top_logprobs]
        assert values == sorted(values, reverse=True)
        assert entry.logprob == values[0]  # greedy
    streamed = [entry for chunk in chat(client, model_name, logprobs=True, top_logprobs=3, max_tokens=6, stream=True)
                for choice in chunk.choices if choice.logprobs for entry in choice.logprobs.content]
    assert [(e.token, e.logprob) for e in streamed] == [(e.token, e.logprob) for e in entries]


def test_echo_scores_a_prompt(client, model_name, server):
    """As lm-eval asks: the prompt's own logprobs, one generated token at the end."""
    ids = tokenize(server, "The capital of France is Paris.")
    answer = complete(client, model_name, prompt=[ids], echo=True, max_tokens=1, logprobs=1, seed=1234)
    logprobs = answer.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == len(ids) + 1
    assert logprobs.token_logprobs[0] is None
    assert all(value <= 0 and math.isfinite(value) for value in logprobs.token_logprobs[1:])
    assert logprobs.token_logprobs[-1] == max(logprobs.top_logprobs[-1].values())
    assert answer.choices[0].text.startswith("The capital of France is Paris.")
    # A second time the prefix may come from the cache; the numbers may not change.
    again = complete(client, model_name, prompt=[ids], echo=True, max_tokens=1, logprobs=1, seed=1234)
    assert again.choices[0].logprobs.token_logprobs == logprobs.token_logprobs
    # The score of a token does not depend on what follows it.
    prefix = complete(client, model_name, prompt=[ids[:-2]], echo=True, max_tokens=0, logprobs=1)
    assert prefix.choices[0].logprobs.token_logprobs == logprobs.token_logprobs[: len(ids) - 2]


def test_every_shape_of_prompt(client, model_name, server):
    ids = tokenize(server, "Once upon a time")
    as_text = complete(client, model_name, prompt="Once upon a time").choices[0].text
    assert complete(client, model_name, prompt=ids).choices[0].text == as_text
    several = complete(client, model_name, prompt=["Once upon a time", "Once upon a time"])
    assert [choice.text for choice in several.choices] == [as_text, as_text]
    assert [choice.text for choice in complete(client, model_name, prompt=[ids, ids]).choices] == [as_text, as_text]


def test_second_call_reports_cached_tokens(client, model_name):
    messages = [{"role": "user", "content": "A sentence only this test uses: " + "tea and cake " * 40}]
    first = chat(client, model_name, messages=messages)
    second = chat(client, model_name, messages=messages)
    assert first.usage.prompt_tokens_details.cached_tokens < 64
    assert second.usage.prompt_tokens_details.cached_tokens > first.usage.prompt_tokens // 2
    assert second.choices[0].message.content == first.choices[0].message.content
    salted = chat(client, model_name, messages=messages, extra_body={"cache_salt": "someone else"})
    assert salted.usage.prompt_tokens_details.cached_tokens == 0


def test_logit_bias_forbids_and_forces(client, model_name, server):
    first = complete(client, model_name, prompt="The sky is", max_tokens=1, extra_body={"return_token_ids": True})
    token = first.choices[0].model_extra["token_ids"][0]
    other = complete(client, model_name, prompt="The sky is", max_tokens=1, logit_bias={str(token): -100},
                     extra_body={"return_token_ids": True})
    assert other.choices[0].model_extra["token_ids"][0] != token
    [wanted] = tokenize(server, "!")
    forced = complete(client, model_name, prompt="The sky is", max_tokens=3, logit_bias={str(wanted): 100})
    assert forced.choices[0].text == "!!!"


def test_json_schema_holds(client, model_name):
    properties = {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 150}}
    schema = {"type": "object", "properties": properties, "required": ["name", "age"], "additionalProperties": False}
    response_format = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    answer = chat(client, model_name, messages=[{"role": "user", "content": "A person as JSON, please."}],
                  max_tokens=120, response_format=response_format)
    assert answer.choices[0].finish_reason == "stop"
    person = json.loads(answer.choices[0].message.content)
    assert set(person) == {"name", "age"} and isinstance(person["age"], int)


def test_content_parts_and_roles(client, model_name):
    as_parts = chat(client, model_name, messages=[
        {"role": "developer", "content": "Answer briefly."},
        {"role": "user", "content": [{"type": "text", "text": "Hi!"}]}])
    as_strings = chat(client, model_name, messages=[
        {"role": "system", "content": "Answer briefly."}, {"role": "user", "content": "Hi!"}])
    assert as_parts.choices[0].message.content == as_strings.choices[0].message.content


def test_prompt_too_long_names_both_lengths(client, model_name):
    limit = client.models.list().data[0].model_extra["max_model_len"]
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, model_name, prompt=[5] * (limit + 10))
    assert caught.value.code == "context_length_exceeded"
    assert str(limit) in caught.value.message and str(limit + 10) in caught.value.message


@pytest.mark.parametrize("fields, param", [
    ({"temperature": -1}, "temperature"), ({"top_p": 2}, "top_p"), ({"n": 0}, "n"), ({"max_tokens": -5}, "max_tokens"),
    ({"messages": []}, "messages"), ({"messages": [{"role": "bard", "content": "x"}]}, "messages[0].role"),
    ({"logit_bias": {"9999999": 1}}, "logit_bias"), ({"stop": [""]}, "stop"),
    ({"modalities": ["text", "audio"]}, "modalities"), ({"extra_body": {"min_tokens": 4}}, "min_tokens")])
def test_bad_fields_are_named(client, model_name, fields, param):
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, model_name, **fields)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


def test_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as caught:
        chat(client, "gpt-nonesuch")
    assert caught.value.code == "model_not_found"


def test_models(client, model_name):
    assert client.models.retrieve(model_name).id == model_name
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nonesuch")


def tokenize(server, text: str) -> list[int]:
    answer = server.post_json("/tokenize", {"prompt": text, "add_special_tokens": False})
    assert answer["count"] == len(answer["tokens"])
    return answer["tokens"]


def test_tokenize_and_back(server):
    text = "Grüße, 世界! <tag> 12345\n"
    assert server.post_json("/detokenize", {"tokens": tokenize(server, text)})["prompt"] == text
    chat_ids = server.post_json("/tokenize", {"messages": HELLO})
    assert chat_ids["count"] > len(tokenize(server, HELLO[0]["content"]))

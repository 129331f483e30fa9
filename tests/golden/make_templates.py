# SPDX-License-Identifier: Apache-2.0
"""Renders tests/golden/templates/*.jinja with Jinja2, set up as transformers sets it up for chat templates.

    pip install jinja2==3.1.6
    python make_templates.py

Writes templates/chat_<name>.json beside each template. What Jinja2 refuses is kept as `error`.
"""

import datetime
import json
import pathlib

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import SandboxedEnvironment

FOLDER = pathlib.Path(__file__).parent / "templates"
NOW = datetime.datetime(2025, 11, 6, 23, 59, 59)
BOS, EOS = "<|bos|>", "<|eos|>"


class Generation(Extension):
    """{% generation %}: marks the assistant's text for training and prints it as it is."""

    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    # Not the immutable variant: published templates append to lists of their own.
    env = SandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


def function(name, description, properties, required):
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOLS = [
    function(
        "get_weather",
        " Weather of a city, now & <later>. ",
        {
            "city": {"type": "string", "description": "Name, e.g. \"Zürich\""},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            "days": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
            "extra": {"type": "object", "default": None},
        },
        ["city"],
    ),
    function("_hidden", "Not listed.", {}, []),
    function("ping", "", {}, []),
]
CALL = {"id": "call_0", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "東京", "days": [[1, 2.5]], "ok": True, "none": None}}}
TEXT_CALL = {"id": "call_1", "type": "function", "function": {"name": "ping", "arguments": '{"host": "a"}'}}


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


SYSTEM = {"role": "system", "content": "You are terse."}
CASES = {
    "user": dict(messages=[user("Hello!")]),
    "no_prompt": dict(messages=[user("Hello!")], add_generation_prompt=False),
    "system": dict(messages=[SYSTEM, user("What is 2+2?")]),
    "turns": dict(messages=[user("Hi"), assistant("Hello."), user("Bye")]),
    "finished": dict(messages=[user("Hi"), assistant("Hello.")], add_generation_prompt=False),
    "assistant_last": dict(messages=[user("Hi"), assistant("Hello.")]),
    "whitespace": dict(messages=[user("  two\n\n lines \t\n"), assistant("\n\n x \n"), user("")]),
    "unicode": dict(messages=[user("héllo 世界 😀 \u0301 \u2028 ｜<|end|>")]),
    "quotes": dict(messages=[user("it's \"quoted\" \\ {{ not }} {% code %} <b>&amp;</b>")]),
    "parts": dict(messages=[user([{"type": "text", "text": "See "}, {"type": "image", "url": "x"}, {"type": "text", "text": "this"}])]),
    "reasoning": dict(messages=[user("Q"), assistant("A", reasoning_content="why\n"), user("Q2"), assistant("A2", reasoning_content="\nbecause\n")]),
    "reasoning_inline": dict(messages=[user("Q"), assistant("<think>\nfirst\n</think>\n\nA"), user("Q2"), assistant("<think>\nsecond\n</think>\n\nA2")]),
    "thinking_off": dict(messages=[user("Q")], enable_thinking=False),
    "thinking_on": dict(messages=[user("Q")], enable_thinking=True),
    "tools": dict(messages=[SYSTEM, user("Weather?")], tools=TOOLS),
    "tools_no_system": dict(messages=[user("Weather?")], tools=TOOLS),
    "tool_calls": dict(messages=[user("Weather?"), assistant("Let me see.", tool_calls=[CALL, TEXT_CALL]), {"role": "tool", "content": "12°", "tool_call_id": "call_0"}, {"role": "tool", "content": "{\"t\": 1}"}, assistant("Cold.")], tools=TOOLS, add_generation_prompt=False),
    "tool_result_last": dict(messages=[user("Weather?"), assistant("", tool_calls=[CALL]), {"role": "tool", "content": "12°"}], tools=TOOLS),
    "content_none": dict(messages=[user("Weather?"), assistant(None, tool_calls=[CALL])], tools=TOOLS, add_generation_prompt=False),
    "unknown_role": dict(messages=[user("Hi"), {"role": "narrator", "content": "Meanwhile"}]),
    "many": dict(messages=[m for i in range(40) for m in (user(f"question {i}"), assistant(f"answer {i}"))]),
}


def main():
    env = environment()
    for path in sorted(FOLDER.glob("*.jinja")):
        template = env.from_string(path.read_text(encoding="utf-8"))
        cases = []
        for name, case in CASES.items():
            case = {"name": name, "add_generation_prompt": True, **case}
            variables = {k: v for k, v in case.items() if k != "name"}
            try:
                rendered = template.render(**{"tools": None, "documents": None, "bos_token": BOS, "eos_token": EOS, **variables})
                case["rendered"] = rendered
            except Exception as error:  # whatever the template provokes is the expectation
                case["error"] = f"{type(error).__name__}: {error}"
            cases.append(case)
        golden = {
            "template": path.name,
            "jinja2": jinja2.__version__,
            "bos_token": BOS,
            "eos_token": EOS,
            "today": NOW.strftime("%Y-%m-%d"),
            "cases": cases,
        }
        text = json.dumps(golden, ensure_ascii=False, indent=1) + "\n"
        (FOLDER / f"chat_{path.stem}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

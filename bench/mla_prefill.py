#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures --mla-prefill absorbed and expanded in turns on this machine and prints one JSON line a case.

The model is a random one with the attention of DeepSeek V3 (make_moe_model.py), written once. See bench/README.md.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys

from measuring import PROGRAM, Failure, cpu_times, exit_code, random_model, run_process, say, summary

FORMS = ["absorbed", "expanded"]
SHAPE = "deepseek_v3_attention"


def measure(options, model, form):
    context = max(options.depth) + max(options.prefill, options.decode)
    command = [options.halfmoon, "bench", "-m", model, "-c", context, "-t", options.threads, "-b", options.batch]
    command += ["-p", options.prefill, "--decode-batch", 1, "-n", options.decode, "-r", options.repeats]
    command += ["--depth", ",".join(map(str, options.depth)), "--mla-prefill", form, "--json"]
    lines = [json.loads(line) for line in run_process(command, options.priority).splitlines()]
    return [line for line in lines if "tokens_per_s" in line]


def run(options):
    if not options.halfmoon.exists():
        raise Failure(f"{options.halfmoon} does not exist; ./run build makes it")
    model = options.model or random_model(options.python, SHAPE, options.layers, options.type, options.heads)
    values, facts = {}, {}
    total, stolen = cpu_times()
    for index in range(options.rounds):
        for form in FORMS[index % 2:] + FORMS[:index % 2]:  # Whoever comes first is another one each time.
            say(f"round {index + 1} of {options.rounds}, {form}")
            for result in measure(options, model, form):
                values.setdefault(result["case"], {}).setdefault(form, []).append(result["tokens_per_s"])
                facts[result["case"]] = result
    total_after, stolen_after = cpu_times()
    for case, forms in values.items():
        ratios = [b / a for a, b in zip(forms["absorbed"], forms["expanded"])]
        line = {key: facts[case][key] for key in ("commit", "cpu", "isa", "threads", "model", "case", "depth",
                                                  "kv_bytes_per_token")}
        line |= {"batch_tokens": options.batch, "unit": "tokens/s"}
        line |= {form: summary(forms[form]) for form in FORMS}
        line["ratio"] = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
        line["stolen_share"] = round((stolen_after - stolen) / max(1, total_after - total), 4)
        print(json.dumps(line), flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--halfmoon", type=pathlib.Path, default=PROGRAM)
    parser.add_argument("--python", help="a Python with gguf and numpy (default: build/bench-venv is made)")
    parser.add_argument("--model", type=pathlib.Path, help="a file with latent attention instead of the random one")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--type", choices=["q4_0", "q4_1", "q8_0"], default="q8_0")
    parser.add_argument("-t", "--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("-b", "--batch", type=int, default=512, help="tokens of a step, and so of a chunk")
    parser.add_argument("-p", "--prefill", type=int, default=512, help="tokens prefilled at each depth")
    parser.add_argument("-n", "--decode", type=int, default=16, help="tokens decoded at each depth")
    parser.add_argument("-d", "--depth", default="0,4096,32768", help="tokens in the cache before")
    parser.add_argument("-r", "--repeats", type=int, default=3, help="counted runs in one process; their median counts")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each form, taking turns")
    parser.add_argument("--no-priority", dest="priority", action="store_false", help="leave the priority as it is")
    options = parser.parse_args()
    try:
        options.depth = [int(depth) for depth in options.depth.split(",")]
    except ValueError:
        parser.error(f"--depth {options.depth}: expected numbers with commas between them")
    if min(options.rounds, options.repeats, options.threads, options.layers, options.heads) < 1:
        parser.error("counts have to be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(exit_code(lambda: run(parse_arguments())))

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Speculative decoding beside plain decoding of the same prompts, in turns; one JSON line a case. See bench/README.md."""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

from measuring import DEFAULT_MODEL, PROCESS_LIMIT_S, PROGRAM

# What a model copies when it edits a file or quotes a source: more of the same, word for word.
COPY = ("The tide table of the harbour lists high water at six in the morning and at half past six in the evening; the "
        "ferry to the northern islands leaves two hours before. Bring warm clothes, something to eat and the blue ticket.\n") * 4
LIST = "".join(f"Item {i}: price {i * 3} euro, stock {i} pieces, supplier Moonlight Ltd, country Iceland.\n" for i in range(1, 9))
PROSE = "Once upon a time, in a small town by the sea, there lived an old clockmaker who"

# name: prompts, flags. One prompt, or several that are decoded together.
CASES = {
    "copy x1": ([COPY], []),
    "copy x8": ([COPY + "The tide table" * (i % 2) + " of" * (i % 3) for i in range(8)], []),
    "list x1": ([LIST], []),
    "list x8": ([LIST + f"Item 9: price {i}" for i in range(8)], []),
    "prose x1": ([PROSE], []),
    # Guesses that mostly fail.
    "sampled x1": ([LIST], ["--temperature", "1", "--seed", "5"]),
    # Far from what the model would say itself, so that there is nothing to repeat.
    "random x1": ([LIST], ["--temperature", "3", "--seed", "5"]),
    "random x8": ([LIST] * 8, ["--temperature", "3", "--seed", "5"]),
}


def generate(options, case, flags):
    prompts, case_flags = CASES[case]
    command = [options.program, "generate", "-m", str(options.model), "--json", "--ignore-eos",
               "--max-tokens", str(options.tokens), *case_flags, *flags]
    for prompt in prompts:
        command += ["--prompt", prompt]
    if options.threads:
        command += ["-t", str(options.threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROCESS_LIMIT_S, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command[:6])} ...: {done.stderr.strip()}")
    return json.loads(done.stdout)


def measure(options, case):
    ratios, plain_rates, rates = [], [], []
    for turn in range(options.rounds):
        order = [["--speculative", "none"], options.flags]
        results = {}
        for flags in order if turn % 2 == 0 else reversed(order):
            results[tuple(flags)] = generate(options, case, flags)
        plain, guessed = (results[tuple(flags)] for flags in order)
        if [r["ids"] for r in plain["results"]] != [r["ids"] for r in guessed["results"]]:
            sys.exit(f"{case}: {' '.join(options.flags)} changed the output")
        plain_rates.append(plain["timings"]["generated_tokens_per_s"])
        rates.append(guessed["timings"]["generated_tokens_per_s"])
        ratios.append(rates[-1] / plain_rates[-1])
        timings = guessed["timings"]
    return {
        "case": case, "flags": options.flags, "model": options.model.name, "rounds": options.rounds,
        "plain_tokens_per_s": round(statistics.median(plain_rates), 1),
        "tokens_per_s": round(statistics.median(rates), 1),
        "ratio": [round(f(ratios), 3) for f in (statistics.median, min, max)],
        "tokens_per_step": round(timings["generated_tokens"] / timings["steps"], 2),
        "draft_tokens": timings["draft_tokens"], "accepted_draft_tokens": timings["accepted_draft_tokens"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, epilog="Flags after -- go to halfmoon; default: --speculative ngram.")
    parser.add_argument("-m", "--model", type=pathlib.Path, default=DEFAULT_MODEL)
    parser.add_argument("--program", default=str(PROGRAM))
    parser.add_argument("--cases", default=",".join(CASES), help="comma separated; default: all")
    parser.add_argument("--tokens", type=int, default=256, help="generated per prompt")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-t", "--threads", type=int, default=0)
    parser.add_argument("flags", nargs="*")
    options = parser.parse_args()
    options.flags = options.flags or ["--speculative", "ngram"]
    for case in options.cases.split(","):
        if case not in CASES:
            sys.exit(f"--cases: no case '{case}'; known: {', '.join(CASES)}")
        print(json.dumps(measure(options, case)), flush=True)


if __name__ == "__main__":
    main()

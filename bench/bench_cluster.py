#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What disaggregation costs and brings, on real processes of one machine, each pinned to a core of its own.

    bench/bench_cluster.py ttft [--tokens 4096] [--rounds 5]    time to the first token: 1P+1D against one process
    bench/bench_cluster.py tbt [--seconds 40] [--rounds 3]      gaps between tokens of running answers while long
                                                                prompts arrive: 1P+1D against two coupled processes

Both set-ups have the same two cores and one thread a process; they run in turns. One JSON line a round, then a table of
medians. See bench/README.md. The program is build/release/halfmoon (HALFMOON_BINARY), the model that of ./run
(HALFMOON_MODEL).
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import random
import statistics
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests" / "e2e"))

from cluster import Cluster, stream_text
from server import binary, default_model

WORDS = "river stone garden winter quiet lantern orchard copper meadow harbor whistle ribbon thunder velvet".split()


def prompt(tokens, seed):
    """About so many tokens of text (one a word) that no other seed gives."""
    words = random.Random(seed)
    return " ".join(words.choice(WORDS) for _ in range(tokens))


def start(model, roles, flags, policy):
    """A cluster whose nodes have a core each; the conductor shares both, since it hardly computes."""
    cluster = Cluster(model, "--policy", policy)
    cluster.start_conductor()
    for number, role in enumerate(roles):
        cluster.start_node(f"{role}{number}", role, *flags, prefix=("taskset", "-c", str(number)))
    cluster.wait_nodes(len(roles))
    cluster.conductor.wait_ready()
    return cluster


def timed_stream(url, body):
    """Times of arrival of the first and of all later pieces, from the start of the request."""
    began, times = time.monotonic(), []
    _, last = stream_text(url, body, lambda _: times.append(time.monotonic() - began))
    return times, last["usage"]


def measure_ttft(url, tokens, seed):
    times, usage = timed_stream(url, {"prompt": prompt(tokens, seed), "max_tokens": 2, "ignore_eos": True})
    return {"ttft_s": times[0], "prompt_tokens": usage["prompt_tokens"]}


def measure_tbt(url, options, seed):
    """Answers that run all the time, and prompts that arrive at random; the gaps of the former."""
    gaps, tokens, ttfts, stop = [], [0, 0], [], threading.Event()

    def answer(number):
        count = 0
        while not stop.is_set():
            count += 1
            times, _ = timed_stream(url, {"prompt": prompt(64, f"{seed}/{number}/{count}"), "max_tokens": 200,
                                          "ignore_eos": True})
            gaps.extend(b - a for a, b in zip(times, times[1:]))
            tokens[0] += len(times)

    def ask(number):
        times, usage = timed_stream(url, {"prompt": prompt(options.tokens, f"{seed}/long/{number}"), "max_tokens": 8,
                                          "ignore_eos": True})
        ttfts.append(times[0])
        tokens[1] += usage["prompt_tokens"]

    arrivals = random.Random(f"{seed}/arrivals")
    with concurrent.futures.ThreadPoolExecutor(options.answers + 32) as pool:
        running = [pool.submit(answer, number) for number in range(options.answers)]
        end, number = time.monotonic() + options.seconds, 0
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, arrivals.expovariate(1 / options.every)))
            running.append(pool.submit(ask, number))
            number += 1
        stop.set()
        began_drain = time.monotonic()
        for future in running:
            future.result()
    elapsed = options.seconds + time.monotonic() - began_drain
    quantile = lambda values, q: sorted(values)[min(len(values) - 1, int(q * len(values)))]
    return {"tbt_p50_ms": 1e3 * quantile(gaps, 0.50), "tbt_p99_ms": 1e3 * quantile(gaps, 0.99), "tbt_max_ms": 1e3 * max(gaps),
            "ttft_p50_s": quantile(ttfts, 0.5), "ttft_max_s": max(ttfts), "answer_tokens_per_s": tokens[0] / elapsed,
            "prompt_tokens_per_s": tokens[1] / elapsed, "prompts": len(ttfts)}


def run(options):
    flags = ("--speculative", "none", "-c", "8192")
    setups = {"disaggregated": (("prefill", "decode"), options.policy),
              "coupled": (("both", "both") if options.what == "tbt" else ("both",), "load")}
    rounds = {name: [] for name in setups}
    for number in range(options.rounds):
        for name, (roles, policy) in setups.items():
            cluster = start(options.model, roles, flags, policy)
            try:
                measure_ttft(cluster.url, 256, f"warm/{number}")
                if options.what == "ttft":
                    measured = measure_ttft(cluster.url, options.tokens, f"ttft/{number}")
                else:
                    measured = measure_tbt(cluster.url, options, f"tbt/{number}")
            finally:
                cluster.close()
            rounds[name].append(measured)
            print(json.dumps({"case": options.what, "setup": name, "round": number, **measured}), flush=True)
    print("\n| figure | disaggregated | coupled | ratio (per round) |\n|---|---|---|---|")
    for figure in rounds["coupled"][0]:
        mine, theirs = ([one[figure] for one in rounds[name]] for name in ("disaggregated", "coupled"))
        ratios = [a / b for a, b in zip(mine, theirs) if b]
        print(f"| {figure} | {statistics.median(mine):.3f} | {statistics.median(theirs):.3f} | "
              f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["ttft", "tbt"])
    parser.add_argument("--model", type=pathlib.Path, default=default_model())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=4096, help="of a long prompt, about; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=40.0, help="tbt: for which prompts arrive; default: %(default)s")
    parser.add_argument("--every", type=float, default=8.0, help="tbt: mean seconds between prompts; default: %(default)s")
    parser.add_argument("--policy", default="global", help="of the conductor, disaggregated; default: %(default)s")
    parser.add_argument("--answers", type=int, default=4, help="tbt: that run all the time; default: %(default)s")
    return parser.parse_args()


if __name__ == "__main__":
    if os.cpu_count() < 2 or not binary().exists():
        sys.exit("needs two cores and build/release/halfmoon (./run build)")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HALFMOON_E2E_WEIGHT_CACHE_DIR"] = folder
        run(parse_arguments())

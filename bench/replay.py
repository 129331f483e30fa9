#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Replays of the Mooncake papers' figures beside their numbers, as Markdown (docs/replay.md):

  bench/replay.py --trace tests/golden/traces/conversation_trace.jsonl.gz > docs/replay.md

Takes a few minutes; every number is deterministic.
"""
import argparse
import json
import math
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PD = ["--prefill", "8", "--decode", "8"]


class Simulator:
    def __init__(self, program, trace):
        self.program, self.trace = program, trace

    def run(self, *flags, trace=None):
        """Summaries in the order of the runs."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "out.json")
            command = [self.program, "sim", "--trace", trace or self.trace, "--json", path, *map(str, flags)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                sys.exit(f"{' '.join(command)}: {done.stderr}")
            with open(path, encoding="utf-8") as file:
                return [run["summary"] for run in json.load(file)["runs"]]


def table(header, rows):
    print("| " + " | ".join(map(str, header)) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print()


def percent(value):
    return f"{100 * value:+.0f} %"


def interval(values):
    """Mean and the half width of a 95 % interval (Student's t)."""
    t = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}[len(values)]
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return mean, t * deviation / math.sqrt(len(values))


def capacity(sim):
    print("## Effective capacity (FAST'25, figure 1)\n\nRequests of the trace within 30 s and the limit of TBT; 16 nodes: "
          "vLLM 0.5.1's way (prompts first, no prefix kept) on all, or 8 + 8 under `global`.\n")
    limits = ["--sweep", "tbt=100,200,300"]
    apart = sim.run(*PD, "--policy", "global", *limits)
    coupled = sim.run("--coupled", 16, "--policy", "load", *limits)
    chunked = sim.run("--coupled", 16, "--policy", "load", "--coupled-chunk", 512, *limits)
    rows = []
    for tbt, published, a, c, k in zip((100, 200, 300), ("+498 %", "+157 %", "+59 %"), apart, coupled, chunked):
        rows.append((f"{tbt} ms", c["effective"], k["effective"], a["effective"],
                     percent(a["effective"] / c["effective"] - 1), published))
    table(("TBT", "coupled", "coupled, chunks of 512", "8 + 8", "gain", "published"), rows)
    print("The gains at longer limits are larger than published: our coupled nodes keep more requests waiting behind long "
          "prompts, since a node computes one prompt at a time.\n")
    print("## Prefill time (figure 8)\n")
    ratio = apart[0]["prefill_s"] / coupled[0]["prefill_s"] - 1
    table(("", "a request coupled", "8 + 8", "difference", "published"),
          [("conversation", f"{coupled[0]['prefill_s'] / coupled[0]['done']:.2f} s",
            f"{apart[0]['prefill_s'] / apart[0]['done']:.2f} s", percent(ratio), "-36 %")])
    print(f"TBT kept within 300 ms by {100 * apart[2]['tbt_kept_share']:.2f} % of requests apart, "
          f"{100 * coupled[2]['tbt_kept_share']:.1f} % coupled.\n")


def policies(sim):
    print("## Where a prompt is computed (figure 5)\n\nMean TTFT, 8 + 8 nodes.\n")
    names = ["random", "load", "local", "global", "slack"]
    published = ["19.65", "5.27", "3.58", "3.07", ""]
    rows = []
    sweep = ["--sweep", "policy=" + ",".join(names)]
    runs = [sim.run(*PD, "--seed", seed, *sweep) for seed in (1, 2, 3)]
    faster = sim.run(*PD, "--rate", 1.5, *sweep)
    for i, name in enumerate(names):
        rows.append((name, " / ".join(f"{run[i]['ttft_s']['mean']:.2f}" for run in runs), f"{faster[i]['ttft_s']['mean']:.1f}",
                     published[i]))
    table(("policy", "seconds at seeds 1, 2, 3", "1.5 times the rate", "published"), rows)
    print("The order is the published one. Absolute times are lower but for `random`: the published cluster was closer to its "
          "limit than one that the constants of this model describe.\n")


def caches(sim):
    print("## Caches (figures 9 and 10)\n")
    rows = []
    for tokens in (1_000_000, 3_000_000, 10_000_000, 50_000_000):
        # One prefill node that is never busy: one shared LRU pool.
        run = sim.run("--prefill", 1, "--decode", 8, "--policy", "local", "--rate", 0.01, "--dram", tokens)[0]
        rows.append((f"{tokens // 1_000_000} M tokens", f"{100 * run['hit_own_dram']:.1f} %"))
    table(("one pool of", "prompt tokens found"), rows)
    print("Published: 3 M tokens give 41 % of the possible hits on this trace. Of blocks, the hits equal the table in "
          "`tests/golden/traces/README.md` to 0.2 points (`trace_test`).\n")
    rows = []
    for tokens in (500_000, 1_000_000, 3_000_000):
        local, everywhere = sim.run(*PD, "--dram", tokens, "--sweep", "policy=local,global")
        hits = [run["hit_own_dram"] + run["hit_fetched"] for run in (local, everywhere)]
        rows.append((f"{tokens / 1e6:g} M", f"{100 * hits[0]:.1f} %", f"{100 * hits[1]:.1f} %", f"x{hits[1] / hits[0]:.2f}",
                     f"x{everywhere['prefill_s'] / local['prefill_s']:.2f}"))
    table(("DRAM of a node, tokens", "hits local", "global", "hits", "prefill time"), rows)
    print("Published: x2.22 and x0.76. Here `local` already sends a conversation back to the node that has it when its queue "
          "allows, so less is left to gain; the published local cache is not said to be chosen by what it holds.\n")


def network(sim):
    print("## Network (figure 13)\n\nMean TTFT under `global` by the network of a node.\n")
    speeds = (10, 25, 50, 100, 200, 400, 800)
    runs = sim.run(*PD, "--policy", "global", "--sweep", "nic=" + ",".join(map(str, speeds)))
    table(("Gbit/s", *speeds), [("TTFT, s", *(f"{run['ttft_s']['mean']:.2f}" for run in runs))])


def long_prompt(sim):
    print("## A long prompt (figure 14)\n\n128 k tokens on an idle cluster, 95 % of them on another node.\n")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "long.jsonl")
        tokens = 128 * 1024
        with open(path, "w", encoding="utf-8") as file:
            for at_ms, first, seen in ((0, 0, 256), (600_000, 0, 243)):
                ids = list(range(first, seen)) + list(range(1000 + at_ms, 1000 + at_ms + 256 - seen))
                file.write(json.dumps({"timestamp": at_ms, "input_length": tokens, "output_length": 2, "hash_ids": ids}) + "\n")
        both = sim.run(*PD, "--policy", "global", trace=path)[0]["ttft_s"]
        table(("", "nothing cached", "95 % cached", "difference", "published"),
              [("TTFT", f"{both['max']:.2f} s", f"{2 * both['mean'] - both['max']:.2f} s",
                percent((2 * both["mean"] - both["max"]) / both["max"] - 1), "-86 % (prefill -92 %)")])


def ratios(sim):
    print("## Prefill and decode nodes (figure 15)\n\nOf 16 nodes, `global`, limits 30 s and 100 ms.\n")
    rows = []
    for prefill in (4, 6, 8, 10, 12):
        run = sim.run("--prefill", prefill, "--decode", 16 - prefill, "--policy", "global")[0]
        rows.append((f"{prefill} + {16 - prefill}", f"{run['ttft_s']['mean']:.2f}", f"{run['tbt_ms']['mean']:.0f}",
                     f"{100 * run['effective_share']:.1f} %"))
    table(("nodes", "TTFT, s", "TBT, ms", "within limits"), rows)


def rejection(sim):
    print("## Rejection (arXiv 2407.00079, table 3)\n\nTwice the rate, 8 + 3 nodes, `global`. Late: the paper's baseline, which "
          "looks at decode when the prompt has been computed.\n")
    names = ["late", "early", "predictive"]
    runs = sim.run("--prefill", 8, "--decode", 3, "--policy", "global", "--rate", 2, "--sweep", "reject=" + ",".join(names))
    published = {"late": "4183", "early": "3771", "predictive": "3589"}
    table(("", "rejected", "of these late", "wasted prefill, s", "goodput/s", "rejected, published (8 + 8, another trace)"),
          [(name, run["rejected"] + run["rejected_late"], run["rejected_late"], f"{run['wasted_prefill_s']:.0f}",
            f"{run['goodput_per_s']:.2f}", published[name]) for name, run in zip(names, runs)])
    print("Decode has to be scarce for rejection by its load, so three nodes stand for the paper's eight under its heavier "
          "trace.\n")


def ours(sim, folder):
    print("## Ours beside `global`\n\nShare of requests within 30 s and 100 ms, 8 + 8 nodes, mean and 95 % interval over five "
          "seeds (each moves every arrival within the 3 s that traces resolve; seeds of made traces make other traces). "
          "`toolagent` and `synthetic` have the published shapes of FAST'25, table 2 (`bench/make_trace.py`).\n")
    rows = []
    for shape, rates in (("conversation", (1, 1.5, 2)), ("toolagent", (2, 3, 4)), ("synthetic", (1.5, 2, 3))):
        for reject in ("none", "predictive"):
            for rate in rates:
                shares = {"global": [], "slack": []}
                for seed in range(1, 6):
                    path = sim.trace
                    if shape != "conversation":
                        path = os.path.join(folder, f"{shape}-{seed}.jsonl")
                        if not os.path.exists(path):
                            with open(path, "w", encoding="utf-8") as file:
                                subprocess.run([sys.executable, os.path.join(ROOT, "bench/make_trace.py"), "--shape", shape,
                                                "--seed", str(seed)], stdout=file, check=True)
                    pair = sim.run(*PD, "--rate", rate, "--reject", reject, "--jitter", 3, "--seed", seed, "--sweep",
                                   "policy=global,slack", trace=path)
                    for name, run in zip(shares, pair):
                        shares[name].append(100 * run["effective_share"])
                paired = interval([b - a for a, b in zip(shares["global"], shares["slack"])])
                cells = [f"{mean:.1f} ± {half:.1f} %" for mean, half in map(interval, shares.values())]
                rows.append((shape, f"{rate}x", reject, *cells, f"{paired[0]:+.1f} ± {paired[1]:.1f}"))
    table(("trace", "rate", "rejection", "global", "slack", "difference, points"), rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", required=True)
    parser.add_argument("--halfmoon", default=os.path.join(ROOT, "build/release/halfmoon"))
    parser.add_argument("--only", help="one section, by the name of its function")
    arguments = parser.parse_args()
    sim = Simulator(arguments.halfmoon, arguments.trace)
    sections = [capacity, policies, caches, network, long_prompt, ratios, rejection]
    print("# The Mooncake papers, replayed\n\nWritten by `bench/replay.py`. The conversation trace of the Mooncake release under "
          "the conductor that `halfmoon` runs, on nodes in numbers (`bench/costs/llama3-70b-8xa800.json`, fitted once: MFU 0.48, "
          "45 ms and 0.4 of the bandwidth for a decode step). TBT is the mean of a request's longest 10 % of gaps. A simulation "
          "judges policies against each other; it measures no hardware.\n")
    for section in sections:
        if arguments.only in (None, section.__name__):
            section(sim)
            sys.stdout.flush()
    if arguments.only in (None, "ours"):
        with tempfile.TemporaryDirectory() as folder:
            ours(sim, folder)


if __name__ == "__main__":
    main()

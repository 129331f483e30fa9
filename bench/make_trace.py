#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a seeded trace of a published shape, in the format of the Mooncake release.

toolagent: many requests share one of a few long tool prompts; mean input 8,596, output 182, 59 % of the input seen before.
synthetic: conversations over long documents, each turn with all before it; mean input 15,325, output 149, 66 %.
(FAST'25, table 2.) What is not published (how many tools, how turns are spaced) is a guess and stands below.
"""
import argparse
import json
import random

BLOCK = 512


def lognormal(rng, mean, sigma):
    return max(1, int(mean * rng.lognormvariate(-sigma * sigma / 2, sigma)))


class Writer:
    def __init__(self):
        self.next_id = 0
        self.rows = []

    def blocks(self, count):
        first = self.next_id
        self.next_id += count
        return list(range(first, first + count))

    def add(self, at_s, ids, tokens, output):
        count = -(-tokens // BLOCK)
        ids = ids[:count] + self.blocks(max(0, count - len(ids)))
        self.rows.append({"timestamp": int(at_s // 3 * 3000), "input_length": tokens, "output_length": max(1, output),
                          "hash_ids": ids})
        return ids


def toolagent(rng, requests, seconds, out):
    tools = [out.blocks(max(2, lognormal(rng, 5000, 0.4) // BLOCK)) for _ in range(60)]
    for _ in range(requests):
        prefix = tools[min(int(rng.paretovariate(0.8)) - 1, len(tools) - 1)]
        tokens = len(prefix) * BLOCK + lognormal(rng, 3450, 1.0)
        out.add(rng.uniform(0, seconds), prefix, tokens, lognormal(rng, 182, 0.8))


def synthetic(rng, requests, seconds, out):
    while len(out.rows) < requests:
        at_s, tokens, ids = rng.uniform(0, seconds), lognormal(rng, 11500, 0.7), []
        for _ in range(max(1, int(rng.expovariate(1 / 2.5)) + 1)):
            if at_s >= seconds:
                break
            # The last block of a turn is a part of one; the next turn fills it, so it is another.
            output = lognormal(rng, 149, 0.8)
            ids = out.add(at_s, ids[:tokens // BLOCK], tokens, output)
            ids = ids[:tokens // BLOCK]
            tokens += output + lognormal(rng, 1500, 1.0)
            at_s += rng.expovariate(1 / 60)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["toolagent", "synthetic"], required=True)
    parser.add_argument("--requests", type=int, default=12000)
    parser.add_argument("--seconds", type=float, default=3500)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng, out = random.Random(arguments.seed), Writer()
    {"toolagent": toolagent, "synthetic": synthetic}[arguments.shape](rng, arguments.requests, arguments.seconds, out)
    out.rows.sort(key=lambda row: row["timestamp"])
    for row in out.rows[:arguments.requests]:
        print(json.dumps(row))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A cost model for `halfmoon sim --costs` (docs/formats/sim_costs.md) from what `halfmoon bench` measured:

  halfmoon bench -m MODEL --json --cases "prefill 128,prefill 512,prefill 512 at 4096,decode x1,decode x4,decode x1 at 4096" \\
      > bench.jsonl
  bench/fit_costs.py bench.jsonl --layers 48 --kv-bytes-per-token 98304 --kv-tokens 200000 --network 1.25e9 > costs.json

Takes lines of `bench --json` and of `bench --compare --json`. Least squares of relative errors, no coefficient below 0.
What bench does not measure comes by flags.
"""
import argparse
import json
import re
import sys

CASE = re.compile(r"(prefill (?P<tokens>\d+)|decode x(?P<batch>\d+))( at (?P<depth>\d+))?$")
DECODE_STEPS = 32  # of a pass: bench/README.md


def read(path):
    """(kind, terms, microseconds) of each case."""
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                sys.exit(f"{path}: line {number}: {error}")
            match = CASE.match(row.get("case", ""))
            rate = row.get("tokens_per_s") or (row.get("halfmoon") or {}).get("median")
            if match is None or not rate:
                continue
            depth = int(match["depth"] or 0)
            if match["tokens"]:
                n = int(match["tokens"])
                yield "prefill", (1.0, n, n * (depth + (n + 1) / 2)), n / rate * 1e6
            else:
                batch = int(match["batch"])
                yield "decode", (1.0, batch, batch * (depth + DECODE_STEPS / 2)), batch / rate * 1e6


def solve(rows, columns):
    """Least squares of relative errors over some of the terms; None where they cannot be told apart."""
    size = len(columns)
    a = [[0.0] * (size + 1) for _ in range(size)]
    for terms, us in rows:
        for i, column in enumerate(columns):
            for j, other in enumerate(columns):
                a[i][j] += terms[column] * terms[other] / us ** 2
            a[i][size] += terms[column] / us
    for i in range(size):
        if a[i][i] <= 1e-9 * sum((terms[columns[i]] / us) ** 2 for terms, us in rows):
            return None
        for row in range(size):
            if row != i:
                factor = a[row][i] / a[i][i]
                a[row] = [x - factor * y for x, y in zip(a[row], a[i])]
    return [a[i][size] / a[i][i] for i in range(size)]


def fit(rows, needed):
    """Coefficients of the three terms; as many as the rows tell apart, none below 0, `needed` above it."""
    best = None
    for columns in ((0, 1, 2), (1, 2), (0, 1), (0, 2), (1,), (0,)):
        found = solve(rows, columns) if len(rows) >= len(columns) else None
        if needed not in columns or found is None or min(found) < 0 or found[columns.index(needed)] <= 0:
            continue
        c = [found[columns.index(i)] if i in columns else 0.0 for i in range(3)]
        error = sum((sum(x * y for x, y in zip(c, terms)) / us - 1) ** 2 for terms, us in rows)
        if best is None or error < best[0] - 1e-12:
            best = (error, c)
    return best and best[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--name", default="fitted")
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--kv-bytes-per-token", type=int, required=True)
    parser.add_argument("--kv-tokens", type=int, required=True, help="that the pages of a node hold")
    parser.add_argument("--max-running", type=int, default=64)
    parser.add_argument("--network", type=float, required=True, help="bytes a second of a node")
    parser.add_argument("--ssd", type=float, default=0.0, help="bytes a second of its SSD")
    arguments = parser.parse_args()
    cases = {"prefill": [], "decode": []}
    for kind, terms, us in read(arguments.file):
        cases[kind].append((terms, us))
    prefill, decode = fit(cases["prefill"], 1), fit(cases["decode"], 0)
    if prefill is None or decode is None:
        sys.exit(f"{arguments.file}: {len(cases['prefill'])} prefill and {len(cases['decode'])} decode cases do not make a model; "
                 "measure prompts of two lengths and batches of two sizes at least")
    print(json.dumps({
        "halfmoon_sim_costs": 1, "name": arguments.name,
        "source": f"{arguments.file}: {len(cases['prefill'])} prefill and {len(cases['decode'])} decode cases of halfmoon bench",
        "prefill": dict(zip(("fixed_us", "token_us", "position_us"), prefill)),
        "decode": dict(zip(("fixed_us", "sequence_us", "kv_token_us"), decode)),
        "network_bytes_per_s": arguments.network, "ssd_bytes_per_s": arguments.ssd, "layers": arguments.layers,
        "kv_bytes_per_token": arguments.kv_bytes_per_token, "kv_tokens": arguments.kv_tokens,
        "max_running": arguments.max_running}, indent=2))


if __name__ == "__main__":
    main()

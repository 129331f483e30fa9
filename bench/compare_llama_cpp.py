#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs halfmoon and llama.cpp interleaved on this machine and prints one JSON line a case. See bench/README.md."""

import argparse
import contextlib
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import time

BENCH = pathlib.Path(__file__).resolve().parent
ROOT = BENCH.parent
VENV = ROOT / "build" / "bench-venv"
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "halfmoon"
DEFAULT_MODEL = CACHE / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT = "In one sentence, why does the moon have phases?"
FIRST_TOKEN = "first token"
PROCESS_LIMIT_S = 1800
HIGH_PRIORITY = -19

# One process of each a round. halfmoon's kernels read its own layouts; llama.cpp is measured with and without its own.
OURS = "halfmoon"
THEIRS = {"repack": "on", "no repack": "off"}
LIMITS = re.compile(r"limits +read ([\d.]+) GB/s, int8 ([\d.]+) GOP/s, float32 ([\d.]+) GFLOP/s")


class Failure(Exception):
    """Ends the program with one message."""


def say(text):
    print(f"[{time.monotonic() - say.began:4.0f} s] {text}", file=sys.stderr, flush=True)


say.began = time.monotonic()


def follow(title, command, log, environment=None):
    """Runs a long command with its output in a log; says every 20 s what the log ends with."""
    log.parent.mkdir(parents=True, exist_ok=True)
    say(f"{title} ...")
    with open(log, "wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, env=environment)
        while True:
            try:
                status = process.wait(timeout=20)
                break
            except subprocess.TimeoutExpired:
                lines = log.read_text(errors="replace").strip().splitlines()
                say(f"{title}: {lines[-1][:100] if lines else ''}")
    if status != 0:
        tail = "\n".join(log.read_text(errors="replace").strip().splitlines()[-15:])
        raise Failure(f"{title} failed; the end of {log}:\n{tail}")


def python_with_llama_cpp(given):
    """The Python of build/bench-venv, made where it is missing or older than requirements.txt; or the one given."""
    if given:
        return given
    python, stamp = VENV / "bin" / "python", VENV / ".requirements.txt"
    requirements = BENCH / "requirements.txt"
    if stamp.exists() and stamp.read_text() == requirements.read_text():
        return str(python)
    log = ROOT / "build" / "log" / "bench-venv.log"
    if not python.exists():
        follow("make build/bench-venv", [sys.executable, "-m", "venv", str(VENV)], log)
    # Its wheels are for any processor of a kind; llama.cpp's speed needs this one's instructions.
    environment = dict(os.environ, CMAKE_ARGS="-DGGML_NATIVE=ON", CMAKE_BUILD_PARALLEL_LEVEL=str(os.cpu_count() or 1))
    install = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off", "-v"]
    install += ["--no-binary", "llama-cpp-python", "-r", str(requirements)]
    follow("build llama.cpp from its source distribution (minutes)", install, log, environment)
    shutil.copyfile(requirements, stamp)
    return str(python)


def raise_priority():
    """In the child, which leads a session and so an autogroup of its own: other work takes less of the machine."""
    # Neither is worth failing for: the kernel may have no autogroups, and only root may raise a priority.
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/autogroup").write_text(str(HIGH_PRIORITY), encoding="ascii")
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, HIGH_PRIORITY)


def run_process(command, priority):
    """Runs one measured process alone. Returns its standard output, its standard error and the seconds it took."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=raise_priority if priority else None,
    )
    try:
        out, err = process.communicate(timeout=PROCESS_LIMIT_S)
    except BaseException:
        process.kill()
        process.wait()
        raise
    seconds = time.perf_counter() - began
    if process.returncode != 0:
        raise Failure(f"{' '.join(command)} ended with {process.returncode}:\n{err.strip()[-2000:]}")
    return out, err, seconds


def cpu_times():
    """Busy and stolen processor time of the whole machine, in ticks."""
    fields = [int(field) for field in open("/proc/stat", encoding="ascii").readline().split()[1:]]
    return sum(fields[:8]), fields[7]


class Comparison:
    """Measures one model file in rounds; collects per case and side one value a round."""

    def __init__(self, options, python, model):
        self.options = options
        self.python = python
        self.model = model
        self.values = {}  # case > side > [value a round]
        self.facts = {}  # case > what halfmoon bench says of the last round
        self.shares = {}  # case > [share of the limit, a round]
        self.limits = {"read_gb_per_s": [], "int8_gop_per_s": [], "float32_gflop_per_s": []}

    def add(self, case, side, value):
        self.values.setdefault(case, {}).setdefault(side, []).append(value)

    def worker(self, mode, repack, *arguments):
        options = self.options
        command = [self.python, str(BENCH / "llama_cpp_worker.py"), mode, str(self.model), str(options.threads), repack]
        out, _, _ = run_process(command + [str(argument) for argument in arguments], options.priority)
        return [json.loads(line) for line in out.splitlines()]

    def measure_speed(self, side):
        o = self.options
        if side == OURS:
            command = [o.halfmoon, "bench", "-m", self.model, "-t", o.threads, "-p", o.prefill, "--decode-batch"]
            command += [o.decode_batch, "-n", o.decode, "-r", o.repeats, "--json"]
            out, err, _ = run_process([str(argument) for argument in command], o.priority)
            results = [json.loads(line) for line in out.splitlines()]
            found = LIMITS.search(err)
            for values, number in zip(self.limits.values(), found.groups() if found else ()):
                values.append(float(number))
            for result in results:
                self.facts[result["case"]] = result
                self.shares.setdefault(result["case"], []).append(result["share_of_limit"])
        else:
            results = self.worker("bench", THEIRS[side], o.prefill, o.decode_batch, o.decode, o.repeats)
        for result in results:
            self.add(result["case"], side, result["tokens_per_s"])

    def measure_start(self, side):
        o = self.options
        if side == OURS:
            command = [o.halfmoon, "generate", "-m", self.model, "-t", o.threads, "--prompt", PROMPT]
            command += ["--max-tokens", 1, "--temperature", 0, "--ignore-eos", "--json"]
            _, _, seconds = run_process([str(argument) for argument in command], o.priority)
            return seconds
        return self.worker("start", THEIRS[side], PROMPT)[0]["seconds"]

    def rounds(self, title, count, measure):
        sides = [OURS, *THEIRS]
        for index in range(count):
            # Whoever comes first in a round is another one each time.
            turn = index % len(sides)
            for side in sides[turn:] + sides[:turn]:
                say(f"{title}: round {index + 1} of {count}, {side if side == OURS else 'llama.cpp, ' + side}")
                measure(side)

    def run_speed(self, name):
        self.rounds(name, self.options.rounds, self.measure_speed)

    def run_start(self, name):
        for side in [OURS, *THEIRS]:
            self.measure_start(side)  # The first start, which fills the page cache and halfmoon's own caches.
        count = self.options.start_rounds
        self.rounds(f"{name}, start", count, lambda side: self.add(FIRST_TOKEN, side, self.measure_start(side)))


def spread(values):
    return (max(values) - min(values)) / statistics.median(values)


def summary(values):
    return {"median": statistics.median(values), "spread": round(spread(values), 3), "rounds": values}


def case_line(comparison, case, common):
    """The JSON line of one case. A ratio above 1: halfmoon has more tokens a second, or takes more seconds to start."""
    sides = comparison.values[case]
    better = min if case == FIRST_TOKEN else max
    best = better(THEIRS, key=lambda side: statistics.median(sides[side]))
    ratios = [ours / theirs for ours, theirs in zip(sides[OURS], sides[best])]
    line = dict(common)
    line["model"] = comparison.model.stem
    line["case"] = case
    line["unit"] = "s" if case == FIRST_TOKEN else "tokens/s"
    line["halfmoon"] = summary(sides[OURS])
    line["llama_cpp"] = summary(sides[best]) | {"repack": THEIRS[best]}
    line["llama_cpp_other"] = {side: summary(sides[side]) for side in THEIRS if side != best}
    line["ratio"] = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    if case in comparison.facts:
        fact = comparison.facts[case]
        line |= {"cpu": fact["cpu"], "isa": fact["isa"], "threads": fact["threads"]}
        line["limit_tokens_per_s"] = fact["limit_tokens_per_s"]
        line["share_of_limit"] = statistics.median(comparison.shares[case])
        line["limits"] = {name: statistics.median(values) for name, values in comparison.limits.items() if values}
    return line


def table(lines):
    rows = [
        "| model | case | halfmoon | llama.cpp (repack) | ratio (paired rounds) | share of limit |",
        "|---|---|---|---|---|---|",
    ]
    for line in lines:
        start = line["case"] == FIRST_TOKEN
        ours, theirs, ratio = line["halfmoon"], line["llama_cpp"], line["ratio"]
        digits = 3 if start else 1
        cells = [line["model"], line["case"]]
        cells.append(f"{ours['median']:.{digits}f} {line['unit']} ± {50 * ours['spread']:.0f} %")
        cells.append(f"{theirs['median']:.{digits}f} ± {50 * theirs['spread']:.0f} % ({theirs['repack']})")
        cells.append(f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})")
        cells.append(f"{100 * line['share_of_limit']:.0f} %" if "share_of_limit" in line else "")
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def git(*arguments):
    result = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return result.stdout.strip()


def common_facts(options, python):
    script = "import llama_cpp; print(llama_cpp.__version__)"
    result = subprocess.run([python, "-c", script], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise Failure(f"{python} has no llama-cpp-python; leave out --python and build/bench-venv will be made")
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    changed = bool(git("status", "--porcelain", "--untracked-files=no", "--", "src", "apps", "rust", "cmake"))
    return {
        "commit": git("rev-parse", "--short", "HEAD") or "unknown",
        "changed_since_commit": changed,
        "llama_cpp_python": result.stdout.strip(),
        "cpu": cpu.group(1) if cpu else "unknown",
        "threads": options.threads,
        "priority_raised": options.priority and os.geteuid() == 0,
    }


def moe_model(options, python):
    if options.moe_model:
        return options.moe_model
    path = CACHE / "bench" / f"qwen3moe-{options.moe_layers}-layers-{options.moe_type}-seed1.gguf"
    if not path.exists():
        command = [python, str(BENCH / "make_moe_model.py"), "--out", str(path), "--layers", str(options.moe_layers)]
        follow(f"write {path.name}", command + ["--type", options.moe_type], ROOT / "build" / "log" / "moe-model.log")
    return path


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--halfmoon", type=pathlib.Path, default=ROOT / "build" / "release" / "halfmoon")
    parser.add_argument("--python", help="a Python that has requirements.txt (default: build/bench-venv is made)")
    parser.add_argument("--model", type=pathlib.Path, help="the small model (default: the one that ./run fetched)")
    parser.add_argument("--moe-model", type=pathlib.Path, help="a file instead of the random one")
    parser.add_argument("--moe-type", choices=["q4_0", "q4_1", "q8_0"], default="q4_0")
    parser.add_argument("--moe-layers", type=int, default=8)
    parser.add_argument("--cases", default="smollm2,start,moe", help="which of smollm2,start,moe (default: all)")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-p", "--prefill", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("--decode-batch", default="1,16", help="sequences decoded together")
    parser.add_argument("-n", "--decode", type=int, default=32, help="tokens decoded per sequence")
    parser.add_argument("-r", "--repeats", type=int, default=3, help="counted runs in one process; their median counts")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each side, taking turns")
    parser.add_argument("--start-rounds", type=int, default=15, help="starts of each side, taking turns")
    parser.add_argument("--no-priority", dest="priority", action="store_false", help="leave the priority as it is")
    parser.add_argument("--markdown", type=pathlib.Path, help="write the table to this file too")
    options = parser.parse_args()
    if min(options.rounds, options.start_rounds, options.repeats, options.threads) < 1:
        parser.error("counts have to be at least 1")
    options.wanted = options.cases.split(",")
    if unknown := set(options.wanted) - {"smollm2", "start", "moe"}:
        parser.error(f"unknown case {sorted(unknown)[0]}")
    return options


def run(options):
    if not options.halfmoon.exists():
        raise Failure(f"{options.halfmoon} does not exist; ./run build makes it")
    small = options.model or DEFAULT_MODEL
    if {"smollm2", "start"} & set(options.wanted) and not small.exists():
        raise Failure(f"{small} does not exist; ./run fetches it, --model names another")
    python = python_with_llama_cpp(options.python)
    common = common_facts(options, python)
    plan = [(small, {"smollm2", "start"})]
    if "moe" in options.wanted:
        plan.append((moe_model(options, python), {"moe"}))
    lines = []
    for model, names in plan:
        comparison = Comparison(options, python, model)
        total, stolen = cpu_times()
        if names & {"smollm2", "moe"} & set(options.wanted):
            comparison.run_speed(model.stem)
        if "start" in names & set(options.wanted):
            comparison.run_start(model.stem)
        total_after, stolen_after = cpu_times()
        common["stolen_share"] = round((stolen_after - stolen) / max(1, total_after - total), 4)
        for case in comparison.values:
            lines.append(case_line(comparison, case, common))
            print(json.dumps(lines[-1]), flush=True)
    rows = table(lines)
    print("\n" + rows, file=sys.stderr)
    if options.markdown:
        options.markdown.write_text(rows, encoding="utf-8")


def exit_code(action):
    """Runs `action`; what a user can cause becomes one line and a code."""
    try:
        action()
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    except subprocess.TimeoutExpired as expired:
        print(f"error: {' '.join(expired.cmd)} took more than {PROCESS_LIMIT_S} s", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(lambda: run(parse_arguments())))

# SPDX-License-Identifier: Apache-2.0
"""What the programs of this folder share: where things are, long commands with progress, measured processes."""

import contextlib
import os
import pathlib
import statistics
import subprocess
import sys
import time

BENCH = pathlib.Path(__file__).resolve().parent
ROOT = BENCH.parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "halfmoon"
PROGRAM = ROOT / "build" / "release" / "halfmoon"
DEFAULT_MODEL = CACHE / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
VENV = ROOT / "build" / "bench-venv"
PROCESS_LIMIT_S = 1800
HIGH_PRIORITY = -19


class Failure(Exception):
    """Ends the program with one message."""


def say(text):
    print(f"[{time.monotonic() - say.began:4.0f} s] {text}", file=sys.stderr, flush=True)


say.began = time.monotonic()


def follow(title, command, log):
    """Runs a long command with its output in a log; says every 20 s what the log ends with."""
    log.parent.mkdir(parents=True, exist_ok=True)
    say(f"{title} ...")
    with open(log, "wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT)
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


def python_with_gguf(given):
    """A Python that can write models: the one given, or that of build/bench-venv, made where it is missing."""
    python, stamp = VENV / "bin" / "python", VENV / ".has-gguf"
    if given or stamp.exists():
        return given or str(python)
    log = ROOT / "build" / "log" / "bench-venv.log"
    if not python.exists():
        follow("make build/bench-venv", [sys.executable, "-m", "venv", str(VENV)], log)
    install = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    follow("install gguf", install + ["-c", str(BENCH / "requirements.txt"), "gguf", "numpy"], log)
    stamp.touch()
    return str(python)


def random_model(python, shape, layers, kind, heads=None):
    """The file of make_moe_model.py with these options, written where it is not there yet."""
    name = f"{shape}-{layers}-layers" + (f"-{heads}-heads" if heads else "") + f"-{kind}"
    path = CACHE / "bench" / f"{name}.gguf"
    if not path.exists():
        command = [python_with_gguf(python), str(BENCH / "make_moe_model.py"), "--out", str(path), "--shape", shape]
        command += ["--layers", str(layers), "--type", kind] + (["--heads", str(heads)] if heads else [])
        follow(f"write {path.name}", command, ROOT / "build" / "log" / "random-model.log")
    return path


def raise_priority():
    """In the child, which leads a session and so an autogroup of its own: other work takes less of the machine."""
    # Neither is worth failing for: the kernel may have no autogroups, and only root may raise a priority.
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/autogroup").write_text(str(HIGH_PRIORITY), encoding="ascii")
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, HIGH_PRIORITY)


def run_process(command, priority):
    """Runs one measured process alone. Returns its standard output."""
    process = subprocess.Popen(
        [str(argument) for argument in command],
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
    if process.returncode != 0:
        raise Failure(f"{command[0]} {command[1]} ended with {process.returncode}:\n{err.strip()[-2000:]}")
    return out


def cpu_times():
    """Busy and stolen processor time of the whole machine, in ticks."""
    fields = [int(field) for field in open("/proc/stat", encoding="ascii").readline().split()[1:]]
    return sum(fields[:8]), fields[7]


def summary(values):
    median = statistics.median(values)
    return {"median": median, "spread": round((max(values) - min(values)) / median, 3), "rounds": values}


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

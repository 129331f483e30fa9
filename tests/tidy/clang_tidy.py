#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs clang-tidy-19 over files that changed lately, or over all: clang_tidy.py ROOT BUILD_FOLDER [--all] [--jobs N].

Lately is what differs from HALFMOON_TIDY_BASE, or else from the merge base with origin/main; where that is HEAD itself,
the files that the last day of commits touched. Newest first, until the time is up: the rest is named as left over. A file
that came out clean is not looked at again until it, a header of ours below it, its flags or .clang-tidy change.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import time

from headers_compile import own_files_below

PROGRAM = "clang-tidy-19"


def git(root: pathlib.Path, *arguments: str) -> str:
    result = subprocess.run(["git", "-c", "safe.directory=*", "-C", str(root), *arguments], capture_output=True, text=True)
    return result.stdout.strip() if result.returncode == 0 else ""


def changed_files(root: pathlib.Path) -> list[str]:
    """Names relative to the root, newest change first."""
    names = git(root, "ls-files", "-mo", "--exclude-standard").splitlines()
    head = git(root, "rev-parse", "HEAD")
    base = os.environ.get("HALFMOON_TIDY_BASE") or git(root, "merge-base", "HEAD", "origin/main")
    if base and git(root, "rev-parse", base) != head:
        names += git(root, "log", "--name-only", "--format=", f"{base}..HEAD").splitlines()
    elif head:
        last = int(git(root, "log", "-1", "--format=%ct"))
        names += git(root, "log", "--name-only", "--format=", f"--since={last - 86400}").splitlines()
    return list(dict.fromkeys(name for name in names if name))


def select(commands: dict[str, str], root: pathlib.Path, everything: bool) -> list[str]:
    """Sources to look at. A header is looked at through the source beside it."""
    if everything:
        return sorted(commands)
    wanted = {}
    for name in changed_files(root):
        source = str((root / name).with_suffix(".cc"))
        if name.endswith((".cc", ".h")) and source in commands:
            wanted[source] = None
    return list(wanted)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=pathlib.Path)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=int, default=240, help="start no file after this long (not with --all)")
    options = parser.parse_args()
    root, build = options.root.resolve(), options.build.resolve()
    commands = {entry["file"]: entry["command"] for entry in json.loads((build / "compile_commands.json").read_text())
                if entry["file"].endswith(".cc") and pathlib.Path(entry["file"]).is_file()}
    files = select(commands, root, options.all)
    stamps = build / "clang_tidy"
    stamps.mkdir(exist_ok=True)
    deadline = None if options.all else time.monotonic() + options.seconds
    version = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout

    def check(name: str) -> str | None:
        """Findings, "" where there are none, None where the time was up."""
        file = pathlib.Path(name)
        digest = hashlib.sha256((version + commands[name] + (root / ".clang-tidy").read_text()).encode())
        for part in own_files_below(file, [root / "src", root, root / "tests"]):
            digest.update(part.read_bytes())
        stamp = stamps / file.relative_to(root).as_posix().replace("/", "-")
        if stamp.exists() and stamp.read_text() == digest.hexdigest():
            return ""
        if deadline and time.monotonic() > deadline:
            return None
        # The flags are g++'s; clang does not know all of its warnings, and no warning is this step's business.
        result = subprocess.run([PROGRAM, "-p", str(build), "--quiet", "--extra-arg=-Wno-everything", name],
                                capture_output=True, text=True)
        if result.returncode == 0:
            stamp.write_text(digest.hexdigest())
            print(f"{file.relative_to(root)}: clean", flush=True)
            return ""
        return result.stdout + result.stderr

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(check, files))
    findings = [result for result in results if result]
    left = sum(result is None for result in results)
    for finding in findings:
        print(finding)
    print(f"{len(files) - left - len(findings)} files clean, {len(findings)} with findings"
          + (f", {left} not reached in {options.seconds} s (./test --slow looks at all)" if left else ""))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

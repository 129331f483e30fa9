#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compiles every header of src/ and apps/ alone. Usage: headers_compile.py ROOT BUILD_FOLDER.

Flags are those that BUILD_FOLDER/compile_commands.json gives a source of the same folder. A header that passed is
not compiled again until it, a header of ours below it, or its flags change. Headers with intrinsics of another
processor than the compiler's are left out.
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.MULTILINE)
# What decides whether a header compiles; output names, dependency files and the source are left out.
KEPT = re.compile(r"-(I|D|U|std=|W|m|f)")
# Processor, as the compiler's target begins > endings of the headers that only it can compile.
INTRINSICS = {"x86_64": ("_avx2.h", "_avx512.h"), "aarch64": ("_neon.h", "_dotprod.h")}


def flags_by_folder(commands: list[dict]) -> dict[str, list[str]]:
    """Folder > compiler and flags of its first source."""
    result = {}
    for command in commands:
        folder = str(pathlib.Path(command["file"]).parent)
        if folder in result or not command["file"].endswith(".cc"):
            continue
        words = shlex.split(command["command"])
        compiler = next(word for word in words if not word.endswith("ccache"))
        kept = [compiler]
        for word, following in zip(words, words[1:] + [""]):
            if word in ("-isystem", "-include"):
                kept += [word, following]
            elif KEPT.match(word):
                kept.append(word)
        result[folder] = kept
    return result


def own_files_below(header: pathlib.Path, roots: list[pathlib.Path]) -> list[pathlib.Path]:
    """The header and the headers of ours that it includes, directly or not."""
    seen, todo = [], [header]
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.append(current)
        for name in INCLUDE.findall(current.read_text(encoding="utf-8")):
            todo += [folder / name for folder in (*roots, current.parent) if (folder / name).is_file()][:1]
    return sorted(seen)


def main() -> int:
    root, build = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
    flags = flags_by_folder(json.loads((build / "compile_commands.json").read_text()))
    roots = [root / "src", root]
    stamps = build / "headers_compile"
    stamps.mkdir(exist_ok=True)
    headers = sorted([*(root / "src").rglob("*.h"), *(root / "apps").rglob("*.h")])

    compiler = next(iter(flags.values()))[0]
    target = subprocess.run([compiler, "-dumpmachine"], capture_output=True, text=True, check=True).stdout
    foreign = tuple(end for cpu, ends in INTRINSICS.items() if not target.startswith(cpu) for end in ends)
    headers = [header for header in headers if not header.name.endswith(foreign)]

    def check(header: pathlib.Path) -> str | None:
        folder = next((str(f) for f in header.parents if str(f) in flags), None)
        if folder is None:
            return f"{header.relative_to(root)}: no source is built in its folder"
        command = list(flags[folder])
        if "immintrin.h" in header.read_text(encoding="utf-8"):
            command += ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mfma", "-mf16c"]
        # Headers of test helpers see what test programs are built with.
        command += [f'-DHALFMOON_GOLDEN_DIR="{root}/tests/golden"', f'-DHALFMOON_SOURCE_DIR="{root}"']
        # A header has no use of its own for its constants and static functions.
        command += ["-Wno-unused", "-fsyntax-only", "-x", "c++", "-"]
        digest = hashlib.sha256(" ".join(command).encode())
        for file in own_files_below(header, roots):
            digest.update(file.read_bytes())
        stamp = stamps / header.relative_to(root).as_posix().replace("/", "-")
        if stamp.exists() and stamp.read_text() == digest.hexdigest():
            return None
        source = f'#include "{header}"\n'
        result = subprocess.run(command, input=source, capture_output=True, text=True)
        if result.returncode != 0:
            return f"{header.relative_to(root)}: does not compile alone\n{result.stderr[:3000]}"
        stamp.write_text(digest.hexdigest())
        return None

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        findings = [finding for finding in pool.map(check, headers) if finding]
    for finding in findings:
        print(finding)
    print(f"{len(headers)} headers, {len(findings)} findings")
    return 1 if findings or not headers else 0


if __name__ == "__main__":
    sys.exit(main())

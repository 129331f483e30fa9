#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The whole table: writes the random models that it needs, once, and runs `halfmoon bench --compare` over all of them.

    bench/table.py [--models small,qwen3_moe-q4_0,...] [--program PATH] [--python PATH] [FLAG of halfmoon bench ...]

Flags that are not its own go to halfmoon bench: --json, --markdown FILE, --rounds N, --cases LIST, --peer-python PATH,
--compare llama.cpp:avx2 (default: llama.cpp). See bench/README.md.
"""

import argparse
import os
import pathlib
import sys

from measuring import DEFAULT_MODEL, PROGRAM, Failure, exit_code, random_model

RANDOM_MODELS = {f"{shape}-{kind}": (shape, kind) for shape in ("qwen3_moe", "deepseek_v3") for kind in ("q4_0", "q8_0")}
LAYERS = 8


def model_path(name, python):
    if name != "small":
        shape, kind = RANDOM_MODELS[name]
        return random_model(python, shape, LAYERS, kind)
    if not DEFAULT_MODEL.exists():
        raise Failure(f"{DEFAULT_MODEL} does not exist; ./run fetches it")
    return DEFAULT_MODEL


def run(options, flags):
    if not options.program.exists():
        raise Failure(f"{options.program} does not exist; ./run build makes it")
    command = [str(options.program), "bench"]
    if not any(flag == "--compare" or flag.startswith("--compare=") for flag in flags):
        command += ["--compare", "llama.cpp"]
    for name in options.models:
        command += ["-m", str(model_path(name, options.python))]
    os.execv(command[0], command + flags)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    names = ["small", *RANDOM_MODELS]
    parser.add_argument("--models", default=",".join(names), help="which; default: %(default)s")
    parser.add_argument("--program", type=pathlib.Path, default=PROGRAM)
    parser.add_argument("--python", help="a Python with gguf and numpy, to write models (default: build/bench-venv is made)")
    options, flags = parser.parse_known_args()
    options.models = options.models.split(",")
    if unknown := [name for name in options.models if name not in names]:
        parser.error(f"--models: no model {unknown[0]}; known: {', '.join(names)}")
    return options, flags


if __name__ == "__main__":
    sys.exit(exit_code(lambda: run(*parse_arguments())))

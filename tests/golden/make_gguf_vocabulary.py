# SPDX-License-Identifier: Apache-2.0
"""Writes the tokenizer metadata of a GGUF file as JSON: what text::GgufTokenizerSpec holds, for reference tests.

    pip install gguf==0.19.0
    python make_gguf_vocabulary.py MODEL.gguf OUT.json
"""

import json
import sys

import gguf

PREFIX = "tokenizer.ggml."
FIELDS = {
    "model": "model",
    "pre": "pre",
    "tokens": "tokens",
    "scores": "scores",
    "token_types": "token_type",
    "merges": "merges",
    "bos_id": "bos_token_id",
    "eos_id": "eos_token_id",
    "unknown_id": "unknown_token_id",
    "padding_id": "padding_token_id",
    "add_bos": "add_bos_token",
    "add_eos": "add_eos_token",
    "add_space_prefix": "add_space_prefix",
}


def main(model_path, out_path):
    fields = gguf.GGUFReader(model_path).fields
    spec = {}
    for name, key in FIELDS.items():
        if PREFIX + key in fields:
            value = fields[PREFIX + key].contents()
            spec[name] = bool(value) if name.startswith("add_") else value
    with open(out_path, "w", encoding="utf-8") as out:
        json.dump(spec, out, ensure_ascii=False)


if __name__ == "__main__":
    main(*sys.argv[1:])

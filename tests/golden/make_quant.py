#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/quant/*.safetensors: quantised rows and what the PyPI package `gguf` makes of them.

Needs: pip install gguf==0.19.0 numpy==2.4.6 safetensors==0.8.0

One file per format:
  blocks     U8  [B, block_bytes]      random bits with finite scales
  decoded    F32 [B, block_elements]   gguf.quants.dequantize(blocks)
and, where the package also encodes the format:
  values     F32 [R, 32]               Gaussian and edge-case rows
  encoded    U8  [R, block_bytes]      gguf.quants.quantize(values)
"""

import pathlib

import gguf
import numpy as np
from safetensors.numpy import save_file

SEED = 20240607
NUM_BLOCKS = 12
# Byte offsets of the float16 scales inside a block.
SCALES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,),
    "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "F16": None, "BF16": None,
    "Q2_K": (80, 82), "Q3_K": (108,), "IQ4_NL": (0,), "IQ4_XS": (0,), "MXFP4": (), "TQ1_0": (52,),
    "TQ2_0": (64,),
}
ENCODES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "BF16")


def random_blocks(rng, name, block_elements, block_bytes):
    if SCALES[name] is None:  # every kind of exponent, without infinities and NaN
        values = rng.standard_normal((NUM_BLOCKS, 32)) * 10.0 ** rng.integers(-9, 4, (NUM_BLOCKS, 32))
        return gguf.quants.quantize(values.astype(np.float32), gguf.GGMLQuantizationType[name])
    blocks = rng.integers(0, 256, (NUM_BLOCKS, block_bytes), dtype=np.uint8)
    if name == "MXFP4":  # the first byte is the scale: the smallest two, the largest, any
        blocks[:3, 0] = (0, 1, 252)
        blocks[3:, 0] %= 253  # 12 times larger ones are not finite
    for offset in SCALES[name]:
        d = (rng.standard_normal(NUM_BLOCKS) * 10.0 ** rng.integers(-7, 1, NUM_BLOCKS)).astype(np.float16)
        d[0] = np.float16(6e-8)  # the smallest subnormal
        d[1] = np.float16(0)
        blocks[:, offset:offset + 2] = d.view(np.uint8).reshape(-1, 2)
    return blocks


def edge_values(rng):
    values = rng.standard_normal((10, 32)).astype(np.float32)
    values[6] = 0
    values[7] = 1.25
    values[8] = np.abs(values[8]) + 1
    values[9] *= 1e-6
    return values


def main():
    out = pathlib.Path(__file__).parent / "quant"
    out.mkdir(exist_ok=True)
    for name in SCALES:
        rng = np.random.default_rng(SEED)
        kind = gguf.GGMLQuantizationType[name]
        block_elements, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        blocks = random_blocks(rng, name, block_elements, block_bytes)
        tensors = {
            "blocks": blocks.view(np.uint8).reshape(NUM_BLOCKS, -1),
            "decoded": gguf.quants.dequantize(blocks, kind).reshape(NUM_BLOCKS, -1).astype(np.float32),
        }
        if name in ENCODES:
            values = edge_values(rng)
            tensors["values"] = values
            tensors["encoded"] = gguf.quants.quantize(values, kind).view(np.uint8).reshape(len(values), -1)
        path = out / f"{name}.safetensors"
        # One key only: the library writes several in an order that changes from run to run.
        save_file(tensors, path, metadata={"made_with": f"seed {SEED}, gguf 0.19.0"})
        path.chmod(0o644)


if __name__ == "__main__":
    main()

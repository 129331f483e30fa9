# SPDX-License-Identifier: Apache-2.0
"""Reference outputs of tests/golden, and how near to them is right (tests/golden/README.md)."""

import json

import numpy as np
from safetensors.numpy import load_file

RELATIVE_RMS = 2e-5
MAX_ABS = 2e-3
TIE_GAP = 1e-5  # of router scores: nearer than this, either choice is right


class Expected:
    """A folder of tests/golden."""

    def __init__(self, folder):
        self.folder = folder
        self.facts = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
        self.prompts = self.facts["prompts"]
        self.lists = [prompt["input_ids"] for prompt in self.prompts]
        self.tensors = load_file(folder / "expected.safetensors")


def relative_rms(got, want):
    return np.linalg.norm(got.astype(np.float64) - want) / np.linalg.norm(want.astype(np.float64))

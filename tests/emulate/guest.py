"""Runs on an emulated core or beside it: reads a prompt, then given tokens one by one, and saves the logits.

    python guest.py PLAN.json

The plan is a list of {"bundle", "prompt": ids, "tokens": ids, "out": file.npy}. Logits [1 + tokens, vocab] are those
after the prompt and after every token.
"""

import json
import sys
from pathlib import Path

import numpy as np

from edgelm.bundle.reader import Bundle
from edgelm.runtime.engine import Engine


def logits(bundle: str, prompt: list[int], tokens: list[int]) -> np.ndarray:
    engine = Engine.load(Bundle.open(bundle), threads=2)
    steps = [engine.forward(prompt).copy()]
    steps += [engine.forward([token]).copy() for token in tokens]
    return np.concatenate(steps)


if __name__ == "__main__":
    for item in json.loads(Path(sys.argv[1]).read_text()):
        np.save(item["out"], logits(item["bundle"], item["prompt"], item["tokens"]))

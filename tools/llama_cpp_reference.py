"""What llama.cpp makes of the real models' files, which tests compare with: ids, greedy text with its margins, perplexity.

    pip install llama-cpp-python        # in an environment of its own: it compiles llama.cpp
    python tools/llama_cpp_reference.py tests/exporter/llama_cpp.json wikitext-2/test.txt --lines LINES.json

The file keeps the lines it has; --lines replaces them with those of a JSON list. Models are those that
tools/real_models.py has fetched; of others nothing is written.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import real_models

PROMPTS = (
    "The three most important things to know about the ocean are",
    "Once upon a time, in a village between two rivers, there lived a clockmaker who",
)
TOKENS = 100
CHARACTERS = 40_000  # of the text: more than the chunks take
CHUNKS, CHUNK = 8, 512


@click.command(help=__doc__)
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("text", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--lines", "lines_file", type=click.Path(exists=True, path_type=Path), help="A JSON list of strings.")
def main(target: Path, text: Path, lines_file: Path | None) -> None:
    known: dict[str, Any] = json.loads(target.read_text()) if target.exists() else {"lines": [], "models": {}}
    if lines_file is not None:
        known["lines"] = json.loads(lines_file.read_text())
    for name in real_models.MODELS:
        if (path := real_models.where(name)) is not None:
            known["models"][name] = reference(path, known["lines"], text.read_text(encoding="utf-8")[:CHARACTERS])
    target.write_text(json.dumps(known, ensure_ascii=True, separators=(",", ":")) + "\n")


def reference(path: Path, lines: list[str], text: str) -> dict[str, Any]:
    """Ids of `lines`, BOS where the model wants one and control tokens as such; greedy texts; perplexity of `text`."""
    from llama_cpp import Llama

    # Keys and values in fp32 (type 0): what is left to differ is the rounding of activations.
    settings = {"type_k": 0, "type_v": 0, "flash_attn": False, "logits_all": True, "verbose": False}
    model = Llama(str(path), n_ctx=512, n_batch=512, n_threads=2, **settings)
    ids = [model.tokenize(line.encode(), add_bos=True, special=True) for line in lines]
    made = [greedy(model, prompt) for prompt in PROMPTS]
    return {"ids": ids, "greedy": made, "perplexity": perplexity(model, text)}


def greedy(model: Any, prompt: str) -> dict[str, Any]:
    """Prompt, its ids, the tokens after it, and by how much in log-probability each was ahead of the next."""
    ids = model.tokenize(prompt.encode(), add_bos=True, special=True)
    tokens, margins = [], []
    model.reset()
    model.eval(ids)
    for _ in range(TOKENS):
        logits = np.array(model.scores[model.n_tokens - 1], np.float64)
        second, first = np.argsort(logits)[-2:]
        tokens.append(int(first))
        margins.append(round(float(logits[first] - logits[second]), 4))
        model.eval([int(first)])
    return {"prompt": prompt, "ids": ids, "tokens": tokens, "margins": margins}


def perplexity(model: Any, text: str) -> float:
    """By llama.cpp's definition: chunks of 512, BOS as the first token where the model wants one, second halves scored."""
    ids = model.tokenize(text.encode(), add_bos=False, special=False)
    bos = model.tokenize(b"", add_bos=True)
    losses = []
    for start in range(0, CHUNKS * CHUNK, CHUNK):
        chunk = [*bos, *ids[start + len(bos) : start + CHUNK]]
        model.reset()
        model.eval(chunk)
        logits = np.array(model.scores[CHUNK // 2 : CHUNK - 1], np.float64)
        chosen = logits[np.arange(len(logits)), chunk[CHUNK // 2 + 1 :]]
        peak = logits.max(axis=1)
        losses.append(np.log(np.exp(logits - peak[:, None]).sum(axis=1)) + peak - chosen)
    return round(float(np.exp(np.mean(losses))), 4)


if __name__ == "__main__":
    main()

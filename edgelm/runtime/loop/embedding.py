"""Texts to vectors, with a bundle that was exported for that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgelm.errors import OptionError, PromptError, near
from edgelm.runtime.kv.prefill import PREFILL_CHUNK

if TYPE_CHECKING:
    from edgelm.bundle.embedding import Embedding
    from edgelm.runtime.model import Sequence as TextSequence
    from edgelm.runtime.text.tokenizer import Tokenizer


def encode(
    texts: Sequence[str], tokenizer: Tokenizer, facts: Embedding, prompt: str | None, context: int
) -> list[list[int]]:
    """The ids of each text, its prompt before it and the special tokens around it.

    Args:
        texts: what is to be embedded.
        tokenizer: of the model.
        facts: how it embeds.
        prompt: the name of one of its prompts, "" for none, None for the default one.
        context: tokens a text may have.

    Raises:
        OptionError: no such prompt.
        PromptError: a text is no str, has no token, or more of them than the context.
    """
    name = facts.default_prompt if prompt is None else prompt
    if name and name not in facts.prompts:
        raise OptionError(f"the model has no prompt {name!r}", hint=near(name, facts.prompts, listing="it has"))
    before, found = facts.prompts[name] if name else "", list[list[int]]()
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise PromptError(f"a text must be a str, not {type(text).__name__} (number {number})")
        ids = tokenizer.encode(before + text)
        if not 0 < len(ids) <= context:
            what = f"has {len(ids):,} tokens, this bundle's context is {context:,}" if ids else "is empty"
            raise PromptError(f"text {number} {what}", hint="embed it in parts" if ids else None)
        found.append(ids)
    return found


def embed(ids: Sequence[int], sequence: TextSequence, facts: Embedding) -> np.ndarray:
    """The vector of a text.

    Args:
        ids: its tokens [n], n >= 1.
        sequence: which reads them; what it held is forgotten.
        facts: how hidden states are pooled.

    Returns:
        float32 [hidden].
    """
    sequence.reset()
    if facts.pooling == "last":
        pooled: np.ndarray = sequence.prefill(ids)[-1].copy()
    elif facts.pooling == "cls":  # of a causal model: the first token sees itself alone
        pooled = sequence.forward(ids[:1])[0].copy()
    else:
        pooled = _mean(ids, sequence, weighted=facts.pooling == "weighted_mean")
    if not facts.normalized:
        return pooled
    length = float(np.linalg.norm(pooled))
    scaled: np.ndarray = pooled / np.float32(length or 1.0)
    return scaled


def _mean(ids: Sequence[int], sequence: TextSequence, *, weighted: bool) -> np.ndarray:
    """The mean over all tokens, summed in float64; `weighted` by 1, 2, 3, … from the first token on."""
    total, weight = np.zeros(sequence.width), 0.0
    for start in range(0, len(ids), PREFILL_CHUNK):
        piece = ids[start : start + PREFILL_CHUNK]
        weights = np.arange(start + 1, start + 1 + len(piece)) if weighted else np.ones(len(piece))
        total += weights @ sequence.forward(piece, len(piece)).astype(np.float64)
        weight += float(weights.sum())
    mean: np.ndarray = (total / weight).astype(np.float32)
    return mean

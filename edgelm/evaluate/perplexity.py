"""Perplexity of a text, by llama.cpp's definition (tools/perplexity), so that figures compare.

The whole text is tokenised and cut into chunks of `chunk` ids that do not overlap; what is left at the end is not
used. BOS takes the place of each chunk's first id where the vocabulary uses one. Each chunk starts on an empty cache,
and only its second half is scored, 255 tokens of 512: the first half is what they are predicted from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgelm.errors import EdgeLMError, OptionError

CHUNK = 512
_MOST_LOGITS = 1 << 24  # of one forward pass: 64 MB

OnChunk = Callable[[int, int], None]
"""Called with (chunks done, chunks in all) before each chunk."""


class Reads(Protocol):
    """What is asked of an Engine: ids to logits."""

    vocab_size: int

    def forward(self, ids: Sequence[int] | np.ndarray, num_logits: int = 1) -> np.ndarray:
        """Append tokens and compute the logits of the last `num_logits`."""


class Scores(Reads, Protocol):
    """What is asked of an Engine: texts of its context's length, one after another."""

    context: int

    def reset(self) -> None:
        """Forget all tokens."""


@dataclass(frozen=True)
class Perplexity:
    """The outcome.

    Attributes:
        value: exp of the mean negative log-likelihood of a scored token.
        error: its standard error, ``value * sqrt(variance / (n - 1))``.
        tokens: scored tokens; `chunks` of `chunk` ids each.
    """

    value: float
    error: float
    tokens: int
    chunks: int
    chunk: int

    def __str__(self) -> str:
        return f"{self.value:.4f} ± {self.error:.4f}"


@dataclass(frozen=True)
class Share:
    """One of several equal shares of what there is to do, in order; all of it by default."""

    number: int = 0
    shares: int = 1

    def of(self, count: int) -> range:
        """The places of this share among `count`."""
        return range(count * self.number // self.shares, count * (self.number + 1) // self.shares)


ALL = Share()


def perplexity(
    engine: Scores,
    ids: Sequence[int] | np.ndarray,
    *,
    bos: int | None = None,
    chunk: int | None = None,
    chunks: int | None = None,
    on_chunk: OnChunk = lambda done, total: None,
) -> Perplexity:
    """Perplexity of a tokenised text.

    Args:
        engine: is left empty.
        ids: of the whole text.
        bos: the id that a text begins with, or None where the vocabulary uses none.
        chunk: ids in a chunk; None is `CHUNK`, or the context where that is less.
        chunks: how many to score; None is all.
        on_chunk: is called with every chunk.

    Raises:
        OptionError: `chunk` or `chunks` is out of range.
        EdgeLMError: the text is shorter than a chunk.
    """
    tokens, size, count = chunked(engine.context, ids, chunk, chunks)
    return summary(losses_of(engine, tokens, size, range(count), bos=bos, on_chunk=on_chunk), count, size)


def losses_of(
    engine: Scores,
    tokens: np.ndarray,
    size: int,
    which: range,
    *,
    bos: int | None = None,
    on_chunk: OnChunk = lambda done, total: None,
) -> np.ndarray:
    """Negative log-likelihood of every scored token of some chunks, float64 [n]; no chunk depends on another one.

    Args:
        engine: is left empty.
        tokens, size: as `chunked` gives them.
        which: the chunks, by their number.
        bos, on_chunk: see `perplexity`.
    """
    losses = [np.zeros(0)]
    for done, index in enumerate(which):
        on_chunk(done, len(which))
        pieces = scored(engine, tokens[index * size : (index + 1) * size], bos)
        losses += [negative_log_likelihood(logits, targets) for logits, targets in pieces]
    engine.reset()
    return np.concatenate(losses)


def chunked(
    context: int, ids: Sequence[int] | np.ndarray, chunk: int | None, chunks: int | None
) -> tuple[np.ndarray, int, int]:
    """(The ids, how many make a chunk, how many chunks to score), as `perplexity` takes and refuses them."""
    size = min(CHUNK, context) if chunk is None else chunk
    if not 4 <= size <= context:
        raise OptionError(f"chunk must be from 4 to the context of {context:,} tokens, not {size}")
    if chunks is not None and chunks < 1:
        raise OptionError(f"chunks must be at least 1, not {chunks}")
    tokens = np.asarray(ids, dtype=np.int64)
    there = len(tokens) // size
    if there == 0:
        raise EdgeLMError(
            f"the text has {len(tokens):,} tokens, perplexity needs {size:,} or more",
            hint="take a longer text or --chunk",
        )
    return tokens, size, there if chunks is None else min(chunks, there)


def scored(engine: Scores, chunk: np.ndarray, bos: int | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The second half of a chunk, in pieces: (logits float32 [n, vocabulary], the ids that follow [n]).

    Engines of the same vocabulary give the same pieces. Logits may be overwritten when the next piece is asked for.
    """
    inputs, first = chunk[:-1].copy(), len(chunk) // 2
    if bos is not None:
        inputs[0] = bos
    engine.reset()
    for end, logits in logits_from(engine, inputs, first):
        yield logits, chunk[end - len(logits) + 1 : end + 1]


def logits_from(engine: Reads, ids: Sequence[int] | np.ndarray, first: int) -> Iterator[tuple[int, np.ndarray]]:
    """Read ids; the logits behind each from `first` on, in pieces.

    Yields:
        how many ids are read, and the logits behind the last n of these, float32 [n, vocabulary], which may be
        overwritten when the next piece is asked for. Engines of the same vocabulary give the same pieces.
    """
    # A large vocabulary makes many logits: what is scored then goes through in pieces, on top of what is not.
    piece = max(1, _MOST_LOGITS // engine.vocab_size)
    start = 0
    for end in range(min(first + piece, len(ids)), len(ids) + piece, piece):
        end = min(end, len(ids))
        yield end, engine.forward(ids[start:end], num_logits=end - max(start, first))
        start = end


def negative_log_likelihood(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """``-log softmax(logits)[target]`` of each row, float64 [n].

    Args:
        logits: float32 [n, vocabulary].
        targets: ids [n].

    Raises:
        EdgeLMError: logits are not finite.
    """
    peaks = logits.max(axis=1, keepdims=True)
    sums = np.exp(logits - peaks).sum(axis=1, dtype=np.float64)
    picked = np.take_along_axis(logits, targets[:, None], axis=1).astype(np.float64)
    losses: np.ndarray = np.log(sums) - (picked - peaks)[:, 0]
    if not np.isfinite(losses).all():
        raise EdgeLMError(
            "the model's logits hold NaN or infinite values", hint="check the bundle with `edgelm verify BUNDLE`"
        )
    return losses


def summary(losses: np.ndarray, chunks: int, size: int) -> Perplexity:
    """Perplexity of the negative log-likelihoods [n] of all scored tokens."""
    mean = float(losses.mean())
    value = math.exp(min(mean, 700.0))
    variance = max(0.0, float(np.square(losses).mean()) - mean * mean)
    error = value * math.sqrt(variance / (losses.size - 1)) if losses.size > 1 else 0.0
    return Perplexity(value, error, losses.size, chunks, size)

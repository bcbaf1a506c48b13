"""How far a quantised model is from its original: KL divergence over a text, by llama.cpp's definitions.

Tokens are chunked and scored as for perplexity (`edgelm.evaluate.perplexity`). For every scored position, with P the
original's distribution of the next token and Q the quantised model's, as ``llama-perplexity --kl-divergence`` has it:

    KLD         Σ_v P(v) (log P(v) - log Q(v)), in nats; its mean, and percentiles interpolated linearly
    same_top    top-1 agreement, the share of positions at which both find the same token most likely
    RMS Δp      √ mean (Q(t) - P(t))², t being the token that follows in the text

Both models read the text side by side, so that the original's logits are never kept: memory does not grow with the
text beyond three floats a scored token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgelm.errors import EdgeLMError
from edgelm.evaluate.perplexity import (
    OnChunk,
    Perplexity,
    Scores,
    chunked,
    negative_log_likelihood,
    scored,
    summary,
)

PERCENTILES = (90.0, 95.0, 99.0, 99.9)
_VALUES = 1 << 20  # logits compared at once, in float64: 8 MB a temporary
_CACHED = 1 << 16  # in float32


@dataclass(frozen=True)
class Divergence:
    """The outcome.

    Attributes:
        base, quantised: perplexity of the original and of the quantised model.
        mean, error: KLD in nats, and its standard error, ``sqrt(variance / (n - 1))``.
        median, percentiles, largest: of KLD; percentiles by percent.
        same_top, same_top_error: from 0 to 1, and its binomial error, ``sqrt(p (1 - p) / (n - 1))``.
        rms_delta_p: root mean square of the change in the probability of the text's own token, from 0 to 1.
        outside: mean probability that the original gives to tokens which the other has not; None where both have the
            same. All else is of the original without them (`edgelm.evaluate.vocab_subset`).
    """

    base: Perplexity
    quantised: Perplexity
    mean: float
    error: float
    median: float
    percentiles: dict[float, float]
    largest: float
    same_top: float
    same_top_error: float
    rms_delta_p: float
    outside: float | None = None

    @property
    def tokens(self) -> int:
        """Scored tokens."""
        return self.quantised.tokens

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "tokens": self.tokens,
            "chunks": self.quantised.chunks,
            "chunk": self.quantised.chunk,
            "perplexity": {
                "base": {"value": self.base.value, "stderr": self.base.error},
                "quantised": {"value": self.quantised.value, "stderr": self.quantised.error},
                "ratio": self.quantised.value / self.base.value,
            },
            "kld": {
                "mean": self.mean,
                "stderr": self.error,
                "median": self.median,
                **{f"p{percent:g}": value for percent, value in self.percentiles.items()},
                "max": self.largest,
            },
            "same_top": {"value": self.same_top, "stderr": self.same_top_error},
            "rms_delta_p": self.rms_delta_p,
            **({} if self.outside is None else {"outside_vocabulary": self.outside}),
        }


def divergence(
    base: Scores,
    quantised: Scores,
    ids: Sequence[int] | np.ndarray,
    *,
    bos: int | None = None,
    chunk: int | None = None,
    chunks: int | None = None,
    on_chunk: OnChunk = lambda done, total: None,
) -> Divergence:
    """Compare two models of one vocabulary on a tokenised text.

    Args:
        base, quantised: engines; both are left empty.
        ids, bos, chunk, chunks, on_chunk: see `perplexity`; None for `chunk` heeds the shorter context.

    Raises:
        OptionError: `chunk` or `chunks` is out of range.
        EdgeLMError: the vocabularies differ in size, the text is shorter than a chunk, or logits are not finite.
    """
    tokens, size, count = chunked(shared_context(base, quantised), ids, chunk, chunks)
    pieces = positions_of(base, quantised, tokens, size, range(count), bos=bos, on_chunk=on_chunk)
    return summarised(pieces, count, size)


def shared_context(base: Scores, quantised: Scores) -> int:
    """The shorter context of two models, in tokens.

    Raises:
        EdgeLMError: the vocabularies differ in size.
    """
    if base.vocab_size != quantised.vocab_size:
        raise EdgeLMError(
            f"the models have vocabularies of {base.vocab_size:,} and {quantised.vocab_size:,} tokens: "
            "they cannot be compared token by token",
            hint="compare a bundle with the model it was made from",
        )
    return min(base.context, quantised.context)


@dataclass(frozen=True)
class Positions:
    """What is kept of some positions, each [n]."""

    base_losses: np.ndarray
    losses: np.ndarray
    kld: np.ndarray
    same_top: np.ndarray


def positions_of(
    base: Scores,
    quantised: Scores,
    tokens: np.ndarray,
    size: int,
    which: range,
    *,
    bos: int | None = None,
    on_chunk: OnChunk = lambda done, total: None,
) -> list[Positions]:
    """Compare two models on some chunks; no chunk depends on another one.

    Args:
        base, quantised: engines; both are left empty.
        tokens, size: as `chunked` gives them.
        which: the chunks, by their number.
        bos, on_chunk: see `perplexity`.
    """
    pieces: list[Positions] = []
    for done, index in enumerate(which):
        on_chunk(done, len(which))
        part = tokens[index * size : (index + 1) * size]
        both = zip(scored(base, part, bos), scored(quantised, part, bos), strict=True)
        pieces += [_positions(original, rounded, targets) for (original, targets), (rounded, _) in both]
    base.reset()
    quantised.reset()
    return pieces


def _positions(base: np.ndarray, quantised: np.ndarray, targets: np.ndarray) -> Positions:
    losses = [negative_log_likelihood(logits, targets) for logits in (base, quantised)]
    step = max(1, _VALUES // base.shape[1])
    starts = range(0, len(base), step)
    kld = np.concatenate([kl_divergence(base[i : i + step], quantised[i : i + step]) for i in starts])
    return Positions(losses[0], losses[1], kld, base.argmax(axis=1) == quantised.argmax(axis=1))


def kl_divergence(base: np.ndarray, other: np.ndarray) -> np.ndarray:
    """``Σ P (log P - log Q)`` of each row, float64 [n], of the softmaxes P and Q of two logits [n, vocabulary]."""
    log_p, log_q = log_softmax(base), log_softmax(other)
    # Rounding can take a divergence of nothing a hair below zero.
    found: np.ndarray = np.maximum(np.einsum("nv,nv->n", np.exp(log_p), log_p - log_q), 0.0)
    return found


class Reference:
    """Logits [n, vocabulary] that many others are compared with, in single precision: to a millionth of a nat, and several
    times as fast as `kl_divergence`.
    """

    def __init__(self, logits: np.ndarray) -> None:
        self._step = max(1, _CACHED // logits.shape[1])
        self._shifted = logits - logits.max(axis=1, keepdims=True)
        self._shares = np.exp(self._shifted)
        sums = self._shares.sum(axis=1, keepdims=True)
        self._shares /= sums
        self._logs = np.log(sums[:, 0].astype(np.float64))

    def mean_divergence(self, other: np.ndarray) -> float:
        """Mean KL divergence of other logits from these, in nats."""
        found = 0.0
        room = np.empty((2, self._step, other.shape[1]), np.float32)  # fresh memory costs as much as its use
        for start in range(0, len(other), self._step):
            part = slice(start, min(start + self._step, len(other)))
            shifted, apart = room[:, : part.stop - part.start]
            np.subtract(other[part], other[part].max(axis=1, keepdims=True), out=shifted)
            np.subtract(self._shifted[part], shifted, out=apart)
            expected = np.einsum("nv,nv->n", self._shares[part], apart)
            logs = np.log(np.exp(shifted, out=shifted).sum(axis=1).astype(np.float64))
            found += float(np.maximum(expected + logs - self._logs[part], 0.0).sum())
        return found / len(other)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """``log softmax`` of each row, float64."""
    shifted = logits - logits.max(axis=1, keepdims=True).astype(np.float64)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def summarised(pieces: Sequence[Positions], chunks: int, size: int) -> Divergence:
    """The outcome of all positions, in their order, of so many chunks of so many ids."""
    base_losses, losses, kld = (
        np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("base_losses", "losses", "kld")
    )
    same = float(np.concatenate([piece.same_top for piece in pieces]).mean())
    rest = max(1, kld.size - 1)
    return Divergence(
        base=summary(base_losses, chunks, size),
        quantised=summary(losses, chunks, size),
        mean=float(kld.mean()),
        error=math.sqrt(float(kld.var()) / rest),
        median=float(np.median(kld)),
        percentiles={percent: float(np.percentile(kld, percent)) for percent in PERCENTILES},
        largest=float(kld.max()),
        same_top=same,
        same_top_error=math.sqrt(same * (1 - same) / rest),
        rms_delta_p=float(np.sqrt(np.square(np.exp(-losses) - np.exp(-base_losses)).mean())),
    )

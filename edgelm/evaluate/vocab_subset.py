"""A model's scores over a part of its vocabulary: how a bundle with a trimmed one is compared with its original.

With K the tokens that were kept, the original's distribution becomes P(v) / Σ_K P for v in K: what it thought of the
others is shared out in proportion, which is what leaving their logits out does. How much that was is told beside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgelm.errors import EdgeLMError
from edgelm.evaluate.perplexity import Scores
from edgelm.runtime.text.tokenizer import Tokenizer


class KeptScores:
    """A model as if it had some of its tokens alone, which go by their places among them.

    Attributes:
        context: of the model.
        vocab_size: how many tokens are kept.
    """

    def __init__(self, engine: Scores, ids: np.ndarray) -> None:
        self.context, self.vocab_size = engine.context, len(ids)
        self._engine, self._ids = engine, ids
        self.sums: list[tuple[float, int]] = []  # of every pass: the probability left out, summed over its positions

    def forward(self, ids: Sequence[int] | np.ndarray, num_logits: int = 1) -> np.ndarray:
        """Append tokens and compute the kept tokens' logits, float32 [num_logits, vocab_size]."""
        whole = self._engine.forward(self._ids[np.asarray(ids, np.int64)], num_logits=num_logits)
        shifted = np.exp(whole - whole.max(axis=1, keepdims=True))
        kept: np.ndarray = whole[:, self._ids]
        shares = shifted[:, self._ids].sum(axis=1, dtype=np.float64) / shifted.sum(axis=1, dtype=np.float64)
        self.sums.append((float((1 - shares).sum()), len(whole)))
        return kept

    def reset(self) -> None:
        """Forget all tokens."""
        self._engine.reset()

    @property
    def outside(self) -> float:
        """Mean probability of the tokens that are left out, over all positions so far."""
        return outside(self.sums)


def outside(sums: Sequence[tuple[float, int]]) -> float:
    """The mean of (sum over positions, positions), which does not depend on their order."""
    rows = sum(count for _, count in sums)
    return max(0.0, math.fsum(total for total, _ in sums) / rows) if rows else 0.0


def ids_in(small: Tokenizer, full: Tokenizer, vocab: int) -> np.ndarray:
    """The ids that the tokens 0 … `vocab` - 1 of `small` have in `full`, int64 [vocab].

    Raises:
        EdgeLMError: `full` has not all of them.
    """
    names = [small.id_to_token(index) for index in range(vocab)]
    ids = [None if name is None else full.token_to_id(name) for name in names]
    missing = [name for name, index in zip(names, ids, strict=True) if index is None]
    if missing:
        raise EdgeLMError(
            f"the other model has no token {missing[0]!r}" + (f", and {len(missing) - 1} more" if missing[1:] else ""),
            hint="compare a bundle with the model it was made from",
        )
    return np.array(ids, np.int64)

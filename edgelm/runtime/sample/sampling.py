"""How the next token is chosen: samplers as closures.

Order and meaning of the options are those of ``transformers.generation.logits_process``: repetition penalty, then
temperature, top-k, top-p, min-p. The vocabulary is sorted only where there is no way around it, so that a step costs
the same at 150,000 tokens as the head that made the logits costs many times over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from edgelm.errors import EdgeLMError
from edgelm.runtime.sample.config import GenerationConfig
from edgelm.runtime.sample.penalties import Floats as Floats
from edgelm.runtime.sample.penalties import make_adjustment

Ids = npt.NDArray[np.intp]
Sampler = Callable[[Floats, Sequence[int]], int]
"""``sampler(logits [V], history) -> id``; `history` is the prompt and every token generated so far."""

_FEW = 1024  # weights that are sorted as they are: a call costs more than that
_GROUP = 64  # scores of which the peak is looked at first


def make_sampler(config: GenerationConfig, prompt_tokens: int = 0) -> Sampler:
    """The sampler that `config` asks for; it serves one sequence, since it remembers random state and history.

    Logits may hold -inf for tokens that must not be chosen.

    Args:
        config: the options.
        prompt_tokens: how many tokens of the history are the prompt; frequency and presence penalty pass over them.

    Raises (when called):
        EdgeLMError: the logits hold NaN or +inf, or nothing but -inf.
    """
    adjust = make_adjustment(config, prompt_tokens)
    random = np.random.Generator(np.random.PCG64(config.seed))

    def greedy(logits: Floats, history: Sequence[int]) -> int:
        scores = adjust(logits, history)
        best = int(scores.argmax())  # NaN counts as the highest
        _expect_finite(float(scores[best]))
        return best

    def sample(logits: Floats, history: Sequence[int]) -> int:
        ids, weights = candidates(adjust(logits, history), config)
        return int(ids[_draw(weights, random.random())])

    return greedy if config.temperature == 0 else sample


def candidates(scores: Floats, config: GenerationConfig) -> tuple[Ids, Floats]:
    """The tokens that temperature, top-k, top-p and min-p leave, and the weight of each.

    Args:
        scores: logits after any penalty, [V].
        config: `temperature` must be above 0.

    Returns:
        ids [n] in ascending order and weights [n], relative to the most likely token's 1; their sum is not 1.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        # Temperature keeps the order, so top-k may come first and spares the rest of the vocabulary the exponential.
        ids = top_k(scores, config.top_k)
        high = scores[ids]
        peak = high.max()
        _expect_finite(float(peak))
        # The peak goes first: a tiny temperature then overflows to -inf, a weight of 0, and never to NaN.
        weights = np.exp((high - peak) / scores.dtype.type(max(config.temperature, 1e-30)))
    if config.top_p < 1:
        kept = _top_p(weights, config.top_p)
        ids, weights = ids[kept], weights[kept]
    if config.min_p > 0:
        kept = np.flatnonzero(weights >= config.min_p * weights.max())
        ids, weights = ids[kept], weights[kept]
    return ids, weights


def _expect_finite(peak: float) -> None:
    """EdgeLMError where the highest of the scores is none to choose by."""
    if math.isfinite(peak):
        return
    what = "NaN" if math.isnan(peak) else "no token that may be chosen" if peak < 0 else "infinite values"
    raise EdgeLMError(
        f"the model's logits hold {what}",
        hint="check the bundle with `edgelm verify BUNDLE`; a repetition_penalty near 0 also does it",
    )


def top_k(scores: Floats, k: int) -> Ids:
    """The ids of the `k` highest scores, ascending, and of those equal to the last of them; of all where k is 0.

    NaN counts as higher than all others.
    """
    if not 0 < k < scores.size:
        return np.arange(scores.size)
    ids = _near_the_top(scores, k)
    high = scores[ids]
    kept: Ids = ids[~(high < np.partition(high, high.size - k)[high.size - k])]  # with equals, as in transformers
    return kept


def _near_the_top(scores: Floats, k: int) -> Ids:
    """Ids, ascending, among which the `k` highest are: those of the groups with the highest peaks.

    The peaks are scores, so that k of these are as high as the k-th peak, or higher: groups below that have none of
    them. So the vocabulary is gone through once, which at a step's end, when it is in no cache, is all that counts.
    """
    groups = scores.size // _GROUP
    if groups <= k:
        return np.arange(scores.size)
    end = groups * _GROUP
    peaks = scores[:end].reshape(_GROUP, groups).max(axis=0)
    columns = (~(peaks < np.partition(peaks, groups - k)[groups - k])).nonzero()[0]
    inside = columns + np.arange(0, end, groups)[:, None]  # ascending, row by row
    return np.concatenate([inside.ravel(), np.arange(end, scores.size)])


def _top_p(weights: Floats, p: float) -> Ids:
    """Positions, ascending, of the fewest weights that sum to `p` of the total: a token stays while the sum of the
    likelier ones is below p.
    """
    if weights.size <= _FEW:  # as top-k leaves them
        order = (-weights).argsort(kind="stable")  # of equals, the lowest ids first
        sums = weights[order].cumsum(dtype=np.float64)
        return np.sort(order[: int(sums.searchsorted(p * sums[-1])) + 1])
    total = float(weights.sum(dtype=np.float64))
    # All weights below this one, and there are fewer than V of them, sum to less than the 1 - p that may go: the
    # rest hold the answer, and only they are sorted (by value, which is several times faster than sorting positions).
    ordered = np.sort(weights[weights >= (1 - p) * total / weights.size])[::-1]
    count = int(np.searchsorted(np.cumsum(ordered, dtype=np.float64), p * total)) + 1
    count = min(count, ordered.size)  # where rounding leaves the sum short
    least = ordered[count - 1]
    above = np.flatnonzero(weights > least)
    equal = np.flatnonzero(weights == least)[: count - above.size]  # of equals, the lowest ids
    return np.sort(np.concatenate([above, equal]))


def _draw(weights: Floats, uniform: float) -> int:
    """The position whose share of the summed weights holds `uniform`, in [0, 1); never one of weight 0."""
    sums = weights.cumsum(dtype=np.float64)
    total = float(sums[-1])
    target = min(uniform * total, math.nextafter(total, 0))  # the product can round up to the sum itself
    return int(sums.searchsorted(target, side="right"))

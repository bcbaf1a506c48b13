"""How the next token is chosen: the options, and samplers as closures.

Order and meaning of the options are those of ``transformers.generation.logits_process``: repetition penalty, then
temperature, top-k, top-p, min-p. The vocabulary is sorted only where there is no way around it, so that a step costs
the same at 150,000 tokens as the head that made the logits costs many times over.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt

from edgelm.errors import BundleError, EdgeLMError, OptionError
from edgelm.runtime.sample.penalties import Floats as Floats
from edgelm.runtime.sample.penalties import make_adjustment

Ids = npt.NDArray[np.intp]
Sampler = Callable[[Floats, Sequence[int]], int]
"""``sampler(logits [V], history) -> id``; `history` is the prompt and every token generated so far."""

_HF_TOP_K = 50  # what transformers takes where a sampling model's generation_config.json names no top_k
_FEW = 1024  # weights that are sorted as they are: a call costs more than that
_GROUP = 64  # scores of which the peak is looked at first
_HF_NAMES = {"max_new_tokens": "max_tokens", "stop_strings": "stop"} | {
    name: name for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
}


@dataclass(frozen=True)
class GenerationConfig:
    """The options of one generation.

    Attributes:
        max_tokens: tokens to generate at most, 1 or more.
        temperature: 0 takes the likeliest token every time (greedy), 1 samples the model's own distribution.
        top_k: sample from the k likeliest tokens; 0 switches it off.
        top_p: sample from the smallest set of tokens whose probabilities sum to p; 1 switches it off.
        min_p: drop tokens less likely than min_p times the likeliest one; 0 switches it off.
        repetition_penalty: above 1, tokens of the prompt and the text so far become less likely; 1 switches it off.
        frequency_penalty: subtracted from a token's logit for every time it was generated; 0 switches it off.
        presence_penalty: subtracted from a token's logit once it was generated; 0 switches it off.
        logit_bias: token id → what is added to its logit; -inf bans a token.
        seed: the same seed gives the same tokens on the same machine; None draws a fresh one.
        stop: strings that end the text; a single str is taken as one.

    Raises:
        OptionError: a value is of the wrong kind or outside its range.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checked = {
            "max_tokens": _integer("max_tokens", self.max_tokens, 1),
            "temperature": _number("temperature", self.temperature, "0 or more", lambda x: x >= 0),
            "top_k": _integer("top_k", self.top_k, 0),
            "top_p": _number("top_p", self.top_p, "above 0 and at most 1", lambda x: 0 < x <= 1),
            "min_p": _number("min_p", self.min_p, "between 0 and 1", lambda x: 0 <= x <= 1),
            "repetition_penalty": _number("repetition_penalty", self.repetition_penalty, "above 0", lambda x: x > 0),
            "frequency_penalty": _number("frequency_penalty", self.frequency_penalty, "of any size", lambda x: True),
            "presence_penalty": _number("presence_penalty", self.presence_penalty, "of any size", lambda x: True),
            "logit_bias": _biases(self.logit_bias),
            "seed": None if self.seed is None else _integer("seed", self.seed, 0),
            "stop": _strings("stop", self.stop),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def replace(self, **overrides: Any) -> GenerationConfig:
        """A copy with the given options changed; an option given as None stays as it is."""
        return replace(self, **{name: value for name, value in overrides.items() if value is not None})

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> GenerationConfig:
        """The options in the content of a ``generation_config.json``; keys edgelm has no use for are passed over.

        As in transformers, a model samples only where ``do_sample`` is true, and then with temperature 1 and top-k 50
        unless the file says otherwise. Without ``do_sample`` the temperature is 0; the file's top-k, top-p and min-p
        are kept for a caller who sets a temperature.

        Raises:
            BundleError: a key that is used holds a value outside its range.
        """
        hint = "correct the file in the checkpoint and export again"
        sample = config.get("do_sample")
        if not isinstance(sample, bool | None):
            raise BundleError(f"generation_config.json: do_sample must be true or false, not {sample!r}", hint=hint)
        options: dict[str, Any] = {"temperature": 1.0, "top_k": _HF_TOP_K} if sample else {}
        for key, option in _HF_NAMES.items():
            value = config.get(key)
            if value is None or (key == "temperature" and not sample):
                continue
            try:
                cls(**{option: value})
            except OptionError as error:
                raise BundleError(f"generation_config.json: {key}: {error}", hint=hint) from None
            options[option] = value
        return cls(**options)


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
        ids [n] in ascending order and weights [n], relative to the likeliest token's 1; their sum is not 1.
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
        hint="check the bundle with `edgelm verify`; a repetition_penalty near 0 also does it",
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


def _integer(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool | np.bool_) or not isinstance(value, Integral) or value < least:
        raise OptionError(f"{name} must be an integer, {least} or more, not {value!r}")
    return int(value)


def _number(name: str, value: Any, wanted: str, holds: Callable[[float], bool]) -> float:
    number = math.nan
    if isinstance(value, Real) and not isinstance(value, (bool, np.bool_)):  # type: ignore[unreachable]
        with contextlib.suppress(OverflowError):  # an int beyond all floats
            number = float(value)
    if not math.isfinite(number) or not holds(number):
        raise OptionError(f"{name} must be a number {wanted}, not {value!r}")
    return number


def _biases(value: Any) -> tuple[tuple[int, float], ...]:
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, Sequence) or not all(isinstance(pair, Sequence) and len(pair) == 2 for pair in pairs):
        raise OptionError(f"logit_bias must be a dict of token ids and numbers, not {value!r}")
    checked = {}
    for token, bias in pairs:
        name = f"logit_bias of token {token!r}"
        ban = isinstance(bias, float | np.floating) and bias == -math.inf
        checked[_integer("a token id in logit_bias", token, 0)] = (
            -math.inf if ban else _number(name, bias, "or -inf", lambda x: True)
        )
    return tuple(sorted(checked.items()))


def _strings(name: str, value: Any) -> tuple[str, ...]:
    strings = (value,) if isinstance(value, str) else value
    sound = isinstance(strings, Sequence) and not isinstance(strings, bytes | bytearray)
    if not sound or not all(isinstance(s, str) and s for s in strings):
        raise OptionError(f"{name} must be one or more strings, none of them empty, not {value!r}")
    return tuple(strings)

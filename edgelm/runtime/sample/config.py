"""What a generation may be told of how the next token is chosen, and when the text ends."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np

from edgelm.errors import BundleError, OptionError

_HF_TOP_K = 50  # what transformers takes where a sampling model's generation_config.json names no top_k
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

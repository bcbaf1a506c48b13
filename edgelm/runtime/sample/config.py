"""What a generation may be told of how the next token is chosen, and when the text ends."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any, TypedDict

import numpy as np

from edgelm.bundle.json_table import shown
from edgelm.errors import BundleError, OptionError, expect_type
from edgelm.runtime.sample.rules import Rules

_HF_TOP_K = 50  # what transformers takes where a sampling model's generation_config.json names no top_k
_HF_NAMES = {"max_new_tokens": "max_tokens", "stop_strings": "stop"} | {
    name: name for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
}

_OF_SAMPLING = ("temperature", "top_k", "top_p", "min_p")
# What changes a text in transformers and has nothing like it here: key → the value that changes nothing.
_UNKNOWN = {
    **dict.fromkeys(("typical_p", "encoder_repetition_penalty", "num_beams", "guidance_scale"), 1),
    **dict.fromkeys(("epsilon_cutoff", "eta_cutoff", "penalty_alpha", "encoder_no_repeat_ngram_size", "top_h"), 0),
    **dict.fromkeys(("exponential_decay_length_penalty", "dola_layers", "constraints", "force_words_ids")),
    **dict.fromkeys(("forced_decoder_ids", "watermarking_config", "max_time")),
}


class SamplingOptions(TypedDict, total=False):
    """The options of `GenerationConfig` as callers give them; one left out, or None, is the model's default."""

    max_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    logit_bias: Mapping[int, float] | None
    seed: int | None
    stop: str | Sequence[str] | None


@dataclass(frozen=True)
class GenerationConfig:
    """The options of one generation.

    Attributes:
        max_tokens: tokens to generate at most, 1 or more.
        temperature: 0 takes the most likely token every time (greedy), 1 samples the model's own distribution.
        top_k: sample from the k most likely tokens; 0 switches it off.
        top_p: sample from the smallest set of tokens whose probabilities sum to p; 1 switches it off.
        min_p: drop tokens less likely than min_p times the most likely one; 0 switches it off.
        repetition_penalty: above 1, tokens of the prompt and the text so far become less likely; 1 switches it off.
        frequency_penalty: subtracted from a token's logit for every time it was generated; 0 switches it off.
        presence_penalty: subtracted from a token's logit once it was generated; 0 switches it off.
        logit_bias: token id → what is added to its logit; -inf bans a token.
        seed: the same seed gives the same tokens on the same machine; None draws a fresh one.
        stop: strings that end the text, and are no part of it; a single str is taken as one. Names of special tokens
            count, too, in whole or in part, although they are not shown.
        rules: what the model's own settings forbid and force.

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
    rules: Rules = field(default_factory=Rules)

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
        """The options in the content of a ``generation_config.json``; keys edgelm has no use for are passed over, and so
        are values of a sampling that the model does not do, where they are outside their range.

        As in transformers, a model samples only where ``do_sample`` is true, and then with temperature 1 and top-k 50
        unless the file says otherwise. Without ``do_sample`` the temperature is 0; the file's top-k, top-p and min-p
        are kept for a caller who sets a temperature.

        Raises:
            BundleError: a key that is used holds a value outside its range.
        """
        expect_type("config", config, Mapping, "a dict, the content of a generation_config.json")
        config, _ = settled(config)
        sample = config.get("do_sample")
        options: dict[str, Any] = {"temperature": 1.0, "top_k": _HF_TOP_K} if sample else {}
        for key, option in _HF_NAMES.items():
            if key in config and (sample or key != "temperature"):
                options[option] = config[key]
        return cls(**options, rules=Rules.from_hf(config))


def settled(config: Mapping[str, Any], vocab: int | None = None) -> tuple[dict[str, Any], list[str]]:
    """The content of a ``generation_config.json`` without what means nothing, and remarks on what is passed over.

    Null is a key left out. Where the model samples, a top-k of 0 or less is off, and a top-p of 0 takes the most likely
    token; where it does not, values outside their range are left out.

    Args:
        config: the content.
        vocab: how many tokens the model has; None to leave that unchecked.

    Raises:
        BundleError: a key that is used holds a value outside its range.
    """
    found = {key: value for key, value in config.items() if value is not None}
    sample, remarks = found.get("do_sample"), []
    if not isinstance(sample, bool | None):
        raise _unsound(f"do_sample must be true or false, not {shown(sample)}")
    if sample and _is_number(found.get("top_k")) and found["top_k"] <= 0:
        found["top_k"] = 0
    if sample and _is_number(found.get("top_p")) and found["top_p"] == 0:
        del found["top_p"]
        found["top_k"] = 1
    for key, option in _HF_NAMES.items():
        try:
            GenerationConfig(**({option: found[key]} if key in found else {}))
        except OptionError as error:
            if sample or key not in _OF_SAMPLING or not _is_number(found[key]):
                raise _unsound(f"{key}: {error}") from None
            remarks.append(
                f"generation_config.json: {key} {found.pop(key)!r} is left out, as the model does not sample"
            )
    try:
        Rules.from_hf(found, vocab)
    except OptionError as error:
        raise _unsound(str(error)) from None
    unknown = [key for key, default in _UNKNOWN.items() if key in found and found[key] not in (default, 0, False, [])]
    remarks += [
        f"generation_config.json: {key} {found[key]!r} is passed over: edgelm has no such rule" for key in unknown
    ]
    return found, remarks


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _unsound(what: str) -> BundleError:
    return BundleError(f"generation_config.json: {what}", hint="correct the file in the checkpoint and export again")


def _integer(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool | np.bool_) or not isinstance(value, Integral) or value < least:
        raise OptionError(f"{name} must be an integer, {least} or more, not {shown(value)}")
    return int(value)


def _number(name: str, value: Any, wanted: str, holds: Callable[[float], bool]) -> float:
    number = math.nan
    if isinstance(value, Real) and not isinstance(value, (bool, np.bool_)):  # type: ignore[unreachable]
        with contextlib.suppress(OverflowError):  # an int beyond all floats
            number = float(value)
    if not math.isfinite(number) or not holds(number):
        raise OptionError(f"{name} must be a number {wanted}, not {shown(value)}")
    return number


def _biases(value: Any) -> tuple[tuple[int, float], ...]:
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, Sequence) or not all(isinstance(pair, Sequence) and len(pair) == 2 for pair in pairs):
        raise OptionError(f"logit_bias must be a dict of token ids and numbers, not {shown(value)}")
    checked = {}
    for token, bias in pairs:
        name = f"logit_bias of token {shown(token)}"
        ban = isinstance(bias, float | np.floating) and bias == -math.inf
        checked[_integer("a token id in logit_bias", token, 0)] = (
            -math.inf if ban else _number(name, bias, "or -inf", lambda x: True)
        )
    return tuple(sorted(checked.items()))


def _strings(name: str, value: Any) -> tuple[str, ...]:
    strings = (value,) if isinstance(value, str) else value
    sound = isinstance(strings, Sequence) and not isinstance(strings, bytes | bytearray)
    if not sound or not all(isinstance(s, str) and s for s in strings):
        raise OptionError(f"{name} must be one or more strings, none of them empty, not {shown(value)}")
    return tuple(strings)

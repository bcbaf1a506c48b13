"""What a generation_config.json forbids and forces, whatever the caller asks for: suppressed tokens, bad words, lengths.

Meaning and order are those of ``transformers.generation.logits_process``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgelm.bundle.json_table import shown
from edgelm.errors import OptionError

Floats = npt.NDArray[np.floating[Any]]
Words = tuple[tuple[tuple[int, ...], float], ...]


@dataclass(frozen=True)
class Rules:
    """What a model's own settings forbid and force.

    Attributes:
        suppressed: ids that never come.
        suppressed_first: ids that do not come as the first token of an answer, behind `forced_first`.
        biases: what is added to the logit of a sequence's last token where the others stand before it; -inf forbids.
        no_repeat_ngram: no sequence of so many tokens comes twice, prompt included; 0 for no such rule.
        min_length: tokens, prompt included, before which no end comes.
        min_new_tokens: tokens of an answer before which no end comes.
        forced_first: the token that follows a prompt of a single one, or None.
        forced_last: ids of which the first is the last token of an answer that is as long as may be; empty for none.
        eos: ids that end a text, where there is a rule on how early they may come.
    """

    suppressed: tuple[int, ...] = ()
    suppressed_first: tuple[int, ...] = ()
    biases: Words = ()
    no_repeat_ngram: int = 0
    min_length: int = 0
    min_new_tokens: int = 0
    forced_first: int | None = None
    forced_last: tuple[int, ...] = ()
    eos: tuple[int, ...] = ()

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], vocab: int | None = None) -> Rules:
        """The rules in the content of a ``generation_config.json``.

        `vocab` is how many tokens the model has, where that is to be checked; ids beyond them are passed over in lists of
        suppressed tokens, as in transformers.

        Raises:
            OptionError: a value is of the wrong kind, or names a token that there is not.
        """
        eos = _ids(config, "eos_token_id")
        words = [
            (words, -math.inf) for words in _words(config, "bad_words_ids", vocab) if words not in [(i,) for i in eos]
        ]
        first = _ids(config, "forced_bos_token_id", vocab)
        least = _count(config, "min_length"), _count(config, "min_new_tokens")
        return cls(
            suppressed=_ids(config, "suppress_tokens"),
            suppressed_first=_ids(config, "begin_suppress_tokens"),
            biases=(*_sequence_biases(config, vocab), *words),
            no_repeat_ngram=_count(config, "no_repeat_ngram_size"),
            min_length=least[0],
            min_new_tokens=least[1],
            forced_first=first[0] if first else None,
            forced_last=_ids(config, "forced_eos_token_id", vocab),
            eos=eos if any(least) else (),
        )

    def __bool__(self) -> bool:
        """Whether there is any rule."""
        return self != Rules()

    def bias(self, scores: Floats, history: Sequence[int]) -> None:
        """Add `biases` to the logits [V] of what follows `history`, in place; before any penalty."""
        done = len(history)
        for words, bias in self.biases:
            before = words[:-1]
            if (
                len(words) <= done + 1
                and words[-1] < scores.size
                and list(history[done - len(before) :]) == list(before)
            ):
                scores[words[-1]] += scores.dtype.type(bias)

    def apply(self, scores: Floats, history: Sequence[int], prompt_tokens: int, max_tokens: int) -> None:
        """Change the logits [V] of what follows `history`, in place, by all the others."""
        done, new = len(history), len(history) - prompt_tokens
        if self.no_repeat_ngram:
            _ban(scores, _would_repeat(history, self.no_repeat_ngram))
        if done < self.min_length or new < self.min_new_tokens:
            _ban(scores, self.eos)
        if done == 1 and self.forced_first is not None:
            _force(scores, (self.forced_first,))
        if new == max_tokens - 1 and self.forced_last:
            _force(scores, self.forced_last)
        _ban(scores, self.suppressed)
        if new == (1 if prompt_tokens == 1 and self.forced_first is not None else 0):  # the first that is not forced
            _ban(scores, self.suppressed_first)


def _ban(scores: Floats, ids: Sequence[int]) -> None:
    scores[[i for i in ids if 0 <= i < scores.size]] = -np.inf


def _force(scores: Floats, ids: Sequence[int]) -> None:
    scores[:] = -np.inf
    scores[[i for i in ids if i < scores.size]] = 0


def _would_repeat(history: Sequence[int], size: int) -> list[int]:
    """The tokens that would end a sequence of `size` which `history` holds already."""
    ids = np.asarray(history, np.int64)
    if len(ids) < size:
        return []
    windows = np.lib.stride_tricks.sliding_window_view(ids, size)
    last = ids[len(ids) - size + 1 :]
    return list(map(int, windows[(windows[:, :-1] == last).all(axis=1), -1]))


def _ids(config: Mapping[str, Any], key: str, vocab: int | None = None) -> tuple[int, ...]:
    """One id or a list of them; none where the key is missing or null."""
    value = config.get(key)
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(_is_id(i) for i in values):
        raise OptionError(f"{key} must be token ids, not {shown(value)}")
    _expect_known(key, values, vocab)
    return tuple(dict.fromkeys(values))


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _expect_known(key: str, ids: Sequence[int], vocab: int | None) -> None:
    if vocab is not None and (unknown := [i for i in ids if not 0 <= i < vocab]):
        raise OptionError(f"{key}: the model has no token {unknown[0]}, but {vocab:,} of them")


def _words(config: Mapping[str, Any], key: str, vocab: int | None) -> list[tuple[int, ...]]:
    """Sequences of ids."""
    value = config.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(w, list) and w and all(map(_is_id, w)) for w in value):
        raise OptionError(f"{key} must be a list of lists of token ids, not {shown(value)}")
    for words in value:
        _expect_known(key, words, vocab)
    return [tuple(words) for words in value]


def _sequence_biases(config: Mapping[str, Any], vocab: int | None) -> Words:
    value = config.get("sequence_bias")
    if value is None:
        return ()
    pairs: list[Any] = value if isinstance(value, list) else [None]
    sound = all(
        isinstance(pair, list)
        and len(pair) == 2
        and isinstance(pair[1], int | float)
        and not isinstance(pair[1], bool)
        and not math.isnan(pair[1])
        for pair in pairs
    )
    if not sound:
        raise OptionError(f"sequence_bias must be a list of pairs of token ids and a number, not {shown(value)}")
    words = _words({"sequence_bias": [pair[0] for pair in pairs]}, "sequence_bias", vocab)
    return tuple(zip(words, (float(pair[1]) for pair in pairs), strict=True))


def _count(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise OptionError(f"{key} must be a whole number, 0 or more, not {shown(value)}")
    return value

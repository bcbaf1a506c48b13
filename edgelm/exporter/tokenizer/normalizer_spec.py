"""SentencePiece's normalizer as steps of `tokenizers.normalizers`.

A tokenizer.model has its rules compiled: a double-array trie (https://github.com/s-yata/darts-clone) from what is replaced to
where in a blob its replacement begins (normalizer.cc: the longest rule at the leftmost place, whose result is not looked at
again). `tokenizers.normalizers.Precompiled` takes the compiled rules but applies them to one grapheme at a time, so that rules
of several letters are lost, and marks behind a letter with a rule. Here the rules are read, and told as a form of Unicode with
what differs from it.
"""

from __future__ import annotations

import re
import struct
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Regex, normalizers

from edgelm.exporter.tokenizer import combining

_SPACE = "▁"  # how a blank stands in the vocabulary; at the end SentencePiece drops it, too
_PLACEHOLDERS = 0xF0000  # the first of Unicode's planes for private use
_MOST_PATHS = (
    2_000_000  # letters of all rules that are read: the trie's branches share their ends, and may go in circles
)
_MOST = 1500  # steps; a text goes through all of them
Rules = dict[str, str]


@dataclass(frozen=True)
class NormalizerSpec:
    """What a tokenizer.model says of its normalizer; the defaults are those of SentencePiece's proto file.

    Attributes:
        name: of the rules; those of SentencePiece's own have known ones.
        rules: what is replaced, compiled; empty for nothing.
        prefix: whether a text begins as if a space stood before it.
        extra_spaces: whether spaces around a text, and beside another space, count.
        escaped: whether a space is ``▁`` in the vocabulary.
    """

    name: str = ""
    rules: bytes = b""
    prefix: bool = True
    extra_spaces: bool = False
    escaped: bool = True

    @classmethod
    def of(cls, fields: Mapping[int, int | bytes]) -> NormalizerSpec:
        """From the fields of the message, by number; ValueError where one is of the wrong kind."""
        name, rules = fields.get(1, b""), fields.get(2, b"")
        if isinstance(rules, int) or isinstance(name, int):
            raise ValueError("a number in place of the rules")
        flags = [fields.get(number, 1) for number in (3, 4, 5)]
        if not all(isinstance(flag, int) for flag in flags):
            raise ValueError("no flag")
        return cls(name.decode(), rules, bool(flags[0]), not flags[1], bool(flags[2]))


def steps(spec: NormalizerSpec, *, first: bool = True, last: bool = True) -> list[Any]:
    """Its normalizers in order; `first` and `last` tell whether spaces there are dropped where extra ones are.

    Raises:
        ValueError: the rules cannot be read, or not be told as steps.
    """
    rules = read_rules(spec.rules) if spec.rules else {}
    found = _of_rules(rules, built_in=spec.name in _BUILT_IN) if spec.rules else []
    if not spec.extra_spaces:
        if key := next((key for key, value in rules.items() if "  " in value), None):  # which stay, unlike a text's own
            raise ValueError(f"its normalizer's rule for {key!r} has extra spaces, where others are dropped")
        found.append(normalizers.Replace(Regex(" {2,}"), " "))
        ends = [end for end, dropped in ((r"\A +", first), (f"[ {_SPACE}]+\\z", last)) if dropped]
        if ends:
            found.append(normalizers.Replace(Regex("|".join(ends)), ""))
    return found


def read_rules(data: bytes) -> Rules:
    """The compiled rules as a table; ValueError where they are damaged."""
    try:
        (size,) = struct.unpack_from("<I", data)
        units = np.frombuffer(data, "<u4", size // 4, 4).astype(np.int64)
        texts = data[4 + size :]
        rules: Rules = {}
        places = np.flatnonzero((units & 0x80000000 == 0) & (units & 0xFF != 0))
        below: dict[int, list[int]] = {}  # node → places of its letters
        for node, place in zip((places ^ (units[places] & 0xFF)).tolist(), places.tolist(), strict=True):
            below.setdefault(node, []).append(place)
        table, stack = units.tolist(), [(b"", _offset(int(units[0])))]
        left = _MOST_PATHS
        while stack:
            prefix, node = stack.pop()
            for place in below.get(node, ()):
                unit, key = table[place], prefix + bytes([table[place] & 0xFF])
                child = place ^ _offset(unit)
                if unit >> 8 & 1:
                    start = table[child] & 0x7FFFFFFF
                    rules[key.decode()] = texts[start : texts.index(b"\0", start)].decode()
                stack.append((key, child))
                left -= 1
                if left < 0:
                    raise ValueError("there are too many")
    except (struct.error, IndexError, ValueError) as error:
        raise ValueError(f"its normalizer's rules cannot be read: {error}") from None
    return rules


def _offset(unit: int) -> int:
    return (unit >> 10) << ((unit & (1 << 9)) >> 6)


# Forms of Unicode that rules may be told by.
_FORMS: list[list[Any]] = [[], [normalizers.NFKC()], [normalizers.NFKC(), normalizers.Lowercase()]]
_BUILT_IN = ("nfkc", "nmt_nfkc", "nfkc_cf", "nmt_nfkc_cf")


def _form(steps: list[Any]) -> Callable[[str], str]:
    joined = normalizers.Sequence(steps)
    return lambda text: str(joined.normalize_str(text)) if steps else text


def _of_rules(rules: Rules, *, built_in: bool) -> list[Any]:
    """Replacements of what no form of Unicode does, then the form with the fewest of these.

    Of rules that are `built_in` those of several letters that no form knows belong to letters younger than the library's
    Unicode, and are left out.
    """
    choices = [(_differing(rules, _form(form)), form) for form in (_FORMS[1:] if built_in else _FORMS)]
    others, last = min(choices, key=lambda choice: len(choice[0]))
    if built_in:
        others = {key: value for key, value in others.items() if len(key) == 1}
    form = _form(last)
    _expect_apart(others)
    before: list[Any] = []
    unstable = {value for value in others.values() if form(value) != value or any(key in value for key in others)}
    standing = {value: chr(_PLACEHOLDERS + index) for index, value in enumerate(sorted(unstable))}
    letters: dict[str, list[str]] = {}
    for key in sorted(others, key=lambda key: (-len(key), key)):
        value = standing.get(others[key], others[key])
        if len(key) == 1:
            letters.setdefault(value, []).append(key)
        else:
            before.append(normalizers.Replace(key, value))
    for value, keys in sorted(letters.items()):
        before.append(normalizers.Replace(Regex(f"[{''.join(map(_escaped, keys))}]"), value))
    after = [normalizers.Replace(placeholder, value) for value, placeholder in standing.items()]
    if len(before) + len(after) > _MOST:
        raise ValueError(f"its normalizer has {len(before):,} rules that no form of Unicode tells")
    steps = [*before, *last, *after]
    return combining.apart(rules, steps) if last else steps


def _differing(rules: Rules, form: Callable[[str], str]) -> Rules:
    """What a form of Unicode does otherwise: rules, and letters that these leave as they are."""
    others = {key: value for key, value in rules.items() if form(key) != value}
    letters = map(chr, (*range(1, 0xD800), *range(0xE000, 0x30000)))
    return others | {c: c for c in letters if c not in rules and unicodedata.category(c) != "Cn" and form(c) != c}


def _expect_apart(rules: Rules) -> None:
    """ValueError where the end of one rule is the beginning of another, and it matters which of them comes first."""
    long = [key for key in rules if len(key) > 1]
    starts: dict[str, list[str]] = {}
    for key in long:
        for size in range(1, len(key)):
            starts.setdefault(key[:size], []).append(key)
    for key in long:
        for size in range(1, len(key)):
            for other in starts.get(key[-size:], ()):
                text = key[:-size] + other
                if len(other) > len(key) and not any(text[:n] in rules for n in range(len(key) + 1, len(text) + 1)):
                    raise ValueError(f"its normalizer's rules for {key!r} and {other!r} overlap")


def _escaped(letter: str) -> str:
    return f"\\x{{{ord(letter):X}}}" if not letter.isalnum() else re.escape(letter)

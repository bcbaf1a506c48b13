"""The characters of languages and scripts, for `--trim-vocab LANGS`; which languages there are stands in languages.toml.

A language is its letters, small and capital, and what all languages share: ASCII (for Latin languages with its letters,
for others without), and the punctuation, symbols and spaces of Latin-1, General Punctuation, currencies, arrows and
mathematical operators. Languages with Chinese characters have CJK's punctuation and the full-width forms besides.
A script is every character whose name in Unicode begins with the script's.
"""

from __future__ import annotations

import tomllib
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

EMOJI = "Zsye"  # ISO 15924 for emoji

_LATIN = "abcdefghijklmnopqrstuvwxyz"
# Punctuation, symbols and spaces of these blocks belong to all languages.
_SHARED = ((0x80, 0xBF), (0xD7, 0xD7), (0xF7, 0xF7), (0x2000, 0x206F), (0x20A0, 0x20CF), (0x2190, 0x22FF))
_CJK = ((0x3000, 0x303F), (0x30FB, 0x30FC), (0xFF00, 0xFFEF))
_LAST = 0x34000  # behind the scripts
_CJK_SCRIPTS = {"Hani", "Hira", "Kana", "Hang"}
_EMOJI = ((0x200D, 0x200D), (0x2300, 0x27BF), (0x2B00, 0x2BFF), (0xFE0E, 0xFE0F), (0x1F000, 0x1FAFF))


@dataclass(frozen=True)
class Language:
    """A language.

    Attributes:
        code: ISO 639, or ISO 15924 for a script.
        characters: all that its text is made of.
        sample: a sentence; "" for a script.
    """

    code: str
    characters: frozenset[str]
    sample: str = ""


def codes() -> list[str]:
    """Every code that `language` knows, languages first."""
    table = _table()
    return [*table["languages"], *table["scripts"], EMOJI]


def language(code: str) -> Language:
    """The language or script of a code, in capitals or not; KeyError where there is none."""
    table = _table()
    known = {name.lower(): name for name in codes()}
    name = known[code.lower()]
    if name in table["languages"]:
        entry = table["languages"][name]
        letters = entry.get("letters", "") + (_LATIN if entry.get("latin", True) else "")
        scripts = entry.get("scripts", [])
        return Language(name, frozenset({*_cases(letters), *shared(), *_of_scripts(scripts)}), entry["sample"])
    whole = _in_ranges(_EMOJI) if name == EMOJI else _of_scripts([name])
    return Language(name, frozenset({*whole, *shared()}))


@cache
def shared() -> frozenset[str]:
    """What all languages have: ASCII but for its letters, and common punctuation, symbols and spaces."""
    ascii = (chr(code) for code in range(0x80) if not chr(code).isalpha())
    return frozenset({*ascii, *(c for c in _in_ranges(_SHARED) if unicodedata.category(c)[0] not in "LM")})


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("languages.toml").read_text(encoding="utf-8"))


def _cases(letters: str) -> Iterator[str]:
    """Small and capital letters; not where a case takes several characters, as ß's capitals do."""
    yield from (form for letter in letters for form in (letter, letter.lower(), letter.upper()) if len(form) == 1)


def _of_scripts(scripts: Iterable[str]) -> Iterator[str]:
    names = list(scripts)
    for script in names:
        yield from _script(script)
    if _CJK_SCRIPTS & set(names):
        yield from _in_ranges(_CJK)


@cache
def _script(name: str) -> frozenset[str]:
    starts = tuple(_table()["scripts"][name])
    return frozenset(c for c in map(chr, range(_LAST)) if unicodedata.name(c, "").startswith(starts))


def _in_ranges(ranges: Iterable[tuple[int, int]]) -> Iterator[str]:
    """Every character of them that Unicode knows."""
    every = (chr(code) for first, last in ranges for code in range(first, last + 1))
    return (c for c in every if unicodedata.category(c) != "Cn")

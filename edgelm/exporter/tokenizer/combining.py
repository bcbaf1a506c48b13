"""Where a rule of SentencePiece ends, a combining mark that follows stays apart; a form of Unicode would compose across.

SentencePiece's rules have a letter with its marks as one key (the longest that fits counts), and what stands behind it is
looked at anew: of ``ﬁ`` and an acute it makes ``fi`` and an acute, where NFKC makes ``f`` and ``í``. So a separator is put
before every mark that is not part of a key, and taken away once the form of Unicode has done its work.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import Any

from tokenizers import Regex, normalizers

_SEPARATOR = "\U0010fffe"  # a noncharacter, which no text should hold; it composes with nothing
_END = ""  # of a key, in the trie
_HANGUL = (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))  # vowels and final consonants, which compose by arithmetic
_LETTERS = (*range(0xD800), *range(0xE000, 0x30000), *range(0xE0000, 0xE1000))
_Trie = dict[str, Any]


def apart(keys: Iterable[str], steps: list[Any]) -> list[Any]:
    """The `steps` of a normalizer such that letters are composed only within `keys`, the rules of several letters."""
    several = [key for key in keys if len(key) > 1]
    marks = _class(frozenset(_marks() | {letter for key in several for letter in key[1:]}))
    found = _expression(_trie(several))
    key = f"(?>{found}|(?m:.))" if found else "(?m:.)"
    # From a letter, or from where the last separator stands (\G): a key, or else a letter, before what is a mark (\K).
    before = f"(?:(?!{marks})|\\G)(?=(?m:.){marks}){key}\\K(?={marks})"
    return [
        normalizers.Replace(Regex(before), _SEPARATOR),
        *steps,
        normalizers.Replace(_SEPARATOR, ""),
    ]


@cache
def _marks() -> frozenset[str]:
    """What composes with a letter before it, or is put in order with other marks; also what decomposes into such."""
    second = set(map(chr, _HANGUL))
    for letter in map(chr, _LETTERS):
        parts = unicodedata.decomposition(letter).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            second.add(chr(int(parts[1], 16)))
    return frozenset(letter for letter in map(chr, _LETTERS) if _begins_with_one(letter, second))


def _begins_with_one(letter: str, second: set[str]) -> bool:
    first = unicodedata.normalize("NFKD", letter)[0] if unicodedata.decomposition(letter) else letter
    return first in second or unicodedata.combining(first) != 0


def _trie(keys: Iterable[str]) -> _Trie:
    root: _Trie = {}
    for key in keys:
        node = root
        for letter in key:
            node = node.setdefault(letter, {})
        node[_END] = {}
    return root


def _expression(node: _Trie) -> str:
    """Matches the longest of a trie's keys; letters that are followed by the same are one class."""
    followed: dict[str, list[str]] = {}
    for letter, child in node.items():
        if letter != _END:
            rest = "" if child.keys() == {_END} else _expression(child)
            followed.setdefault(rest, []).append(letter)
    if not followed:
        return ""
    each = (_class(frozenset(letters)) + rest for rest, letters in followed.items())
    return f"(?>{'|'.join(each)})" + ("?" if _END in node else "")


@cache
def _class(letters: frozenset[str]) -> str:
    """An expression for one of the letters."""
    codes = sorted(map(ord, letters))
    starts = [code for i, code in enumerate(codes) if i == 0 or codes[i - 1] != code - 1]
    ends = [code for i, code in enumerate(codes) if i + 1 == len(codes) or codes[i + 1] != code + 1]
    return (
        "["
        + "".join(f"\\x{{{s:X}}}" + (f"-\\x{{{e:X}}}" if e > s else "") for s, e in zip(starts, ends, strict=True))
        + "]"
    )

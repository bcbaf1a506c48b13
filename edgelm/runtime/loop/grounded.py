"""Answers whose names are grounded in what the user said: a place that nobody spoke of is not acted in.

A small model copies a name letter by letter and may go astray, or take one that it knows for one that it does not. Which
strings of one JSON key may come is known before: runs of the user's words, and the names of a list for which one of their
words was said. It is looked at as the answer's text grows, so nothing is compiled for a request.
"""

from __future__ import annotations

import json
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from edgelm.bundle.answer_grammar import Grounding
from edgelm.runtime.loop.structured import Grammar
from edgelm.runtime.sample.sampling import Floats
from edgelm.runtime.text.prompt import Prompt

if TYPE_CHECKING:
    import llguidance

_LONGEST = 5  # words of a name
_ARTICLES = frozenset(("the", "a", "an"))
_MOST = 10  # messages of the user that are looked through, the last ones
_FARTHEST = 1000  # characters of each, likewise
_FUZZY = 5  # letters of a word in which one slip is overlooked
_TAIL = 256  # bytes behind the key that are kept of an answer


class Pieces:
    """The bytes that each token of a vocabulary adds, and which tokens may matter to a string: whole vocabularies are too
    large to be looked through at every token.

    Args:
        prepared: gives the tokenizer as llguidance knows it; is called when a piece is first asked for.
        size: of the vocabulary.
    """

    def __init__(self, prepared: Callable[[], llguidance.LLTokenizer], size: int) -> None:
        self._tokenizer, self._size = prepared, size
        self.of = cache(lambda token: prepared().decode_bytes([token]))

    def split(self, text: bytes) -> list[int]:
        """Bytes as tokens, whatever the model's own tokenizer would make of them."""
        return self._tokenizer().tokenize_bytes(text)

    @cached_property
    def quoting(self) -> list[int]:
        """Tokens that may begin or end a string."""
        return [token for piece, tokens in self.tokens.items() if b'"' in piece for token in tokens]

    @cached_property
    def tokens(self) -> Mapping[bytes, Sequence[int]]:
        """The tokens of some bytes."""
        found: dict[bytes, list[int]] = {}
        for token in range(self._size):
            found.setdefault(self.of(token), []).append(token)
        return found


class GroundedGrammar(Grammar):
    """A grammar whose strings of one key are of `names`.

    Args:
        matcher, eos, hint: see `Grammar`.
        key: of the strings.
        names: the strings that may come; it is called when the first one begins. Where the grammar can write none of
            them, a string is free.
        pieces: of the model's vocabulary.
    """

    def __init__(
        self,
        matcher: Callable[[], llguidance.LLMatcher],
        eos: Collection[int],
        key: str,
        names: Callable[[], Collection[str]],
        pieces: Pieces,
        hint: str,
    ) -> None:
        super().__init__(matcher, eos, forces=False, tries=True, hint=hint)
        self._string = re.compile(rb'%b\s*:\s*"([^"]*"?)' % re.escape(json.dumps(key, ensure_ascii=False).encode()))
        self._pieces = pieces
        self._all = cache(lambda: sorted(json.dumps(name, ensure_ascii=False)[1:].encode() for name in names()))
        self._text = b""  # of the answer, behind the last string of the key that is closed, or free
        self._begun: bytes | None = None  # what is there of one that is open
        self._names: Sequence[bytes] = ()  # that one may be, each with its closing quote

    def mask(self, logits: Floats) -> Floats:
        """As `Grammar.mask`."""
        masked = super().mask(logits)
        quoting = [token for token in self._pieces.quoting if masked[token] > -np.inf]
        if self._begun is None:
            grounded = masked.copy()
            grounded[[token for token in quoting if not self._fits(token)]] = -np.inf
        else:
            fitting = [token for token in quoting if self._fits(token)]
            for name in self._names[bisect_left(self._names, self._begun) :]:
                if not name.startswith(self._begun):
                    break
                rest = name[len(self._begun) :]
                fitting += [t for end in range(len(rest)) for t in self._pieces.tokens.get(rest[: end + 1], ())]
            grounded = np.full_like(masked, -np.inf)
            grounded[fitting] = masked[fitting]
        return grounded if grounded.max() > -np.inf else masked

    def follow(self, token: int) -> list[int]:
        """As `Grammar.follow`."""
        came = super().follow(token)
        self._text += self._added(token)
        if not (found := list(self._string.finditer(self._text))):
            self._text = self._text[-_TAIL - len(self._string.pattern) :]
        elif found[-1][1].endswith(b'"') or not self._goes_on(found[-1][1]):
            self._text, self._begun = self._text[found[-1].end() :], None
        return came

    def allows(self, token: int) -> bool:
        """As `Grammar.allows`."""
        return super().allows(token) and self._fits(token)

    def possible(self, tokens: list[int]) -> list[int]:
        """As `Grammar.possible`."""
        tokens, text = super().possible(tokens), self._text
        for index, token in enumerate(tokens):
            text += self._added(token)
            if not self._grounded(text):
                return tokens[:index]
        return tokens

    def _goes_on(self, begun: bytes) -> bool:
        """Take up a string that is open; whether it is to be one of the names."""
        if self._begun is None:  # it has just begun
            split, matcher = self._pieces.split, self._matcher
            names = [(name, split(name[len(begun) :])) for name in self._all() if name.startswith(begun)]
            self._names = [name for name, tokens in names if matcher.validate_tokens(tokens) == len(tokens)]
        self._begun = begun
        return _is_begun(self._names, begun)

    def _added(self, token: int) -> bytes:
        return b"" if token in self._eos else self._pieces.of(token)

    def _fits(self, token: int) -> bool:
        added = self._added(token)
        return (self._begun is None and b'"' not in added) or self._grounded(self._text + added)

    def _grounded(self, text: bytes) -> bool:
        """Whether the strings of the key in a text are names, or begin one."""
        found = self._string.findall(text)
        names = self._all() if found and self._begun is None else self._names
        return not found or not names or all(_is_begun(names, each) for each in found)


def _is_begun(names: Sequence[bytes], begun: bytes) -> bool:
    """Whether one of the names, which are sorted, begins so."""
    place = bisect_left(names, begun)
    return place < len(names) and names[place].startswith(begun)


def heard(prompt: Prompt) -> list[str]:
    """What the user said of late, as far as it is looked through; ids say nothing."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    users = [m for m in messages if isinstance(m, Mapping) and m.get("role") == "user"]
    return [text[-_FARTHEST:] for message in users[-_MOST:] for text in _texts(message.get("content"))]


def said(grounding: Grounding, texts: Collection[str]) -> frozenset[str]:
    """The names that some texts speak of: runs of their words in small letters, of which the ends are not of
    `Grounding.not_first` and `not_last`, and `Grounding.values` for which one of the words stands there, one slip behind its
    first letter allowed.
    """
    runs = {run for text in texts for run in _runs(text)}
    plain: dict[int, set[str]] = {}
    for run in runs:
        plain.setdefault(len(letters := _letters(run)), set()).add(letters)
    named = {n for n, words in grounding.values.items() if any(_spoken(_letters(word), plain) for word in words)}
    first, last = _ARTICLES.union(grounding.not_first), frozenset(grounding.not_last)
    own = {run for run in runs if run.split(" ", 1)[0] not in first and run.rsplit(" ", 1)[-1] not in last}
    return frozenset(named | own)


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, Mapping) and isinstance(part.get("text"), str):
                yield part["text"]


def _runs(text: str) -> Iterator[str]:
    """Up to `_LONGEST` words that stand beside each other, with and without an ending as in "the studio's"."""
    text = unicodedata.normalize("NFC", text).replace("\u2019", "'").replace("\u2018", "'").lower()
    for part in "".join(c if _of_word(c) else "\n" for c in text).split("\n"):
        words = [word.strip("'-") if word.startswith("'") else word.lstrip("-") for word in part.split(" ")]
        words = [word for word in words if word]
        for start in range(len(words)):
            for end in range(start + 1, min(start + _LONGEST, len(words)) + 1):
                yield (run := " ".join(words[start:end]))
                if bare := run.removesuffix("'s").rstrip("'-"):
                    yield bare


def _of_word(character: str) -> bool:
    """Whether a name may go on with it: a letter or a mark upon one, a digit, what joins words, a blank."""
    return character in " _'-" or unicodedata.category(character)[0] in "LMN"


def _letters(text: str) -> str:
    """Without blanks and signs: "kid's room" is "kidsroom"."""
    return "".join(c for c in unicodedata.normalize("NFC", text).lower() if unicodedata.category(c)[0] in "LMN")


def _spoken(word: str, there: Mapping[int, Collection[str]]) -> bool:
    """Whether a word is there, perhaps as "the loft's", or with one slip."""
    if word in there.get(len(word), ()) or f"{word}s" in there.get(len(word) + 1, ()):
        return True
    near = range(len(word) - 1, len(word) + 2) if len(word) >= _FUZZY else ()
    return any(word[0] == other[0] and _one_slip(word, other) for size in near for other in there.get(size, ()))


def _one_slip(a: str, b: str) -> bool:
    """Whether a letter was missed, put in, taken for another, or changed places with its neighbour."""
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    a, b = a[start:], b[start:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])

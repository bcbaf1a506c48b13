"""Answers whose names are grounded in what the user said: a place that nobody spoke of is not acted in.

A small model copies a name letter by letter and may go astray, or take one that it knows for one that it does not. Which
strings of one JSON key may come is known before: runs of the user's words, and the names of a list for which one of their
words was said. It is looked at as the answer's text grows, so nothing is compiled for a request.
"""

from __future__ import annotations

import json
import re
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
_PARTS = re.compile(r"[^\w'\u2019 -]+")  # a name does not go on beyond such signs
_ARTICLES = frozenset(("the", "a", "an"))
_MOST = 20  # messages of the user that are looked through, the last ones
_FARTHEST = 4000  # letters of each, likewise
_FUZZY = 5  # letters of a word in which one slip is overlooked


class Pieces:
    """The bytes that each token of a vocabulary adds, and which tokens may matter to a string: whole vocabularies are too
    large to be looked through at every token.

    Args:
        piece: the bytes of one token.
        size: of the vocabulary.
    """

    def __init__(self, piece: Callable[[int], bytes], size: int) -> None:
        self.of, self._size = cache(piece), size

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
        names: the strings that may come; it is called when the first one begins. Where it has none all may.
        pieces: of the model's vocabulary.
    """

    def __init__(
        self,
        matcher: Callable[[], llguidance.LLMatcher],
        eos: Collection[int],
        key: str,
        names: Callable[[], frozenset[str]],
        pieces: Pieces,
        hint: str,
    ) -> None:
        super().__init__(matcher, eos, forces=False, tries=True, hint=hint)
        self._string = re.compile(rb'%b\s*:\s*"([^"]*"?)' % re.escape(json.dumps(key).encode()))
        self._pieces, self._eos_ids, self._text = pieces, frozenset(eos), b""
        self._begun: bytes | None = None  # of a string of the key
        self._beginnings = cache(lambda: _beginnings(names()))

    def mask(self, logits: Floats) -> Floats:
        """As `Grammar.mask`; where no name goes on so that the grammar allows it, names are free."""
        masked = super().mask(logits)
        quoting = [token for token in self._pieces.quoting if masked[token] > -np.inf]
        if self._begun is None or not self._beginnings():
            grounded = masked.copy()
            grounded[[token for token in quoting if not self._fits(token)]] = -np.inf
        else:
            fitting = [token for token in quoting if self._fits(token)]
            for name in self._beginnings():
                if name.startswith(self._begun):
                    fitting += self._pieces.tokens.get(name[len(self._begun) :], ())
            grounded = np.full_like(masked, -np.inf)
            grounded[fitting] = masked[fitting]
        return grounded if grounded.max() > -np.inf else masked

    def follow(self, token: int) -> list[int]:
        """As `Grammar.follow`."""
        self._text += self._added(token)
        found = self._string.findall(self._text)
        self._begun = found[-1] if found and not found[-1].endswith(b'"') else None
        return super().follow(token)

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

    def _added(self, token: int) -> bytes:
        return b"" if token in self._eos_ids else self._pieces.of(token)

    def _fits(self, token: int) -> bool:
        added = self._added(token)
        return (self._begun is None and b'"' not in added) or self._grounded(self._text + added)

    def _grounded(self, text: bytes) -> bool:
        """Whether the last string of the key in a text is, or begins, one of the names."""
        found = self._string.findall(text)
        return not found or not (beginnings := self._beginnings()) or found[-1] in beginnings


def _beginnings(names: Collection[str]) -> frozenset[bytes]:
    """All that names in JSON, their closing quotes included, begin with."""
    written = [json.dumps(name, ensure_ascii=False)[1:].encode() for name in names]
    return frozenset(name[:end] for name in written for end in range(len(name) + 1))


def said(grounding: Grounding, prompt: Prompt) -> frozenset[str]:
    """The names that the user's messages speak of: runs of their words in small letters, and `Grounding.values` for which
    one of the words stands there, one slip of the finger allowed.
    """
    runs = {run for text in list(_messages(prompt))[-_MOST:] for run in _runs(text[-_FARTHEST:])}
    plain: dict[int, set[str]] = {}
    for run in runs:
        plain.setdefault(len(letters := _letters(run)), set()).add(letters)
    named = {n for n, words in grounding.values.items() if any(_spoken(_letters(word), plain) for word in words)}
    return frozenset(named | {run for run in runs if run.split(" ", 1)[0] not in _ARTICLES})


def _messages(prompt: Prompt) -> Iterator[str]:
    """What the user said; ids say nothing."""
    for message in [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt:
        if isinstance(message, Mapping) and message.get("role") == "user":
            yield from _texts(message.get("content"))


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, Mapping) and isinstance(part.get("text"), str):
                yield part["text"]


def _runs(text: str) -> Iterator[str]:
    """Up to `_LONGEST` words that stand beside each other."""
    for part in _PARTS.split(text.replace("\u2019", "'").lower()):
        words = part.split()
        for start in range(len(words)):
            for end in range(start + 1, min(start + _LONGEST, len(words)) + 1):
                yield " ".join(words[start:end])


def _letters(text: str) -> str:
    """Without blanks and signs: "kid's room" is "kidsroom"."""
    return re.sub(r"[\W_]+", "", text.lower())


def _spoken(word: str, there: Mapping[int, Collection[str]]) -> bool:
    """Whether a word is there, perhaps as "the loft's", or with one slip."""
    if word in there.get(len(word), ()) or f"{word}s" in there.get(len(word) + 1, ()):
        return True
    near = range(len(word) - 1, len(word) + 2) if len(word) >= _FUZZY else ()
    return any(_one_slip(word, other) for size in near for other in there.get(size, ()))


def _one_slip(a: str, b: str) -> bool:
    """Whether a letter was missed, put in, taken for another, or changed places with its neighbour."""
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    a, b = a[start:], b[start:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])

"""Text of messages stays text: a special token's name in it is no special token, so that nobody writes another's turn.

A chat template turns messages into one text, in which its own ``<|im_end|>`` and a user's look alike. So a mark is put
into every name of a special token that stands in a message (and beside what may become one together with its neighbour)
before the template sees it. What is left unmarked in the template's text is the template's own.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import tokenizers

# Unicode's noncharacters, which no text should hold (https://www.unicode.org/faq/private_use.html#noncharacters).
_MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]


class SpecialNames:
    """How names of special tokens are found in text, and what may be a part of one."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = [name for name in names if len(name) > 1]
        self.starts = {name[:i] for name in self.names for i in range(1, len(name))}
        self.ends = {name[i:] for name in self.names for i in range(1, len(name))}
        self.longest = max(map(len, self.names), default=0)
        first = "".join(sorted({re.escape(name[0]) for name in self.names}))
        each = "|".join(map(re.escape, self.names))
        self._found = re.compile(f"(?=[{first}])(?={each})") if self.names else None

    def places(self, text: str) -> Iterator[int]:
        """Where a name begins in `text`, also within another."""
        return (match.start() for match in self._found.finditer(text)) if self._found is not None else iter(())


def unused_mark(texts: Any) -> str:
    """A character that is in none of the strings of JSON data."""
    used = "".join(strings(texts))
    return next(mark for mark in chain(_MARKS, map(chr, range(0xF0000, 0xFFFFE))) if mark not in used)


class Marker:
    """Marks the names of special tokens in text.

    Args:
        names: which names.
        mark: what is put into them; see `unused_mark`.
    """

    def __init__(self, names: SpecialNames, mark: str) -> None:
        self._names, self.mark = names, mark

    def __call__(self, value: Any, key: str = "") -> Any:
        """JSON data with marks in its strings; keys of objects and roles are left as they are but for whole names in them."""
        if isinstance(value, str):
            return self._marked(value, edges=key not in ("role", "type"))
        if isinstance(value, Mapping):
            return {self._key(name): self(item, name) for name, item in value.items()}
        return [self(item, key) for item in value] if isinstance(value, list | tuple) else value

    def variables(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What a template is given beside messages: as a call, but a string that is a whole name, such as an EOS, stays one."""
        names = self._names.names
        return {
            key: value if isinstance(value, str) and value in names else self(value) for key, value in values.items()
        }

    def _key(self, name: Any) -> Any:
        return self._marked(name, edges=False) if isinstance(name, str) else name

    def _marked(self, text: str, *, edges: bool) -> str:
        places = {start + 1 for start in self._names.places(text)}
        if edges:
            places |= self._edges(text)
        parts, last = [], 0
        for place in sorted(places):
            parts += [text[last:place], self.mark]
            last = place
        return "".join([*parts, text[last:]])

    def _edges(self, text: str) -> set[int]:
        """The ends of a text where what comes beside it may complete a name, also once blanks are trimmed."""
        places = set()
        inner, tail = text.strip(), len(text.rstrip())  # what a template that trims leaves
        for edge, start in ((text, 0), (inner, len(text) - len(text.lstrip()))):
            if any(edge[:size] in self._names.ends for size in range(1, min(len(edge), self._names.longest) + 1)):
                places.add(start)
        for edge, end in ((text, len(text)), (inner, tail)):
            if any(edge[-size:] in self._names.starts for size in range(1, min(len(edge), self._names.longest) + 1)):
                places.add(end)
        return places


class PlainEncoder:
    """A tokenizer whose tokens of some names have others, so that their usual ones are text like any other.

    The model, which is what takes memory, is the tokenizer's own. Where that spells a special token from text, since the
    name stands in its vocabulary, a second one is built without.

    Args:
        tokenizer: the tokenizer.
        names: of its special tokens, and of others among those that were added.
        content: gives its tokenizer.json.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, names: Sequence[str], content: Callable[[], str]) -> None:
        secret = secrets.token_hex(16)  # a name that could be known could be written
        self._new = {name: f"[{secret}-{index:x}]" for index, name in enumerate(sorted(names))}
        self._found = re.compile("|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)))
        self._content = content
        self._inner, self._ids = _renamed(tokenizer, self._new)
        unknown = getattr(tokenizer.model, "unk_token", None)  # its id is what the model makes of anything
        self._special = {tokenizer.token_to_id(name) for name in names if name != unknown}
        if any(tokenizer.model.id_to_token(index) is not None for index in self._ids):
            self._build()

    def _build(self) -> None:
        self._inner, self._ids, self._special = _rebuilt(self._content(), self._new), {}, set()

    def encode(self, text: str, mark: str) -> list[int]:
        """The ids of a rendered text: names of special tokens are special but where there is a `mark` in them."""
        renamed = self._found.sub(lambda match: self._new[match[0]], text).replace(mark, "")
        found = self._inner.encode(renamed, add_special_tokens=False).ids
        if not self._special.isdisjoint(found):
            self._build()
            found = self._inner.encode(renamed, add_special_tokens=False).ids
        return [self._ids.get(index, index) for index in found]


def _renamed(tokenizer: tokenizers.Tokenizer, new: Mapping[str, str]) -> tuple[tokenizers.Tokenizer, dict[int, int]]:
    """A tokenizer of the same model, whose added tokens have `new` names; and the ids of its added tokens, by those there."""
    inner = tokenizers.Tokenizer(tokenizer.model)
    if tokenizer.normalizer is not None:
        inner.normalizer = tokenizer.normalizer
    if tokenizer.pre_tokenizer is not None:
        inner.pre_tokenizer = tokenizer.pre_tokenizer
    added = sorted(tokenizer.get_added_tokens_decoder().items())
    names = [new.get(token.content, token.content) for _, token in added]
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    inner.add_tokens(
        [
            tokenizers.AddedToken(name, **{flag: getattr(token, flag) for flag in flags})
            for name, (_, token) in zip(names, added, strict=True)
        ]
    )
    ids = {inner.token_to_id(name): index for name, (index, _) in zip(names, added, strict=True)}
    return inner, {other: index for other, index in ids.items() if other != index}


def _rebuilt(content: str, new: Mapping[str, str]) -> tokenizers.Tokenizer:
    """The tokenizer of a tokenizer.json with `new` names of added tokens, in the vocabulary as well."""
    table = json.loads(content)
    for token in table.get("added_tokens") or []:
        token["content"] = new.get(token["content"], token["content"])
    table["post_processor"] = None  # the template writes BOS itself
    model = table["model"]
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {new.get(name, name): index for name, index in vocab.items()}
    else:
        model["vocab"] = [[new.get(name, name), score] for name, score in vocab]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = new.get(model["unk_token"], model["unk_token"])
    if model.get("merges"):  # those that would make one of the names from text are gone
        pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [pair for pair in pairs if not {*pair, "".join(pair)} & new.keys()]
    return tokenizers.Tokenizer.from_str(json.dumps(table))


def strings(value: Any) -> Iterator[str]:
    """Every string in JSON data, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from strings(key)
            yield from strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)

"""Text of messages stays text: a special token's name in it is no special token, so that nobody writes another's turn.

A chat template turns messages into one text, in which its own ``<|im_end|>`` and a user's look alike. So a mark is put
into every name of a special token that stands in a message (and beside what may become one together with its neighbour)
before the template sees it. What is left unmarked in the template's text is the template's own.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


class Marker:
    """Marks the names of special tokens in text.

    Args:
        names: of the tokenizer's special tokens.
        texts: all that a template is given; the mark is a character that none of it holds.
    """

    def __init__(self, names: SpecialNames, texts: Any) -> None:
        self._names = names
        used = "".join(strings(texts))
        self.mark = next(mark for mark in (*_MARKS, *map(chr, range(0xF0000, 0xFFFFE))) if mark not in used)

    def __call__(self, value: Any, key: str = "") -> Any:
        """JSON data with marks in its strings; keys of objects are left as they are, and so are roles but for whole names."""
        if isinstance(value, str):
            return self._marked(value, edges=key not in ("role", "type"))
        if isinstance(value, Mapping):
            return {name: self(item, name) for name, item in value.items()}
        return [self(item, key) for item in value] if isinstance(value, list | tuple) else value

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
    """A tokenizer whose special tokens have other names, so that their usual ones are text like any other.

    Args:
        content: of the tokenizer.json.
        names: of the special tokens.
    """

    def __init__(self, content: str, names: Sequence[str]) -> None:
        table = json.loads(content)
        secret = secrets.token_hex(16)  # a name that could be known could be written
        self._new = {name: f"[{secret}-{index:x}]" for index, name in enumerate(sorted(names))}
        self._found = re.compile("|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)))
        for token in table.get("added_tokens") or []:
            token["content"] = self._new.get(token["content"], token["content"])
        table["post_processor"] = None  # the template writes BOS itself
        self._rename(table["model"])
        self._inner = tokenizers.Tokenizer.from_str(json.dumps(table))

    def _rename(self, model: dict[str, Any]) -> None:
        """The names in the vocabulary; merges that would make one of them from text are gone."""
        vocab = model["vocab"]
        if isinstance(vocab, dict):
            model["vocab"] = {self._new.get(name, name): index for name, index in vocab.items()}
        else:
            model["vocab"] = [[self._new.get(name, name), score] for name, score in vocab]
        if isinstance(model.get("unk_token"), str):
            model["unk_token"] = self._new.get(model["unk_token"], model["unk_token"])
        if model.get("merges"):
            pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
            model["merges"] = [pair for pair in pairs if not {*pair, "".join(pair)} & self._new.keys()]

    def encode(self, text: str, mark: str) -> list[int]:
        """The ids of a rendered text: names of special tokens are special but where there is a `mark` in them."""
        renamed = self._found.sub(lambda match: self._new[match[0]], text).replace(mark, "")
        ids: list[int] = self._inner.encode(renamed, add_special_tokens=False).ids
        return ids


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

"""A large tokenizer.json read in little memory: the library keeps a BPE model three times over while it parses it.

Gemma's 262,144 tokens and 514,000 merges take 350 MB meanwhile so, and 75 MB once they are read. Here the merges are
handed to the library one by one as they are parsed, which takes 190 MB at the most, and no longer. The tokenizer is the
same; a file of another form, and one with anything wrong, is left to the library, which knows what to say of it.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import tokenizers

LARGE = 1 << 20  # bytes of a file from which it pays
_WINDOW = 64 << 10  # bytes that are decoded at once
_LONGEST = 4 << 20  # characters of a value, all added tokens for one
_TRIES = 4  # ends of a batch
_MERGE = 8  # bytes of a merge in the file, at least about
_SUFFIXES = ("continuing_subword_prefix", "end_of_word_suffix")
_OPTIONS = frozenset(("dropout", "unk_token", "fuse_unk", "byte_fallback", "ignore_merges", *_SUFFIXES))
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_ADDED = frozenset(("id", "content", *_FLAGS))
_TEXT = re.compile(r"[^ \t\n\r]")


def read(data: bytes) -> tokenizers.Tokenizer | None:
    """The tokenizer in `data`, the content of a tokenizer.json; None where the library must read it."""
    try:
        return _Reading(data).tokenizer()
    except BaseException as error:  # a panic of the library's is no Exception
        if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":
            raise
        return None


class _Reading:
    """One reading of a file whose members are in the order in which the library writes them: vocabulary and merges last."""

    def __init__(self, data: bytes) -> None:
        self._json = _Json(data)
        self._merges_begin = 0

    def tokenizer(self) -> tokenizers.Tokenizer:
        parts: dict[str, Any] = {}
        for name in self._json.members():
            if name == "model":
                model = self._model()
                break
            parts[name] = self._json.value()
        else:
            raise ValueError("no model")
        self._json.expect("}")  # of the whole
        self._json.expect_end()
        added = [_added_token(token) for token in parts.pop("added_tokens")]
        # Its model is exchanged before tokens are added, for these take their ids from there.
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(parts | {"added_tokens": [], "model": _EMPTY}))
        tokenizer.model = model
        tokenizer.add_tokens(added)
        return tokenizer

    def _model(self) -> Any:
        options: dict[str, Any] = {}
        vocab: dict[str, int] | None = None
        for name in self._json.members():
            if name == "merges" and vocab is not None:
                break
            if name == "vocab":
                vocab = {}
                for batch in self._json.batches("{}"):
                    vocab.update(batch)
            else:
                options[name] = self._json.value()
        else:
            raise ValueError("no merges after the vocabulary")
        if options.pop("type") != "BPE" or not _OPTIONS.issuperset(options):
            raise ValueError("another model")
        given = {name: value for name, value in options.items() if value is not None}
        model = tokenizers.models.BPE(vocab, _Merges(self._json), **given)
        self._json.expect("}")
        return model


_EMPTY = {"type": "BPE", "vocab": {}, "merges": []}


class _Merges(Sequence[tuple[str, str]]):
    """Pairs as they are parsed, once; the library asks for a sequence and goes through it."""

    def __init__(self, source: _Json) -> None:
        self._source = source

    def __len__(self) -> int:
        """About, and not too few: what is reserved, and not used, takes no memory."""
        return self._source.left // _MERGE

    def __getitem__(self, index: Any) -> Any:
        raise IndexError(index)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        known: set[type] = set()
        for batch in self._source.batches("[]"):
            known.update(map(type, batch))
            if known == {list}:
                yield from map(tuple, batch)
            elif known == {str}:  # as files were written once
                yield from (_split(merge) for merge in batch)
            else:
                raise ValueError("merges of two kinds")


def _split(merge: str) -> tuple[str, str]:
    left, right = merge.split(" ")
    if left == "#version:":
        raise ValueError("a line that is no merge")
    return left, right


def _added_token(told: Any) -> tokenizers.AddedToken:
    flags = {name: told[name] for name in _FLAGS}
    if told.keys() != _ADDED or any(not isinstance(value, bool) for value in flags.values()):
        raise ValueError("another form of added tokens")
    return tokenizers.AddedToken(told["content"], **flags)


class _Json:
    """JSON parsed a value at a time, of which a window is decoded.

    All methods raise ValueError where the text is another.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._end = data, 0  # of the window, in bytes
        self._text, self._at = "", 0  # the window, and the place in it
        self._parse = json.JSONDecoder().raw_decode

    @property
    def left(self) -> int:
        """Bytes that were not decoded yet, and a window."""
        return len(self._data) - self._end + _WINDOW

    def value(self) -> Any:
        """The next value, whole."""
        self._skip()
        while True:
            try:
                value, end = self._parse(self._text, self._at)
            except ValueError:
                end = len(self._text)
            if end < len(self._text):  # at its end a number, or what failed, may go on
                self._at = end
                return value
            self._more()

    def members(self) -> Iterator[str]:
        """The names of the next value, an object; whoever takes one reads its value."""
        self.expect("{")
        if self._next() == "}":
            self._at += 1
            return
        while True:
            name = self.value()
            if not isinstance(name, str):
                raise ValueError("a name is no text")
            self.expect(":")
            yield name
            if self._next() == "}":
                self._at += 1
                return
            self.expect(",")

    def batches(self, brackets: str) -> Iterator[Any]:
        """The next value, an array or an object, in parts that are ones, too.

        Args:
            brackets: around it: "[]" or "{}".
        """
        opening, closing = brackets[0], brackets[1]
        self.expect(opening)
        if self._next() == closing:
            self._at += 1
            return
        single = -1  # where the window ended of which members are read one by one
        while True:
            batch = None if single == self._end else self._batch(opening, closing)
            if batch is None:
                single, value = self._end, self.value()
                batch = [value] if opening == "[" else {value: self._after_colon()}
            yield batch
            if self._next() == closing:
                self._at += 1
                return
            self.expect(",")

    def _batch(self, opening: str, closing: str) -> Any:
        """All members that are whole in the window, parsed at once; None where that cannot be told.

        What ends at a comma inside of a text, or goes beyond the closing bracket, is no JSON and tried shorter.
        """
        if len(self._text) - self._at < _WINDOW // 2 and self._end < len(self._data):
            self._more()
        end = len(self._text)
        for _ in range(_TRIES):
            end = self._text.rfind("]," if self._next() == "[" else ",", self._at, end)
            if end < 0:
                return None
            end += self._text[end] == "]"
            with contextlib.suppress(ValueError):
                batch = json.loads(f"{opening}{self._text[self._at : end]}{closing}")
                self._at = end
                return batch
        return None

    def _after_colon(self) -> Any:
        self.expect(":")
        return self.value()

    def expect(self, character: str) -> None:
        """Pass a character."""
        if self._next() != character:
            raise ValueError(f"no {character}")
        self._at += 1

    def expect_end(self) -> None:
        """Nothing but blanks is left."""
        if self._text[self._at :].strip() or self._data[self._end :].strip():
            raise ValueError("more after the end")

    def _next(self) -> str:
        self._skip()
        return self._text[self._at]

    def _skip(self) -> None:
        """Go to what is no blank."""
        while True:
            found = _TEXT.search(self._text, self._at)
            self._at = len(self._text) if found is None else found.start()
            if found is not None:
                return
            self._more()

    def _more(self) -> None:
        """A longer window from here on, twice as long where one value fills it."""
        begin, left = self._end, self._text[self._at :]
        if begin == len(self._data) or len(left) > _LONGEST:
            raise ValueError("the text ends, or a value does not")
        end = min(len(self._data), begin + max(_WINDOW, len(left)))
        while end < len(self._data) and self._data[end] & 0xC0 == 0x80:  # inside a character
            end += 1
        self._text, self._at, self._end = left + self._data[begin:end].decode(), 0, end

"""A tokenizer.json as a `tokenizers.Tokenizer`, none of whose figures are believed.

The library is written in Rust and trusts its files. What they can do, and what stands against it here:

    a panic (a regular expression that gives up, an id that is not there) is a BaseException: `guarded`
    an allocation that fails ends the process: the size of a table of characters is compared with what there is of it
    text that grows as it is normalised or decoded: `expect_bounded`, by what replaces what
    a token of a megabyte, for which a trie calls itself as often: `expect_short`, `expect_lengths`
    ids with holes between them, which are listed when the tokenizer is written: `expect_ids`
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tokenizers

from edgelm.errors import EdgeLMError
from edgelm.files import read_bytes
from edgelm.machine.heap import give_back
from edgelm.runtime.text import large_bpe

_LONGEST = 256 << 20  # bytes of a file; Gemma 3's has 33 MB
_MOST_IDS = 1 << 22
_BLOCK = 32 << 10  # bytes; a string of twice as many is found wherever it begins
_LONGEST_TOKEN = 32 << 10  # characters
_ADDED = 4 << 20  # characters of all added tokens; a table of 40 bytes for each finds them in a text
_GROWTH = 256  # times as long as before a text may become
_LONGEST_PIECE = 64  # characters, or tokens, that are put around or into a text at once
_ESCAPED = re.compile(rb"\\u00(?:[2-6]|7[0-9a-eA-E])")  # a plain character, which nobody writes so
_CHARSMAP = re.compile(rb'"precompiled_charsmap"\s*:\s*"([^"]{8})([^"]*)"')
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_CONTENT, _VALUE = b'"content"', re.compile(rb'\s*:\s*"(?:[^"\\]|\\.)*', re.DOTALL)
_RUNS = (20, 30, 45, 70, 100, 150, 220, 330, 500, 750, 1100, 1600)  # characters
_SLOW = 0.15  # seconds of processor time for such a run; sound expressions take a hundredth
_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_LISTS = ("normalizers", "pretokenizers", "processors", "decoders")


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Turns whatever the library raises, panics of its Rust code included, into a ValueError of one line."""
    try:
        yield
    except EdgeLMError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise ValueError(_line(error)) from None
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":
            raise
        raise ValueError(_line(error)) from None


def read(path: str | os.PathLike[str]) -> tokenizers.Tokenizer:
    """The tokenizer in a file, without the length limit and the padding that a training run may have left there.

    Raises:
        OSError: no regular file, or one that cannot be read.
        ValueError: no tokenizer, or one that could not be used safely; of one line.
    """
    data = read_bytes(path, _LONGEST)
    if b"\\u00" in data and _ESCAPED.search(data):  # names that hide are written plainly before they are looked for
        with guarded():
            data = json.dumps(json.loads(data), ensure_ascii=False).encode()
    for match in _CHARSMAP.finditer(data):
        _expect_charsmap(*match.groups())
    expect_short(data)
    with guarded():
        tokenizer = large_bpe.read(data) if (large := len(data) >= large_bpe.LARGE) else None
        if tokenizer is None:
            tokenizer = tokenizers.Tokenizer.from_buffer(data)
        tokenizer.no_truncation()
        tokenizer.no_padding()
    if large:
        del data
        give_back()  # what parsing took
    expect_bounded(tokenizer)
    return tokenizer


def expect_short(data: bytes) -> None:
    """ValueError where a string of a tokenizer.json is absurdly long, or added tokens are in sum; but for its characters' table.

    A long string has a block without the end of one, as have a table of characters and blanks: only then strings are looked
    for one by one. Only files that are large can have many.
    """
    starts = range(0, len(data) - _BLOCK, _BLOCK)
    if not all(_has_quote(data, start, start + _BLOCK) for start in starts):
        tables = [match.span() for match in _CHARSMAP.finditer(data)]
        for match in _STRING.finditer(data):
            first, last = match.span()
            if last - first > _BLOCK and not any(a <= first and last <= b for a, b in tables):
                raise ValueError(f"it has a string of more than {_BLOCK:,} bytes")
    if len(data) > _ADDED and sum(_contents(data)) > _ADDED:
        raise ValueError("its added tokens are absurdly long")


def _has_quote(data: bytes, start: int, end: int) -> bool:
    """Whether a quote stands there that a backslash does not make a letter."""
    at = data.find(b'"', start, end)
    while at > 0 and data[at - 1] == ord("\\"):
        at = data.find(b'"', at + 1, end)
    return at >= 0


def _contents(data: bytes) -> Iterator[int]:
    """The lengths of what stands behind each ``"content"``."""
    at = data.find(_CONTENT)
    while at >= 0:
        if match := _VALUE.match(data, at + len(_CONTENT)):
            yield len(match[0])
        at = data.find(_CONTENT, at + len(_CONTENT))


def expect_lengths(tokens: Iterable[str], added: Iterable[str] = ()) -> None:
    """ValueError where a token is absurdly long, or added ones are in sum."""
    if (longest := max(map(len, tokens), default=0)) > _LONGEST_TOKEN:
        raise ValueError(f"it has a token of {longest:,} characters")
    if sum(map(len, added)) > _ADDED:
        raise ValueError("its added tokens are absurdly long")


def expect_bounded(tokenizer: tokenizers.Tokenizer) -> None:
    """ValueError where text could grow without bound on its way in or out, or a part of the tokenizer is impossible."""
    with guarded():
        found = {name: getattr(tokenizer, name) for name in _PARTS}
        parts = {name: json.loads(part.__getstate__()) for name, part in found.items() if part is not None}
    for name, part in parts.items():
        growth = 1
        for piece in _flat(part):
            growth *= _growth(name, piece)
            if growth > _GROWTH:
                raise ValueError(f"its {name} lets a text grow without bound")


def expect_ids(tokenizer: tokenizers.Tokenizer) -> None:
    """ValueError where an id is absurdly high: a tokenizer that is written lists every hole below it."""
    with guarded():
        highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if highest >= _MOST_IDS:
        raise ValueError(f"it has a token with the id {highest:,}")


def probe(tokenizer: tokenizers.Tokenizer) -> None:
    """Encode and decode what is hard on a tokenizer: long runs of one character, those of its expressions first.

    Raises:
        ValueError: a text cannot be encoded or decoded.
    """
    with guarded():
        parts = [part for part in (tokenizer.normalizer, tokenizer.pre_tokenizer) if part is not None]
        found = [text for part in parts for text in _expressions(json.loads(part.__getstate__()))]
        # What an expression names; without one a run of any length takes the time of its length.
        named = dict.fromkeys([c for text in found for c in text if c.isalnum()] + (list("a1é ") if found else []))
    texts = [f"{c * 100}\n{c * 100}!" for c in dict.fromkeys([*named, *"aA1 \n!'▁éя中"])]
    with guarded(), _silent():
        for text in ["", *texts, "aA1 !\né中😀" * 50]:
            tokenizer.decode(tokenizer.encode(text).ids)
        # Every token once: some decoders panic at a certain one.
        tokenizer.decode(sorted(tokenizer.get_vocab(with_added_tokens=True).values()), skip_special_tokens=False)
        for c in named:
            _expect_steady(tokenizer, c, "!" + "".join(named))


def _expressions(value: Any) -> Iterator[str]:
    """Every regular expression in a part of a tokenizer."""
    if isinstance(value, dict) and isinstance(value.get("Regex"), str):
        yield value["Regex"]
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _expressions(inner)


def _expect_steady(tokenizer: tokenizers.Tokenizer, c: str, end: str) -> None:
    """ValueError where the time for a run of one character grows by far more than its length: a prompt would take minutes.

    A length is tried when a shorter one was quick, so that this takes little itself. At the `end` is what an
    expression may look for before it begins.
    """
    for length in _RUNS:
        started = time.process_time()
        for text in (c * length + end, f"{c} " * (length // 2) + end):
            tokenizer.encode(text)
        if time.process_time() - started > _SLOW:
            raise ValueError(f"its pre_tokenizer takes too long for {length:,} times {c!r}")


def _flat(part: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    inner = next((part[key] for key in _LISTS if isinstance(part.get(key), list)), None)
    if inner is None:
        yield part
        return
    for piece in inner:
        yield from _flat(piece)


def _growth(name: str, piece: Mapping[str, Any]) -> int:
    """How many times as long a piece of a tokenizer's `name` may make a text; ValueError where it is impossible."""
    kind = piece.get("type")
    if kind == "Replace":
        return _replaced(piece)
    if kind == "ByteLevel" and name != "decoder":
        return 2  # a letter of two bytes for bytes that are none of ASCII's
    if kind == "Precompiled":
        return _longest_rule(piece["precompiled_charsmap"])
    if kind == "Prepend" and len(piece["prepend"]) > _LONGEST_PIECE:
        raise ValueError(f"its {name} puts {len(piece['prepend']):,} characters before a text")
    if kind == "FixedLength" and piece["length"] < 1:
        raise ValueError(f"its {name} has a length of 0")
    if name == "decoder" and kind == "Strip" and max(piece["start"], piece["stop"]) > _LONGEST_PIECE:
        raise ValueError("its decoder strips more than a token has")
    if kind == "TemplateProcessing":
        _expect_template(piece)
    return 1


def _replaced(piece: Mapping[str, Any]) -> int:
    pattern, content = piece["pattern"], len(piece["content"])
    text = pattern.get("String")
    if text:
        return max(1, -(-content // len(text)))
    return 1 + content  # an expression, or the empty text, may stand before every character


def _longest_rule(table: str) -> int:
    """Characters of the longest text that a table of SentencePiece's puts in place of others."""
    data = base64.b64decode(table)
    texts = data[4 + int.from_bytes(data[:4], "little") :].split(b"\0")
    return max(1, *(len(text.decode(errors="ignore")) for text in texts))


def _expect_template(piece: Mapping[str, Any]) -> None:
    known = piece["special_tokens"]
    for name in ("single", "pair"):
        tokens = [part["SpecialToken"]["id"] for part in piece[name] if "SpecialToken" in part]
        if missing := [token for token in tokens if token not in known]:
            raise ValueError(f"its post_processor names {missing[0]!r}, which it does not describe")
        if len(piece[name]) + sum(len(known[token]["ids"]) for token in tokens) > _LONGEST_PIECE:
            raise ValueError("its post_processor puts more around a text than a text has")


def _expect_charsmap(head: bytes, rest: bytes) -> None:
    """ValueError where SentencePiece's table of characters, base64, is shorter than it says, or has no place to begin."""
    try:
        size = int.from_bytes(base64.b64decode(head)[:4], "little")
    except ValueError:
        raise ValueError("its table of characters is not base64") from None
    if not 4 <= size <= (len(head) + len(rest)) * 3 // 4:
        raise ValueError("its table of characters is not whole")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Nothing goes to standard error: Rust writes there when it panics, before Python knows of it."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__

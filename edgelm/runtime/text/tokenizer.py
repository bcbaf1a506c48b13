"""Text to ids and back: the tokenizer, and text that appears token by token."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

import tokenizers

from edgelm.errors import BundleError, PromptError
from edgelm.runtime.text import tokenizer_file
from edgelm.runtime.text.message_text import PlainEncoder


class Tokenizer:
    """A ``tokenizer.json``, used the way transformers uses it.

    Attributes:
        bos: id of the token that starts a text, or None.
    """

    def __init__(self, inner: tokenizers.Tokenizer, *, bos: int | None = None, add_bos: bool | None = None) -> None:
        # Settings of the training run that a tokenizer.json may carry: they would cut or pad a prompt in silence.
        inner.no_truncation()
        inner.no_padding()
        self._inner = inner
        self.bos = bos
        # The post-processor decides where it adds anything; only a file without one leaves it to the manifest.
        self._prefix = [bos] if add_bos and bos is not None and inner.num_special_tokens_to_add(False) == 0 else []

    @classmethod
    def open(cls, path: str | Path, *, bos: int | None = None, add_bos: bool | None = None) -> Tokenizer:
        """Read a ``tokenizer.json``.

        Raises:
            BundleError: the file is missing or no tokenizer.
        """
        try:
            inner = tokenizer_file.read(path)
        except FileNotFoundError:
            raise BundleError(f"{path} is missing", hint="export the model again") from None
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise BundleError(f"{path} cannot be read as a tokenizer: {error}", hint="export the model again") from None
        return cls(inner, bos=bos, add_bos=add_bos)

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included; a model's vocabulary may be larger (padded)."""
        return int(self._inner.get_vocab_size(with_added_tokens=True))

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of the tokens that steer and are no text (BOS, EOS, turn markers)."""
        return frozenset(i for i, token in self._inner.get_added_tokens_decoder().items() if token.special)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """The ids of `text`; `special` adds what the model expects around it, as a rule BOS in front.

        Names of special tokens inside `text` become those tokens, as in transformers.

        Raises:
            PromptError: `text` holds half of a surrogate pair, which no encoding can express, or the tokenizer fails.
        """
        _expect_unicode(text)
        try:
            with tokenizer_file.guarded():
                ids: list[int] = self._inner.encode(text, add_special_tokens=special).ids
        except ValueError as error:
            raise PromptError(f"the tokenizer cannot encode the text: {error}") from None
        return self._prefix + ids if special else ids

    def encode_marked(self, text: str, mark: str, encoder: Callable[[], PlainEncoder]) -> list[int]:
        """The ids of a rendered conversation, without any around it: a name that holds a `mark` is text.

        Args:
            text: the conversation.
            mark: what stands in such names.
            encoder: gives a `plain_encoder`, where there is such a name.

        Raises:
            PromptError: see `encode`.
        """
        if mark not in text:
            return self.encode(text, special=False)
        _expect_unicode(text)
        try:
            with tokenizer_file.guarded():
                return encoder().encode(text, mark)
        except ValueError as error:
            raise PromptError(f"the tokenizer cannot encode the text: {error}") from None

    @cached_property
    def special_names(self) -> tuple[str, ...]:
        """The tokens of `special_ids`."""
        return tuple(t.content for t in self._inner.get_added_tokens_decoder().values() if t.special)

    @cached_property
    def other_added(self) -> tuple[str, ...]:
        """The added tokens that are not special, such as ``<think>`` in many models."""
        return tuple(t.content for t in self._inner.get_added_tokens_decoder().values() if not t.special)

    def plain_encoder(self, names: Sequence[str]) -> PlainEncoder:
        """One to which added tokens of these `names` are text where they are marked."""
        return PlainEncoder(self._inner, names, self.to_json)

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of `ids`; bytes that are no valid UTF-8 become U+FFFD, ids without a token nothing.

        Raises:
            BundleError: the tokenizer's decoder fails.
        """
        try:
            with tokenizer_file.guarded():
                return str(self._inner.decode([int(i) for i in ids], skip_special_tokens=skip_special))
        except ValueError as error:
            raise BundleError(f"the tokenizer cannot decode: {error}", hint="export the model again") from None

    def to_json(self) -> str:
        """The content of a tokenizer.json; BundleError where that would be absurdly long."""
        try:
            tokenizer_file.expect_ids(self._inner)
        except ValueError as error:
            raise BundleError(f"the tokenizer cannot be used: {error}", hint="export the model again") from None
        return str(self._inner.to_str())

    def same_ids(self, other: Tokenizer) -> bool:
        """Whether both give every token the same id; how a text is cut into tokens may differ."""
        mine, others = (t._inner.get_vocab(with_added_tokens=True) for t in (self, other))
        return bool(mine == others)

    def token_to_id(self, token: str) -> int | None:
        """The id of a token given by its name in the vocabulary, or None."""
        found: int | None = self._inner.token_to_id(token)
        return found

    def id_to_token(self, token_id: int) -> str | None:
        """The name in the vocabulary of an id, or None."""
        found: str | None = self._inner.id_to_token(token_id)
        return found

    @cached_property
    def _decoders(self) -> list[dict[str, Any]] | None:
        """The steps of the decoder in order; None where there is none and tokens are joined by spaces."""
        if self._inner.decoder is None:
            return None
        return _flatten(json.loads(self._inner.decoder.__getstate__()))

    @cached_property
    def _anchor(self) -> tuple[int, str] | None:
        """A plain word of the vocabulary and its text: what is decoded after it is decoded as inside a text."""
        for token_id in range(self.vocab_size):
            name = self.id_to_token(token_id) or ""
            if token_id in self.special_ids or not name.removeprefix("▁").isalnum():
                continue
            text = self.decode([token_id])
            if text[:1].isalnum() and self.decode([token_id, token_id]).startswith(text):
                return token_id, text
        return None


def _expect_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"the text is not valid Unicode: a lone surrogate at position {error.start}",
            hint="decode the input as UTF-8 with errors='replace'",
        ) from None


def _flatten(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    if decoder["type"] != "Sequence":
        return [decoder]
    return [step for inner in decoder["decoders"] for step in _flatten(inner)]


class Detokenizer:
    """Text that appears token by token: ``push`` gives what is certain, ``flush`` the rest.

    The pieces joined are exactly ``tokenizer.decode`` of all ids. A character whose bytes are spread over several
    tokens comes out whole, and no U+FFFD is given out that a later token would have completed. Each token is decoded
    once: the cost is linear.

    ``tokenizers.decoders.DecodeStream`` was tried first and falls short (0.22): it raises "Invalid prefix encountered"
    on a byte-fallback run that turns out to be no UTF-8, and it has no way to give out what is left at the end.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._hidden = tokenizer.special_ids if skip_special else frozenset()
        self._stream = _stream(tokenizer)

    def push(self, token_id: int) -> str:
        """Take the next id and give the text that is now certain, often '' in the middle of a character."""
        token = self._tokenizer.id_to_token(token_id)
        return "" if token is None or token_id in self._hidden else self._stream.push(token_id, token)

    def flush(self) -> str:
        """End the text and give what was held back; the next ``push`` begins a new text."""
        rest = self._stream.flush()
        self._stream = _stream(self._tokenizer)
        return rest


class _Stream(Protocol):
    def push(self, token_id: int, token: str) -> str: ...

    def flush(self) -> str: ...


def _stream(tokenizer: Tokenizer) -> _Stream:
    steps = tokenizer._decoders
    kinds = [step["type"] for step in steps or []]
    if kinds[:1] == ["ByteLevel"] and all(kind == "Fuse" for kind in kinds[1:]):
        return _Bytes()
    if tokenizer._anchor is not None and _decodes_left_to_right(steps or []):
        return _Pieces(tokenizer, *tokenizer._anchor, hold_bytes="ByteFallback" in kinds)
    return _Whole(tokenizer)


def _decodes_left_to_right(steps: Sequence[dict[str, Any]]) -> bool:
    """Whether later tokens never change the text of earlier ones, byte-fallback runs aside."""
    kinds = [step["type"] for step in steps]
    fused = kinds.index("Fuse") if "Fuse" in kinds else len(kinds)
    by_token = all(kind in ("Replace", "Strip", "ByteFallback", "Metaspace", "WordPiece") for kind in kinds[:fused])
    # Once fused, a step sees the whole text: stripping its start is harmless, anything else may not be.
    return by_token and all(s["type"] == "Fuse" or (s["type"] == "Strip" and not s["stop"]) for s in steps[fused:])


class _Bytes:
    """Byte-level BPE: every token is a string of bytes, so an incremental UTF-8 decoder is all it takes."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int, token: str) -> str:
        table = byte_of_character()
        try:
            return self._decoder.decode(bytes([table[c] for c in token]))
        except KeyError:  # an added token, written as itself
            return self._decoder.decode(token.encode())

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


@cache
def byte_of_character() -> dict[str, int]:
    """GPT-2's table (``bytes_to_unicode``): printable bytes stand for themselves, others for U+0100 and up."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(others)}


class _Pieces:
    """SentencePiece-style and word-level decoders: a token's text depends on whether it comes first, and on the run of
    byte tokens it ends.

    Tokens are decoded behind an anchor word, which is then cut off: so a leading space survives. A run of byte tokens
    (``<0xE2>``) is held until it ends, for its last byte decides whether all of it is text or all of it U+FFFD.
    """

    def __init__(self, tokenizer: Tokenizer, anchor: int, anchor_text: str, *, hold_bytes: bool) -> None:
        self._tokenizer = tokenizer
        self._anchor, self._skip = anchor, len(anchor_text)
        self._hold_bytes = hold_bytes
        self._held: list[int] = []
        self._started = False

    def push(self, token_id: int, token: str) -> str:
        self._held.append(token_id)
        if self._hold_bytes and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return ""
        return self.flush()

    def flush(self) -> str:
        if self._started:
            text = self._tokenizer.decode([self._anchor, *self._held], skip_special=False)[self._skip :]
        else:
            text = self._tokenizer.decode(self._held, skip_special=False)
            self._started = bool(text)  # until some text is there, the decoder may still strip its start
        if self._started:
            self._held.clear()
        return text


class _Whole:
    """Decoders where any token may change the text before it (CTC, end-of-word suffixes): all text at the end."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []

    def push(self, token_id: int, token: str) -> str:
        self._ids.append(token_id)
        return ""

    def flush(self) -> str:
        return self._tokenizer.decode(self._ids, skip_special=False)

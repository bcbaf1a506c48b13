"""SentencePiece's tokenizer.model as a `tokenizers.Tokenizer`, converted as transformers does it.

The file is one protocol buffer of which five fields matter here, so its wire format is read directly
(https://protobuf.dev/programming-guides/encoding): the `sentencepiece` package gives the pieces but not the trainer's
settings, and would be one more compiled dependency.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from edgelm.errors import CheckpointError, UnsupportedModelError
from edgelm.exporter.tokenizer.normalizer_spec import NormalizerSpec, steps
from edgelm.exporter.tokenizer.tokenizer_class import Style
from edgelm.files import read_bytes
from edgelm.runtime.text import tokenizer_file

_SPACE = "▁"
_LONGEST = 256 << 20  # bytes of a file
_LONGEST_PIECE = 512  # characters
# sentencepiece_model.proto
UNIGRAM, BPE = 1, 2
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
_GEMMA_TURNS = ("<start_of_turn>", "<end_of_turn>")


class Piece(NamedTuple):
    """An entry of the vocabulary; `kind` is SentencePiece's type (normal, control, user defined, byte …)."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class SentencePiece:
    """What a tokenizer.model says.

    Attributes:
        pieces: by id.
        algorithm: 1 is Unigram, 2 is BPE.
        unk: text of the unknown piece.
        normalizer: what is done to a text first; None for nothing, and the caller's choice of a space in front.
        suffix: whether spaces belong to the word before them.
    """

    pieces: tuple[Piece, ...]
    algorithm: int
    unk: str
    normalizer: NormalizerSpec | None = None
    suffix: bool = False


def read(path: Path) -> SentencePiece:
    """Read a tokenizer.model.

    Raises:
        CheckpointError: it cannot be read, or is something else.
    """
    try:
        data = read_bytes(path, _LONGEST)
        pieces: list[Piece] = []
        algorithm, unk, normalizer, seen = UNIGRAM, "<unk>", NormalizerSpec(), set[int]()
        suffix = False
        for number, value in _fields(data):
            seen.add(number)
            if number == 1:
                pieces.append(_piece(_bytes(value)))
            elif number == 2:  # the trainer's settings
                settings = dict(_fields(_bytes(value)))
                algorithm = int(settings.get(3, UNIGRAM))
                unk = _bytes(settings.get(45, b"<unk>")).decode()
                suffix = bool(settings.get(24))
            elif number == 3:
                normalizer = NormalizerSpec.of(dict(_fields(_bytes(value))))
        if any(len(piece.text) > _LONGEST_PIECE for piece in pieces):  # every place to part it is looked at
            raise ValueError("a piece that is too long")
        if not {1, 2, 3} <= seen:  # pieces, the trainer's settings, the normalizer's: a file may be cut between them
            raise ValueError("not whole")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, struct.error):
        raise CheckpointError(
            f"{path} is not a SentencePiece model",
            hint="download it again; a tokenizer of another kind needs its tokenizer.json",
        ) from None
    return SentencePiece(tuple(pieces), algorithm, unk, normalizer, suffix)


def _piece(data: bytes) -> Piece:
    fields = dict(_fields(data))
    (score,) = struct.unpack("<f", _bytes(fields.get(2, bytes(4))))
    return Piece(_bytes(fields.get(1, b"")).decode(), score, int(fields.get(3, NORMAL)))


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):  # never `bytes(value)`: that would be so many zeros
        raise ValueError("a number where bytes belong")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a message; ValueError where it is none."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + size > len(data):
            raise ValueError("truncated")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("varint")


def convert(
    path: Path, style: Style, renamed: Mapping[int, str], *, prefix_space: bool | None = None, legacy: bool = True
) -> Tokenizer:
    """The tokenizer of a tokenizer.model, without BOS and EOS around a text.

    Args:
        path: the file.
        style: ``llama`` or ``gemma``, the conventions around the model itself.
        renamed: what the first ids are called where it is not what the file says.
        prefix_space: whether a text begins as if a space stood before it (not for Gemma); None as the file says.
        legacy: Llama's way before transformers 4.31: the same after every special token inside a text.

    Raises:
        CheckpointError: the file cannot be read.
        UnsupportedModelError: neither BPE nor Unigram, or a normalizer that cannot be told.
    """
    return build(read(path), style, renamed, path, prefix_space=prefix_space, legacy=legacy)


def build(
    source: SentencePiece,
    style: Style,
    renamed: Mapping[int, str],
    path: Path,
    *,
    prefix_space: bool | None = None,
    legacy: bool = True,
) -> Tokenizer:
    """`convert` of what was read already; `path` is named in errors."""
    if source.algorithm not in (BPE, UNIGRAM):
        raise UnsupportedModelError(
            f"{path}: a SentencePiece model of type {source.algorithm}; edgelm reads BPE and Unigram"
        )
    gemma = style == "gemma"
    if prefix_space is None:
        prefix_space = source.normalizer is None or source.normalizer.prefix
    first = _normalizers(source, path, legacy=legacy and not gemma, prefix=prefix_space and not gemma)
    try:
        with tokenizer_file.guarded():
            tokenizer = _tokenizer(source, renamed, gemma)
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be converted: {error}") from None
    if gemma:
        _gemma_spaces(tokenizer, first)
    else:
        _llama_spaces(tokenizer, first, prefix_space, legacy)
    return tokenizer


def _normalizers(source: SentencePiece, path: Path, *, legacy: bool, prefix: bool) -> list[Any]:
    """What is done to a text before its spaces are told.

    A normalizer sees the text between two added tokens. In the legacy way each such part begins with a space of its own. In
    the other a space at the beginning stays, as that is the one in front: `Metaspace` adds none where text was cut away. Where
    there are user-defined pieces, one at the end may stand before such a piece and counts.
    """
    spec = source.normalizer
    if source.suffix or (spec is not None and not spec.escaped):
        raise UnsupportedModelError(
            f"{path}: a SentencePiece model whose spaces are at the end of words, or plain ones"
        )
    if spec is None:
        return []
    try:
        alone = all(piece.kind != USER_DEFINED for piece in source.pieces)
        return steps(spec, first=legacy or (alone and not prefix), last=legacy or alone)
    except ValueError as error:
        raise UnsupportedModelError(
            f"{path}: {error}",
            hint="in a place with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
        ) from None


def _tokenizer(source: SentencePiece, renamed: Mapping[int, str], gemma: bool) -> Tokenizer:
    """The model itself, with its control and user-defined pieces as added tokens."""
    vocabulary = [(renamed.get(i, piece.text), piece.score) for i, piece in enumerate(source.pieces)]
    tokenizer_file.expect_lengths(
        (text for text, _ in vocabulary), (p.text for p in source.pieces if p.kind in (CONTROL, USER_DEFINED))
    )
    vocabulary[:3] = [(text, 0.0) for text, _ in vocabulary[:3]]
    known = {piece.text: i for i, piece in enumerate(source.pieces)}
    if gemma:
        _give_tab(vocabulary, known)
    if source.algorithm == BPE:
        model = models.BPE(
            {text: i for i, (text, _) in enumerate(vocabulary)},
            _merges(dict(vocabulary), known),
            unk_token=source.unk,
            fuse_unk=True,
            byte_fallback=True,
        )
    else:
        model = models.Unigram(vocabulary, unk_id=3 if gemma else 0, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.add_tokens(
        [
            AddedToken(p.text, normalized=False, special=p.kind == CONTROL or (gemma and p.text in _GEMMA_TURNS))
            for p in source.pieces
            if p.kind in (CONTROL, USER_DEFINED)
        ]
    )
    return tokenizer


def _give_tab(vocabulary: list[tuple[str, float]], known: dict[str, int]) -> None:
    """Gemma's first files have no piece for the tab but its byte."""
    byte = known.get("<0x09>")
    if byte is None:
        return
    known.setdefault("\t", byte)
    if not any(text == "\t" for text, _ in vocabulary):
        vocabulary[byte] = ("\t", 0.0)


def _merges(scores: Mapping[str, float], known: Mapping[str, int]) -> list[tuple[str, str]]:
    """The pairs whose join is a piece, best score first: what SentencePiece's BPE learned, which it does not store."""
    found = []
    for text, score in scores.items():
        pairs = [(text[:i], text[i:]) for i in range(1, len(text)) if text[:i] in known and text[i:] in known]
        pairs.sort(key=lambda pair: (known[pair[0]], known[pair[1]]))
        found += [(score, len(left), len(right), left, right) for left, right in pairs]
    found.sort(key=lambda merge: merge[:3], reverse=True)
    return [(left, right) for *_, left, right in found]


def _gemma_spaces(tokenizer: Tokenizer, first: list[Any]) -> None:
    spaces = normalizers.Replace(" ", _SPACE)
    tokenizer.normalizer = normalizers.Sequence([*first, spaces]) if first else spaces
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])


def _llama_spaces(tokenizer: Tokenizer, first: list[Any], prefix_space: bool, legacy: bool) -> None:
    if legacy:
        prefix = [normalizers.Prepend(_SPACE)] if prefix_space else []
        tokenizer.normalizer = normalizers.Sequence([*first, *prefix, normalizers.Replace(" ", _SPACE)])
    else:
        if first:
            tokenizer.normalizer = normalizers.Sequence(first)
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
            replacement=_SPACE, prepend_scheme="first" if prefix_space else "never", split=False
        )
    strip = [decoders.Strip(content=" ", left=1)] if prefix_space else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )

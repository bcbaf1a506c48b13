"""A tokenizer.json with fewer tokens: byte-level BPE, BPE with byte fallback (SentencePiece's way), and Unigram.

Why what is kept encodes as before. BPE joins neighbours by the first merge that is possible, and never parts them
again: how the characters of a token come together depends on them alone. So where a token stays with all that it is
joined from, in the order of merges there was, a text whose tokens all stay goes through the same steps: at each, the
merge taken is still there, and no other has come before it. Unigram takes the most likely split, and a split that stays
possible and was the most likely of all is the most likely of fewer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer

from edgelm.errors import UnsupportedModelError
from edgelm.runtime.text.tokenizer import byte_of_character

_SPACE = "▁"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_NUMBER = re.compile("[Ġ▁]?[0-9]+")
_CANNOT = "the vocabulary cannot be trimmed"


@dataclass(frozen=True)
class Subwords:
    """A tokenizer's tokens.

    Attributes:
        content: of its tokenizer.json.
    """

    content: Mapping[str, Any]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Subwords:
        """Of a tokenizer.

        Raises:
            UnsupportedModelError: its model is of a kind whose tokens do not stand for themselves.
        """
        content = json.loads(tokenizer.to_str())
        model = content["model"]
        if model["type"] not in ("BPE", "Unigram"):
            raise UnsupportedModelError(
                f"{_CANNOT}: its tokenizer is of type {model['type']}", hint="BPE and Unigram tokenizers can be trimmed"
            )
        if model.get("dropout"):
            raise UnsupportedModelError(f"{_CANNOT}: its tokenizer drops merges at random")
        if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
            raise UnsupportedModelError(f"{_CANNOT}: its tokenizer marks the parts of a word with a prefix or suffix")
        return cls(content)

    @property
    def _model(self) -> Mapping[str, Any]:
        model: Mapping[str, Any] = self.content["model"]
        return model

    @cached_property
    def pieces(self) -> dict[int, str]:
        """The model's tokens by id."""
        if self._model["type"] == "Unigram":
            return dict(enumerate(text for text, _ in self._model["vocab"]))
        return {index: text for text, index in self._model["vocab"].items()}

    @cached_property
    def added(self) -> dict[int, str]:
        """Added tokens, special ones among them, by id."""
        return {token["id"]: token["content"] for token in self.content["added_tokens"]}

    @property
    def tokens(self) -> dict[int, str]:
        """All by id."""
        return self.pieces | self.added

    @cached_property
    def byte_level(self) -> bool:
        """Whether a token's characters stand for bytes (GPT-2's way)."""
        return any("ByteLevel" in _types(self.content[part]) for part in ("normalizer", "pre_tokenizer"))

    @cached_property
    def required(self) -> frozenset[int]:
        """What stays whatever the domain: added tokens, single bytes, what encodes a character of no token, and numbers,
        of which no text has all.
        """
        ids = {*self.added, *(i for i, text in self.pieces.items() if self._is_basic(text))}
        model = self._model
        if model["type"] == "Unigram":
            scores = [score for _, score in model["vocab"]]
            ids.add(scores.index(min(scores)))  # unknown characters cost more than this one
            ids |= {model["unk_id"]} - {None}
        elif model.get("unk_token") in model["vocab"]:
            ids.add(model["vocab"][model["unk_token"]])
        return frozenset(ids)

    def _is_basic(self, text: str) -> bool:
        if _NUMBER.fullmatch(text):
            return True
        if self.byte_level or not self._model.get("byte_fallback"):
            return len(text) == 1  # of a byte; or of a character that could be told by nothing else
        return _BYTE.fullmatch(text) is not None or (len(text) == 1 and (text == _SPACE or text.isascii()))

    def made_of(self, characters: Set[str], normalize: Tokenizer) -> set[int]:
        """The tokens that a text of these characters can need, parts of a character's bytes among them.

        `normalize` is the tokenizer: what its normaliser makes of the characters counts, too.
        """
        known = set(characters)
        if "ByteLevel" not in _types(self.content["normalizer"]):
            known |= _normalized(characters, normalize)
        if not self.byte_level:
            return {index for index, text in self.pieces.items() if set(text) <= known}
        table, ends = byte_of_character(), _ends(known)
        return {
            index
            for index, text in self.pieces.items()
            if set(text) <= table.keys() and _fits(bytes(table[c] for c in text), known, ends)
        }

    def with_parts(self, ids: Iterable[int]) -> set[int]:
        """These ids, and those of all that their tokens are joined from."""
        kept = set(ids)
        if self._model["type"] != "BPE":
            return kept
        vocab, ranks = self._model["vocab"], self._ranks
        # The longest first: the parts of a part are among those of the whole.
        done: set[str] = set()
        for text in sorted((self.pieces[i] for i in kept if i in self.pieces), key=len, reverse=True):
            if text not in done:
                done |= _parts(text, ranks)
        return kept | {vocab[text] for text in done if text in vocab}

    @cached_property
    def _ranks(self) -> dict[tuple[str, str], int]:
        ranks: dict[tuple[str, str], int] = {}
        for rank, (left, right) in enumerate(self._model["merges"]):
            ranks[left, right] = rank  # of a pair given twice, the library heeds the last
        return ranks

    def cut(self, ids: Set[int]) -> tuple[Tokenizer, dict[int, int]]:
        """The tokenizer with these tokens alone, and new id by old: the same order, without gaps.

        Raises:
            UnsupportedModelError: ids are given out in a way that cannot be kept.
        """
        new = {old: index for index, old in enumerate(sorted(ids))}
        content = {
            **self.content,
            "model": self._cut_model(new),
            "added_tokens": [{**token, "id": new[token["id"]]} for token in self.content["added_tokens"]],
            "post_processor": _renumbered(self.content["post_processor"], new),
        }
        tokenizer = Tokenizer.from_str(json.dumps(content, ensure_ascii=False))
        tokens = self.tokens
        if wrong := next(
            (old for old in new if old in tokens and tokenizer.id_to_token(new[old]) != tokens[old]), None
        ):
            raise UnsupportedModelError(f"{_CANNOT}: token {tokens[wrong]!r} would not get the id {new[wrong]}")
        return tokenizer, new

    def _cut_model(self, new: Mapping[int, int]) -> dict[str, Any]:
        model = self._model
        if model["type"] == "Unigram":
            vocab = [entry for index, entry in enumerate(model["vocab"]) if index in new]
            return {**model, "vocab": vocab, "unk_id": new.get(model["unk_id"])}
        kept = {text: new[index] for text, index in model["vocab"].items() if index in new}
        merges = [[a, b] for a, b in model["merges"] if a in kept and b in kept and a + b in kept]
        return {**model, "vocab": dict(sorted(kept.items(), key=lambda item: item[1])), "merges": merges}


def _parts(text: str, ranks: Mapping[tuple[str, str], int]) -> set[str]:
    """What BPE joins on the way to a token, itself and its characters included; itself alone where it never gets there."""
    symbols, seen = list(text), {text, *text}
    while len(symbols) > 1:
        rank, at = min((ranks.get(pair, len(ranks)), i) for i, pair in enumerate(pairwise(symbols)))
        if rank == len(ranks):
            return {text}  # only as a whole word (`ignore_merges`), or never
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        seen.add(symbols[at])
    return seen


def _types(part: Any) -> set[str]:
    """The types of a normaliser or pre-tokenizer, and of those it is a sequence of."""
    if isinstance(part, list):
        return set().union(*map(_types, part))
    if not isinstance(part, dict):
        return set()
    inner = (_types(value) for value in part.values() if isinstance(value, list | dict))
    return {str(part.get("type")), *set().union(*inner)}


def _renumbered(processor: Any, new: Mapping[int, int]) -> Any:
    """A post-processor with the new ids of the tokens it adds."""
    if not isinstance(processor, dict):
        return processor
    match processor["type"]:
        case "Sequence":
            return {**processor, "processors": [_renumbered(inner, new) for inner in processor["processors"]]}
        case "TemplateProcessing":
            special = processor["special_tokens"].items()
            renumbered = {name: {**token, "ids": [new[i] for i in token["ids"]]} for name, token in special}
            return {**processor, "special_tokens": renumbered}
        case "BertProcessing" | "RobertaProcessing":
            ends = {end: [processor[end][0], new[processor[end][1]]] for end in ("sep", "cls")}
            return {**processor, **ends}
    return processor


def _normalized(characters: Set[str], tokenizer: Tokenizer) -> set[str]:
    """What the tokenizer makes of characters before it looks tokens up; SentencePiece's blank for the space."""
    found = {_SPACE} if " " in characters else set()
    if tokenizer.normalizer is not None:
        found |= {c for character in characters for c in tokenizer.normalizer.normalize_str(character)}
    return found


def _ends(characters: Iterable[str]) -> tuple[set[bytes], set[bytes], set[bytes]]:
    """(Beginnings, ends, middles) of the characters' UTF-8, none of them whole."""
    starts, ends, middles = set[bytes](), set[bytes](), set[bytes]()
    for code in (character.encode() for character in characters):
        size = len(code)
        starts |= {code[:i] for i in range(1, size)}
        ends |= {code[i:] for i in range(1, size)}
        middles |= {code[i:j] for i in range(1, size) for j in range(i + 1, size)}
    return starts, ends, middles


def _fits(token: bytes, characters: Set[str], ends: tuple[set[bytes], set[bytes], set[bytes]]) -> bool:
    """Whether a token's bytes can stand in a text of these characters: between a character's end and another's beginning."""
    start, end, middle = ends
    return token in middle or any(
        head + tail <= len(token)
        and (not head or token[:head] in end)
        and (not tail or token[-tail:] in start)
        and _spells(token[head : len(token) - tail], characters)
        for head, tail in _cuts(token)
    )


def _cuts(token: bytes) -> Iterator[tuple[int, int]]:
    """How many bytes may belong to a character begun before, and to one that goes on after."""
    head = next((i for i, byte in enumerate(token) if byte & 0xC0 != 0x80), len(token))
    lead = next((i for i in range(1, 5) if i <= len(token) and token[-i] & 0xC0 != 0x80), 0)
    yield head, 0
    if lead:
        yield head, lead


def _spells(text: bytes, characters: Set[str]) -> bool:
    try:
        return set(text.decode()) <= characters
    except UnicodeDecodeError:
        return False

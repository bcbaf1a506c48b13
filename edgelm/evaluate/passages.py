"""Texts to calibrate and measure on: a file, conversations, or the sample that comes with edgelm; and their ids.

A file is plain UTF-8, one text. One whose name ends in ``.jsonl`` holds a conversation a line, as tasks do:
``{"messages": [{"role": "user", "content": "…"}], "answer": "…"}``, the answer optional; conversations are told in the
model's chat template. ``builtin`` stands for edgelm's own sample, prose, code and chat of many kinds in English
(``sample.txt``, ``texts/en.txt``), of which one part is for calibration and another, never calibrated on, for measuring.
``builtin:de,ja`` adds what there is in other languages to the first part (``texts/*.txt``), and measures on those alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from edgelm.errors import EdgeLMError, OptionError, PromptError
from edgelm.files import read_bytes
from edgelm.json_text import json_value

BUILTIN = "builtin"

_SAMPLE = Path(__file__).with_name("sample.txt")
_TEXTS = Path(__file__).with_name("texts")
_ENGLISH = "en"
_HEAD = re.compile(r"^=== (calibration|evaluation) (text|chat|answer): .+\n", re.MULTILINE)
_TURN = re.compile(r"^(user|assistant): ", re.MULTILINE)

_FLUENT = 0.31  # tokens a byte, at most, of a language that a tokenizer was made for

Part = Literal["calibration", "evaluation"]
Messages = tuple[Mapping[str, Any], ...]


class Encodes(Protocol):
    """What is asked of a Tokenizer."""

    bos: int | None

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """The ids of a text."""


class Renders(Protocol):
    """What is asked of a ChatTemplate."""

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> str:
        """The text of a conversation."""


@dataclass(frozen=True)
class Passages:
    """A text in passages, each a str or a conversation.

    Attributes:
        name: ``builtin``, or the file's name without its folder.
        sha256: of its bytes.
        passages: in order.
        answers: conversations of a sentence or two, which only `by_kind` tells: a model's first words are calibrated on them.
    """

    name: str
    sha256: str
    passages: tuple[str | Messages, ...]
    answers: tuple[Messages, ...] = ()

    def encode(self, tokenizer: Encodes, template: Renders | None) -> list[int]:
        """The ids of all passages, one after another.

        Raises:
            PromptError: the template refuses a conversation.
        """
        texts = self.texts(template)
        return [token for text, special in texts for token in tokenizer.encode(text, special=special)]

    def by_kind(self) -> tuple[Passages, Passages]:
        """The conversations, short answers first, and the rest, each in its order."""
        told = tuple(p for p in self.passages if not isinstance(p, str))
        plain = tuple(p for p in self.passages if isinstance(p, str))
        return replace(self, passages=self.answers + told, answers=()), replace(self, passages=plain, answers=())

    def texts(self, template: Renders | None) -> Iterator[tuple[str, bool]]:
        """Each passage as (its text, whether what begins a text is yet to be added: a template writes it itself).

        Raises:
            PromptError: the template refuses a conversation.
        """
        for passage in self.passages:
            if isinstance(passage, str):
                yield passage, True
            else:
                yield self._told(passage, template)

    def _told(self, messages: Messages, template: Renders | None) -> tuple[str, bool]:
        if template is not None:
            try:
                return template.render(messages, add_generation_prompt=False), False
            except PromptError:
                if not is_builtin(self.name):  # a template may want what the sample does not have
                    raise
        return "\n\n".join(str(message["content"]) for message in messages) + "\n", True

    def facts(self) -> dict[str, str]:
        """For JSON."""
        return {"name": self.name, "sha256": self.sha256}


def load_passages(name: str | Path, part: Part) -> Passages:
    """The text called `name`: ``builtin``, also with languages, of which `part` is meant, or a file.

    Raises:
        EdgeLMError: the file cannot be read, is not UTF-8, holds no text, or a line of it is no conversation.
    """
    if is_builtin(name):
        return _builtin(str(name), part)
    path = Path(name)
    try:
        data = read_bytes(path)
    except OSError as error:
        hint = f"give a text file, or {BUILTIN}" if isinstance(error, FileNotFoundError) else None
        raise EdgeLMError(f"{path} cannot be read: {error.strerror}", hint=hint) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EdgeLMError(f"{path} is not valid UTF-8: byte {error.start}", hint="convert it: iconv -t utf-8") from None
    if not text.strip():
        raise EdgeLMError(f"{path} holds no text")
    passages = tuple(_conversations(path, text)) if path.suffix == ".jsonl" else (text,)
    return Passages(path.name, hashlib.sha256(data).hexdigest(), passages)


def is_builtin(name: str | Path) -> bool:
    """Whether edgelm's own sample is meant, in whatever languages."""
    return str(name) == BUILTIN or str(name).startswith(f"{BUILTIN}:")


def builtin_languages() -> tuple[str, ...]:
    """The codes of the languages that the sample has, English first."""
    return (_ENGLISH, *sorted(path.stem for path in _TEXTS.glob("*.txt") if path.stem != _ENGLISH))


def builtin_in(languages: Iterable[str]) -> str:
    """The name of the sample in English and these languages.

    Raises:
        OptionError: it has nothing in one of them.
    """
    there, wanted = builtin_languages(), list(dict.fromkeys(languages))
    if missing := [code for code in wanted if code not in there]:
        raise OptionError(
            f"edgelm's own sample has nothing in {missing[0]!r}",
            hint=f"it has {', '.join(there)}; for other languages give a text file",
        )
    others = [code for code in wanted if code != _ENGLISH]
    return f"{BUILTIN}:{','.join(others)}" if others else BUILTIN


def fluent_languages(encode: Callable[[str], Sequence[int]]) -> tuple[str, ...]:
    """The languages of the sample that a tokenizer, which `encode` asks, was made for: of these a token holds several
    bytes.

    English takes 0.22 to 0.25 tokens a byte in most vocabularies, other languages that were in their text 0.2 to 0.3,
    and those that were not 0.35 to 0.8.
    """
    found = []
    for code in builtin_languages():
        text = (_TEXTS / f"{code}.txt").read_text(encoding="utf-8")
        if len(encode(text)) <= _FLUENT * len(text.encode()):
            found.append(code)
    return tuple(found)


def starting_token(tokenizer: Encodes) -> int | None:
    """BOS, where the tokenizer puts one in front of a text; else None."""
    return tokenizer.bos if tokenizer.bos is not None and tokenizer.encode("")[:1] == [tokenizer.bos] else None


def spread_chunks(ids: Sequence[int], size: int, most: int, bos: int | None) -> list[np.ndarray]:
    """At most `most` ids as chunks of `size`, int64 [size] each, spread evenly over a text; BOS takes the first place.

    Raises:
        OptionError: the text is shorter than a chunk.
    """
    there = len(ids) // size
    if there == 0:
        raise OptionError(
            f"the text has {len(ids):,} tokens, calibration needs {size:,} or more",
            hint="take a longer text, or builtin",
        )
    count = min(there, max(1, most // size))
    tokens = np.asarray(ids, np.int64)[: there * size].reshape(there, size)
    chunks = [tokens[index * there // count].copy() for index in range(count)]
    for chunk in chunks if bos is not None else ():
        chunk[0] = bos
    return chunks


def mixed_chunks(told: Sequence[int], plain: Sequence[int], size: int, most: int, bos: int | None) -> list[np.ndarray]:
    """`spread_chunks` of conversations and of other text: of the former as many as there are, a third at most, and evenly
    among the others; where there is little else, more.

    Apps talk with a model, and the sample has more to read than to say: with its share of an eighth, the answers to
    questions lose more than the sentences of an encyclopedia.

    Raises:
        OptionError: all of the text is shorter than a chunk.
    """
    if min(len(told), len(plain)) < size or most < 3 * size:
        return spread_chunks([*told, *plain], size, most, bos)
    chats = spread_chunks(told, size, max(most // 3, most - len(plain) // size * size), bos)
    others = spread_chunks(plain, size, most - sum(map(len, chats)), bos)
    places = [(place + 0.5) / len(kind) for kind in (chats, others) for place in range(len(kind))]
    return [chunk for _, chunk in sorted(zip(places, [*chats, *others], strict=True), key=lambda pair: pair[0])]


def _builtin(name: str, part: Part) -> Passages:
    languages = [code for code in name.partition(":")[2].split(",") if code]
    builtin_in(languages)  # whether there are such
    other = [_TEXTS / f"{code}.txt" for code in languages if code != _ENGLISH]
    english = [_SAMPLE, _TEXTS / f"{_ENGLISH}.txt"] if part == "calibration" or not other else []
    text = "\n".join(path.read_text(encoding="utf-8") for path in (*english, *other))
    heads = list(_HEAD.finditer(text))
    ends = [*(head.start() for head in heads[1:]), len(text)]
    chosen = [
        (head[2], text[head.end() : end].strip() + "\n")
        for head, end in zip(heads, ends, strict=True)
        if head[1] == part
    ]
    digest = hashlib.sha256("".join(passage for _, passage in chosen).encode()).hexdigest()
    passages = (passage if kind == "text" else _turns(passage) for kind, passage in chosen if kind != "answer")
    answers = (_turns(passage) for kind, passage in chosen if kind == "answer")
    return Passages(name, digest, tuple(passages), tuple(answers))


def _turns(passage: str) -> Messages:
    """Alternating ``user: …`` and ``assistant: …`` as messages."""
    _, *parts = _TURN.split(passage)
    turns = zip(parts[::2], parts[1::2], strict=True)
    return tuple({"role": role, "content": content.strip()} for role, content in turns)


def _conversations(path: Path, text: str) -> Iterator[Messages]:
    from edgelm.runtime.text.chat import check_messages

    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json_value(line, constants=True)
            messages = check_messages(value["messages"])
            answer = value.get("answer")
        except (ValueError, KeyError, TypeError, AttributeError, PromptError) as error:
            raise EdgeLMError(
                f"{path}:{number}: no conversation: {error}",
                hint='a line is {"messages": [{"role": "user", "content": "…"}], "answer": "…"}',
            ) from None
        yield (*messages, {"role": "assistant", "content": str(answer)}) if answer is not None else tuple(messages)

"""The part of a vocabulary that a domain uses: chosen by texts and languages, cut out, checked and told.

A domain is texts, languages, or both; what any of them needs stays. So do all added and special tokens, every single
byte, what the chat template writes by itself, and every token that a kept one is joined from (`subword`).
"""

from __future__ import annotations

import ast
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from edgelm.bundle import origins
from edgelm.bundle.json_table import plain
from edgelm.bundle.manifest import SpecialTokens
from edgelm.bundle.origins import Coverage, TokensPerWord, Vocabulary
from edgelm.errors import OptionError, PromptError, UnsupportedModelError, near
from edgelm.evaluate.passages import BUILTIN, Passages, load_passages
from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.progress import Progress
from edgelm.exporter.tokenizer import languages
from edgelm.exporter.tokenizer.languages import Language
from edgelm.exporter.tokenizer.special_tokens import vocabulary_size
from edgelm.exporter.tokenizer.subword import Subwords
from edgelm.exporter.tokenizer.text_files import Text
from edgelm.runtime.text.chat import ChatTemplate

Wanted = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None

_PIECE = 1 << 16  # characters encoded at once, about
_FEW = 4096  # tokens of text that are worth a word
_IDS = ("_token_id", "_token_ids", "_token_index")  # how keys end whose values are ids
_CONVERSATIONS = (("user",), ("system", "user"), ("user", "assistant", "user"))


@dataclass(frozen=True)
class Domain:
    """What the vocabulary is kept for.

    Attributes:
        texts: files, read.
        languages: and scripts.
    """

    texts: tuple[Passages, ...]
    languages: tuple[Language, ...]

    @classmethod
    def of(cls, wanted: Wanted) -> Domain | None:
        """From the option: files, folders, ``builtin``, codes of languages such as ``en,de``; None without any.

        Raises:
            OptionError: neither a file nor languages.
            EdgeLMError: a file cannot be read, is not UTF-8, or holds no text.
        """
        names = [wanted] if isinstance(wanted, str | os.PathLike) else list(wanted or ())
        texts: list[Passages] = []
        spoken: dict[str, Language] = {}
        for name in (os.fspath(name) for name in names):
            if (found := _languages(name)) is not None:
                spoken |= {language.code: language for language in found}
            else:
                texts += _texts(name)
        return cls(tuple(texts), tuple(spoken.values())) if names else None


@dataclass(frozen=True)
class Trim:
    """A vocabulary cut to a domain.

    Attributes:
        text: tokenizer, settings and special tokens by new ids.
        rows: the old ids whose embeddings stay, int64, ascending: the new id is the place here.
        vocab: how many embeddings there were.
        facts: for the manifest, but for the bytes that it saves.
    """

    text: Text
    rows: np.ndarray
    vocab: int
    facts: Vocabulary


def trim(text: Text, config: Config, domain: Domain, progress: Progress) -> Trim:
    """Cut a checkpoint's vocabulary to a domain.

    Args:
        text: the checkpoint's.
        config: its config.json.
        domain: what to keep the vocabulary for.
        progress: is called with every piece of text.

    Raises:
        UnsupportedModelError: the tokenizer is of a kind that cannot be cut, or would encode the text in another way.
        PromptError: the chat template refuses a conversation of the domain.
    """
    vocab = vocabulary_size(config)
    if vocab is None:
        raise UnsupportedModelError(f"{config.path}: key 'vocab_size' is missing, so the vocabulary cannot be trimmed")
    words = Subwords.of(text.tokenizer)
    template = None if text.template is None else ChatTemplate(text.template, text.names)
    pieces = list(_pieces(domain, template))
    progress.start("reading the domain", 2 * sum(map(len, pieces)))
    encoded = [_encode(text.tokenizer, piece, progress) for piece in pieces]
    counts = np.bincount(np.concatenate([np.empty(0, np.int64), *encoded]))
    named = {index for index in _ids_of_the_model(text, config) if index < max(vocab, *words.tokens)}
    kept = {*words.required, *named, *map(int, np.flatnonzero(counts))}
    if template is not None:
        kept |= _ids_of_chats(text.tokenizer, template, pieces)
    for source in text.templates.values():
        kept |= _ids_of_chats(text.tokenizer, ChatTemplate(source, text.names), ())
    for language in domain.languages:
        kept |= words.made_of(language.characters, text.tokenizer)
    kept = words.with_parts(kept)
    tokenizer, new = words.cut(kept)
    coverage = _coverage(text.tokenizer, tokenizer, new, pieces, encoded, progress)
    progress.finish()
    if domain.texts:
        if counts.sum() < _FEW:
            progress.say(
                f"the text has only {counts.sum():,} tokens: what the model is to read and write should be in it"
            )
        # Good 1953 (https://doi.org/10.1093/biomet/40.3-4.237): what was seen once is as likely as what was not seen.
        coverage = replace(coverage, expected_unseen=float((counts == 1).sum() / counts.sum()))
    rows = np.array([old for old in new if old < vocab], np.int64)
    facts = Vocabulary(
        tokens=len(rows),
        of=vocab,
        texts=tuple(origins.Text(text.name, text.sha256) for text in domain.texts),
        languages=tuple(language.code for language in domain.languages),
        coverage=coverage,
        saved_bytes=0,
    )
    return Trim(_renumbered(replace(text, tokenizer=tokenizer), new), rows, vocab, facts)


def _languages(name: str) -> list[Language] | None:
    """Of codes with commas between; None where it is something else."""
    codes = [code.strip() for code in name.split(",")]
    try:
        return [languages.language(code) for code in codes]
    except KeyError as unknown:
        if name and (Path(name).exists() or name == BUILTIN):
            return None
        code = codes[0] if len(codes) == 1 else str(unknown.args[0])
        if Path(name).suffix or os.sep in name:
            raise OptionError(
                f"--trim-vocab {name}: there is no such file or folder", hint="or give languages, such as en,de"
            ) from None
        raise OptionError(
            f"--trim-vocab {name}: {code!r} is neither a file or folder nor a language or script that edgelm knows",
            hint=near(code, languages.codes()),
        ) from None


def _texts(name: str) -> Iterator[Passages]:
    path = Path(name)
    if not path.is_dir():
        yield load_passages(name, "calibration")
        return
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and not _hidden(file.relative_to(path))]
    if not any(file.stat().st_size for file in files):
        raise OptionError(f"--trim-vocab {name}: there is no text in this folder")
    yield from (load_passages(file, "calibration") for file in files if file.stat().st_size)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _pieces(domain: Domain, template: ChatTemplate | None) -> Iterator[str]:
    """The domain's texts, and a sentence of each of its languages."""
    for passages in domain.texts:
        for text, _ in passages.texts(template):
            yield from _cut(text)
    yield from (language.sample for language in domain.languages if language.sample)


def _cut(text: str) -> Iterator[str]:
    """Pieces of a long text, cut behind a line."""
    start = 0
    while len(text) - start > _PIECE and (end := text.find("\n", start + _PIECE) + 1):
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _encode(tokenizer: Tokenizer, text: str, progress: Progress | None = None) -> np.ndarray:
    ids = np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.int64)
    if progress is not None:
        progress.advance(len(text))
    return ids


def _ids_of_the_model(text: Text, config: Config) -> set[int]:
    """Ids that the model's files name a role for."""
    return {
        *_named(dict(config.values)),
        *_named(text.generation),
        *_named(text.settings),
        *_named(plain(text.special), ""),
    }


def _named(table: Mapping[str, Any], *ends: str) -> Iterator[int]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _named(value, *ends)
        elif key.endswith(ends or _IDS):
            values = value if isinstance(value, list) else [value]
            yield from (v for v in values if isinstance(v, int) and not isinstance(v, bool) and v >= 0)


def _ids_of_chats(tokenizer: Tokenizer, template: ChatTemplate, pieces: Iterable[str]) -> set[int]:
    """What a conversation needs beside its words: the template's own text; and every line as the start of a message."""
    texts = [*_literals(template.source), *(line.strip() for piece in pieces for line in piece.splitlines())]
    for roles in _CONVERSATIONS:
        with suppress(PromptError):  # not every template has a system's turn, or begins with any
            messages = [{"role": role, "content": "."} for role in roles]
            texts += [template.render(messages, add_generation_prompt=last) for last in (True, False)]
    return {int(i) for text in dict.fromkeys(texts) for i in _encode(tokenizer, text)}


def _literals(source: str) -> Iterator[str]:
    """The text in a template, and the strings in its code."""
    import jinja2

    with suppress(jinja2.TemplateSyntaxError):  # told when the template is used
        for _, kind, value in jinja2.Environment(trim_blocks=True, lstrip_blocks=True).lex(source):
            if kind == "data":
                yield value
            elif kind == "string":
                with suppress(SyntaxError, ValueError):
                    yield str(ast.literal_eval(value))


def _coverage(
    full: Tokenizer,
    small: Tokenizer,
    new: Mapping[int, int],
    pieces: Sequence[str],
    encoded: Sequence[np.ndarray],
    progress: Progress,
) -> Coverage:
    """How the pieces are encoded now.

    Raises:
        UnsupportedModelError: a piece whose tokens are all kept is encoded in another way.
    """
    table = np.full(max(new) + 1, -1, np.int64)
    table[list(new)] = list(new.values())
    before = after = unchanged = 0
    for piece, ids in zip(pieces, encoded, strict=True):
        expected = np.where(ids < len(table), table[np.minimum(ids, len(table) - 1)], -1)
        found = _encode(small, piece, progress)
        before, after = before + len(ids), after + len(found)
        if np.array_equal(found, expected):
            unchanged += len(ids)
        elif (expected >= 0).all():
            raise UnsupportedModelError(
                f"the vocabulary cannot be trimmed: {_head(piece)!r} would be encoded in another way",
                hint="its tokenizer goes by a rule that edgelm does not know",
            )
        else:
            unchanged += _same(
                full.encode(piece, add_special_tokens=False), small.encode(piece, add_special_tokens=False), new.get
            )
    number = sum(len(piece.split()) for piece in pieces)
    per_word = TokensPerWord(before / number, after / number) if number else None
    return Coverage(before, unchanged / before if before else 1.0, per_word)


def _same(before: Any, after: Any, new: Callable[[int], int | None]) -> int:
    """How many tokens of an encoding another has at the same place."""
    first = Counter((place, new(index)) for place, index in zip(before.offsets, before.ids, strict=True))
    return (first & Counter(zip(after.offsets, after.ids, strict=True))).total()


def _head(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"


def _renumbered(text: Text, new: Mapping[int, int]) -> Text:
    """Settings, generation_config.json and special tokens by the new ids."""
    old = text.special
    special = SpecialTokens(_by_new(old.bos, new), tuple(_by_new(list(old.eos), new)), _by_new(old.pad, new))
    generation = {key: _generation(key, value, new) for key, value in text.generation.items()}
    settings = {key: _by_new(value, new) if key.endswith(_IDS) else value for key, value in text.settings.items()}
    if isinstance(listed := settings.get("added_tokens_decoder"), dict):
        tokens = {text.tokenizer.token_to_id(str(token.get("content"))): token for token in listed.values()}
        settings["added_tokens_decoder"] = {str(i): token for i, token in tokens.items() if i is not None}
    return replace(text, special=special, generation=generation, settings=settings)


def _generation(key: str, value: Any, new: Mapping[int, int]) -> Any:
    """An entry of generation_config.json; what it says of tokens that are gone goes, too."""
    if key.endswith(_IDS) or key in ("suppress_tokens", "begin_suppress_tokens"):
        return _by_new(value, new)
    if key in ("bad_words_ids", "force_words_ids") and isinstance(value, list):
        return [[new[i] for i in ids] for ids in value if all(i in new for i in ids)]
    if key == "sequence_bias" and isinstance(value, list):
        return [[[new[i] for i in ids], bias] for ids, bias in value if all(i in new for i in ids)]
    if key == "forced_decoder_ids" and isinstance(value, list):
        return [[place, new[i]] for place, i in value if i in new]
    return value


def _by_new(value: Any, new: Mapping[int, int]) -> Any:
    """An id or a list of ids; those that are gone are left out, a single one is null."""
    if isinstance(value, list):
        return [new[i] for i in value if i in new]
    return new.get(value) if isinstance(value, int) and not isinstance(value, bool) else value

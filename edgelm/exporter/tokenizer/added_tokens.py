"""Added and special tokens: what a checkpoint's files say about them beside its tokenizer, as transformers reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from edgelm.bundle.manifest import ADDITIONAL
from edgelm.errors import CheckpointError
from edgelm.exporter.checkpoint.config import read_json
from edgelm.exporter.tokenizer.tokenizer_class import TokenizerClass
from edgelm.runtime.text import tokenizer_file

_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


@dataclass(frozen=True)
class AddedTokens:
    """Tokens beside the vocabulary.

    Attributes:
        names: text of the named special tokens (``bos_token`` …, and a model's own such as ``image_token``), which chat
            templates use.
        listed: tokens by id, in order.
        special: tokens that are special whatever `listed` says; a str where only its text is known.
        additional: text of those that have no name but stand in ``additional_special_tokens``.
        legacy: from files older than `added_tokens_decoder`, over which tokenizer.json has precedence.
    """

    names: dict[str, str]
    listed: dict[int, AddedToken]
    special: tuple[AddedToken | str, ...]
    additional: tuple[str, ...]
    legacy: bool

    @classmethod
    def read(cls, source: Path, settings: Mapping[str, Any], kind: TokenizerClass) -> AddedTokens:
        """From tokenizer_config.json (`settings`); where it has no `added_tokens_decoder`, the older files beside it.

        Raises:
            CheckpointError: a file is not of the form it should have.
        """
        path, values = source / "tokenizer_config.json", dict(settings)
        legacy = "added_tokens_decoder" not in settings
        if legacy:
            for key, value in optional_json(source / "special_tokens_map.json").items():
                values[key] = [*_several(values.get(key)), *value] if isinstance(value, list) else value
        named = {name: _token(path, name, values.get(name, kind.tokens.get(name))) for name in _NAMES}
        unnamed = [_token(path, ADDITIONAL, token) for token in _several(values.get(ADDITIONAL))]
        others = [*_several(values.get("extra_special_tokens")), *_several(values.get("model_specific_special_tokens"))]
        special = [*named.values(), *unnamed, *(_token(path, ADDITIONAL, token) for token in (*others, *kind.extra))]
        named |= {
            name: _token(path, f"extra_special_tokens.{name}", token)
            for key in ("extra_special_tokens", "model_specific_special_tokens")
            for name, token in (values[key].items() if isinstance(values.get(key), dict) else ())
            if name not in ("add_bos", *_NAMES)
        }
        texts = {str(token) for token in special if token is not None}
        listed = _from_older_file(source, texts) if legacy else _from_settings(path, settings["added_tokens_decoder"])
        return cls(
            names={name: str(token) for name, token in named.items() if token is not None},
            listed=listed,
            special=tuple(token for token in special if token is not None),
            additional=tuple(dict.fromkeys(str(token) for token in unnamed if token is not None)),
            legacy=legacy,
        )

    def complete(self, tokenizer: Tokenizer, limit: int | None, *, converted: bool) -> None:
        """Add to `tokenizer` what it lacks or has otherwise.

        Ids are given out in order, as in transformers. A token that would get an id of `limit` (the size of the model's
        vocabulary) or more is left out: the model has no embedding for it.

        `converted` tokenizers come from files that do not tell which of their tokens are special.
        """
        own = {token.content: token for token in tokenizer.get_added_tokens_decoder().values()}
        special = {str(token) for token in self.special}
        # The library goes on finding a special token the way it was first added: write down what it does.
        normalized = {text: token.normalized for text, token in own.items() if token.special}
        size = tokenizer.get_vocab_size(with_added_tokens=True)
        new: set[str] = set()
        ready = []
        for token in self._differing({} if converted else own, own):
            flags = {flag: getattr(token, flag) for flag in _FLAGS}
            flags["special"] = token.special or token.content in special
            if flags["special"]:
                flags["normalized"] = normalized.setdefault(token.content, token.normalized)
            if tokenizer.token_to_id(token.content) is None and token.content not in new:
                if limit is not None and size + len(new) >= limit:
                    continue
                new.add(token.content)
            ready.append(AddedToken(token.content, **flags))
        try:
            tokenizer_file.expect_lengths((), map(str, ready))
        except ValueError as error:
            raise CheckpointError(f"tokenizer_config.json: the tokenizer cannot be used: {error}") from None
        tokenizer.add_tokens(ready)

    def _differing(self, trusted: Mapping[str, AddedToken], own: Mapping[str, AddedToken]) -> list[AddedToken]:
        """The tokens that are not as they should be among `own`, those of a tokenizer, of which some are `trusted`."""
        listed = [token for token in self.listed.values() if not (self.legacy and token.content in trusted)]
        described = {**trusted, **{token.content: token for token in listed}}
        known = {repr(token) for token in own.values()}
        found = [token for token in listed if repr(token) not in known]
        for token in self.special:
            full = described.get(str(token), token)
            if not isinstance(full, str):
                found.append(full)
            elif full not in trusted:
                found.append(AddedToken(full, special=True, normalized=False))
        return found


def optional_json(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no such file."""
    return read_json(path) if path.exists() else {}


def _from_settings(path: Path, table: Any) -> dict[int, AddedToken]:
    try:
        ids = {int(index): _token(path, f"added_tokens_decoder.{index}", token) for index, token in table.items()}
    except (AttributeError, ValueError):
        raise CheckpointError(f"{path}: key 'added_tokens_decoder' is not a table of ids to tokens") from None
    return {index: token for index, token in sorted(ids.items()) if isinstance(token, AddedToken)}


def _from_older_file(source: Path, special: set[str]) -> dict[int, AddedToken]:
    path = source / "added_tokens.json"
    table = optional_json(path)
    if not all(isinstance(index, int) for index in table.values()):
        raise CheckpointError(f"{path} is not a table of tokens to ids")
    return {
        table[text]: AddedToken(text, special=text in special, normalized=text not in special)
        for text in sorted(table, key=lambda text: int(table[text]))
    }


def _several(value: Any) -> list[Any]:
    """A list, the values of a table, or nothing."""
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _token(path: Path, key: str, value: Any) -> AddedToken | str | None:
    """A token as JSON has it: its text, or an object with flags; None for null."""
    if value is None or isinstance(value, str):
        return value or None
    if not isinstance(value, dict) or not isinstance(value.get("content"), str):
        raise CheckpointError(f"{path}: key '{key}' is not a token")
    flags = {flag: value[flag] for flag in _FLAGS if isinstance(value.get(flag), bool)}
    return AddedToken(value["content"], **flags)

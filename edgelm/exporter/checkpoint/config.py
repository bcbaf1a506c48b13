"""JSON files of a checkpoint, and config.json in particular."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgelm.errors import CheckpointError
from edgelm.files import read_text
from edgelm.json_text import json_value

_LONGEST = 32 << 20  # bytes of a JSON file, such as an index of shards or a vocabulary

# What is absurd, by a part of the key; before anything is built or allocated by it.
_MOST = {"layer": 1000, "head_dim": 4096, "position": 1 << 40, "window": 1 << 40, "token_id": 1 << 31}
_LARGEST_NUMBER = sys.float_info.max  # an integer in JSON may have any number of digits
_SHOWN = 60  # characters of a wrong value
_LARGEST = 1 << 24  # of all others: widths, heads, vocabularies


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a checkpoint's file; CheckpointError names what is wrong with it."""
    try:
        value = json_value(read_text(path, _LONGEST), constants=True)
    except FileNotFoundError:
        if (path.parent / "manifest.json").is_file():
            raise CheckpointError(
                f"{path.parent} is a bundle, not a checkpoint",
                hint="export the model that it was made of; a bundle is run",
            ) from None
        raise CheckpointError(
            f"{path} is missing", hint="a checkpoint folder needs config.json, *.safetensors and tokenizer.json"
        ) from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}", hint="download the checkpoint again") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, expected a JSON object")
    return value


def _told(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return f"a {type(value).__name__} that is too long to print"


class Config:
    """config.json, whose keys are asked for by name and type; a missing or odd one is named."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self.values = values
        self.path = path

    @property
    def model_type(self) -> str:
        """Which architecture this is, e.g. ``llama``."""
        return self.text("model_type")

    def with_defaults(self, **values: Any) -> Config:
        """The same with `values` for the keys that the file leaves out; a key that is null stays null."""
        return Config({**values, **self.values}, self.path)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of `key` as it stands; `default` where it is missing or null."""
        value = self.values.get(key)
        return default if value is None else value

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self._need(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, value, "a string")
        return value

    def integer(self, key: str, default: int | None = None, *, minimum: int = 1) -> int:
        """A whole number, at least `minimum`, and no more than a model can have of it: sizes are believed nowhere else."""
        value = self._need(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self._wrong(key, value, f"a whole number >= {minimum}")
        if value > (most := next((most for part, most in _MOST.items() if part in key), _LARGEST)):
            raise self._wrong(key, value, f"a whole number <= {most:,}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number."""
        value = self._need(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LARGEST_NUMBER:
            raise self._wrong(key, value, "a positive number")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false."""
        value = self._need(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of numbers."""
        value = self._need(key, None)
        if not isinstance(value, list) or not all(
            isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= _LARGEST_NUMBER for v in value
        ):
            raise self._wrong(key, value, "a list of numbers")
        return tuple(float(v) for v in value)

    def nested(self, key: str) -> Config | None:
        """The object under `key`, or None where it is missing or null."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._wrong(key, value, "an object")
        return Config(value, self.path)

    def filled(self, key: str) -> Config | None:
        """The object under `key`; None where it is missing, null, or holds nothing but nulls."""
        nested = self.nested(key)
        return nested if nested is not None and any(value is not None for value in nested.values.values()) else None

    @property
    def text_part(self) -> Config:
        """What it says about the text model: of a model that takes images as well, the part named so."""
        return self.filled("text_config") or self

    def _need(self, key: str, default: Any) -> Any:
        value = self.get(key, default)
        if value is None:
            raise CheckpointError(
                f"{self.path}: key '{key}' is missing", hint="is this the config.json of a text-generation model?"
            )
        return value

    def _wrong(self, key: str, value: Any, expected: str) -> CheckpointError:
        shown = _told(value)
        if len(shown) > _SHOWN:
            shown = f"{shown[:_SHOWN]}…"
        return CheckpointError(f"{self.path}: key '{key}' is {shown}, expected {expected}")

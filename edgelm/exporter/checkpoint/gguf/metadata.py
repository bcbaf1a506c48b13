"""The metadata of a GGUF file, asked for by key and type; a missing or odd value is named."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgelm.errors import CheckpointError

_MOST = 1 << 40  # of what a model counts: tokens of a context above all
_HINT = "is it the file of a text-generation model? download it again"


@dataclass(frozen=True)
class Metadata:
    """Keys and values of a file.

    Attributes:
        path: the file.
        values: as `header.Header` has them.
        tensors: small tensors that belong to the configuration, by name: factors of the rotary embedding.
    """

    path: Path
    values: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]

    @property
    def architecture(self) -> str:
        """Which architecture this is, e.g. ``llama``; most keys begin with it."""
        return self.text("general.architecture")

    def get(self, key: str) -> Any:
        """The value of a key as it stands, or None."""
        return self.values.get(key)

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value: str = self._of(key, str, "a string", default)
        return value

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value: bool = self._of(key, bool, "true or false", default)
        return value

    def strings(self, key: str) -> list[str]:
        """A list of strings."""
        value: list[str] = self._of(key, list, "a list of strings")
        return value

    def numbers(self, key: str, count: int, default: Any = None) -> np.ndarray:
        """`count` numbers."""
        values: np.ndarray = self._of(key, np.ndarray, "a list of numbers", default)
        if len(values) != count:
            raise CheckpointError(f"{self.path}: '{key}' has {len(values):,} numbers, expected {count:,}", hint=_HINT)
        return values

    def token(self, key: str, count: int) -> int | None:
        """The id of a special token, or None where it is not among the `count` tokens."""
        value = self.get(f"tokenizer.ggml.{key}_token_id")
        return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < count else None

    def integer(self, key: str, default: int | None = None, *, least: int = 1, most: int = _MOST) -> int:
        """A whole number of the architecture, by its key without the architecture's name."""
        value: int = self._of(self.full(key), int, "a whole number", default)
        if not least <= value <= most:
            raise CheckpointError(
                f"{self.path}: key '{self.full(key)}' is {value:,}, expected {least:,} to {most:,}", hint=_HINT
            )
        return value

    def layers(self, tensors: Collection[str]) -> int:
        """How many layers there are; each has some of the `tensors`."""
        return self.integer("block_count", most=max(1, len(tensors)))

    def number(self, key: str, default: float | None = None) -> float:
        """A number of the architecture, as the nearest short decimal: 1e-05 was stored as 9.99999974e-06."""
        value = self._of(self.full(key), float | int, "a number", default)
        if not abs(value) <= float(np.finfo(np.float32).max):  # NaN is neither
            raise CheckpointError(f"{self.path}: key '{self.full(key)}' is {value!r}, expected a number", hint=_HINT)
        return float(str(np.float32(value)))

    def per_layer(self, key: str, layers: int, default: int | None = None) -> list[int]:
        """A whole number for each layer, where the file may have one for all."""
        value = self.get(self.full(key))
        if isinstance(value, np.ndarray):
            counts = self.numbers(self.full(key), layers)
            if counts.dtype.kind not in "iu" or (counts.astype(object) < 0).any() or counts.max() > _MOST:
                raise CheckpointError(f"{self.path}: '{self.full(key)}' has numbers that are no counts", hint=_HINT)
            return [int(one) for one in counts]
        return [self.integer(key, default, least=0)] * layers

    def has(self, key: str) -> bool:
        """Whether the file has this key of the architecture."""
        return self.full(key) in self.values

    def full(self, key: str) -> str:
        """The whole name of a key of the architecture."""
        return f"{self.architecture}.{key}"

    def _of(self, key: str, kind: Any, expected: str, default: Any = None) -> Any:
        value = self.values.get(key, default)
        if value is None:
            raise CheckpointError(f"{self.path}: key '{key}' is missing", hint=_HINT)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise CheckpointError(f"{self.path}: key '{key}' is {_short(value)}, expected {expected}", hint=_HINT)
        return value


def _short(value: Any) -> str:
    return f"a list of {len(value):,}" if isinstance(value, list | np.ndarray) else repr(value)[:60]

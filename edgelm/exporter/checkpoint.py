"""A Hugging Face checkpoint on disk: config.json, safetensors (one file or sharded), tokenizer files.

Tensors are read one at a time, or a slice of rows at a time, from a memory map; nothing is ever loaded whole.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  — teaches numpy, and so safetensors, bfloat16
import numpy as np
from safetensors import SafetensorError, safe_open

from edgelm.errors import CheckpointError

_DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # what a weight may be stored as, and bytes each
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_ROW_BYTES = 16 << 20  # fp32 bytes of one slice of rows: large enough for speed, small enough for memory


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a checkpoint's file; CheckpointError names what is wrong with it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is missing", hint="a checkpoint folder needs config.json, *.safetensors and tokenizer.json"
        ) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}", hint="download the checkpoint again") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, expected a JSON object")
    return value


class Config:
    """config.json, whose keys are asked for by name and type; a missing or odd one is named."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self.values = values
        self.path = path

    @property
    def model_type(self) -> str:
        """Which architecture this is, e.g. ``llama``."""
        return self.text("model_type")

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
        """A whole number, at least `minimum`."""
        value = self._need(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self._wrong(key, value, f"a whole number >= {minimum}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number."""
        value = self._need(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise self._wrong(key, value, "a positive number")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false."""
        value = self._need(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def nested(self, key: str) -> Config | None:
        """The object under `key`, or None where it is missing or null."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._wrong(key, value, "an object")
        return Config(value, self.path)

    def _need(self, key: str, default: Any) -> Any:
        value = self.get(key, default)
        if value is None:
            raise CheckpointError(
                f"{self.path}: key '{key}' is missing", hint="is this the config.json of a text-generation model?"
            )
        return value

    def _wrong(self, key: str, value: Any, expected: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: key '{key}' is {value!r}, expected {expected}")


class Checkpoint:
    """A checkpoint folder, opened; use as a context manager or call `close`.

    Attributes:
        path: the folder.
        config: its config.json.
        files: the safetensors files, sorted by name.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            what = "is not a folder" if path.exists() else "does not exist"
            raise CheckpointError(
                f"checkpoint {path} {what}",
                hint="give a folder with config.json and *.safetensors, or a hub id such as owner/name",
            )
        self.path = path
        self.config = Config(read_json(path / "config.json"), path / "config.json")
        self.files = _weight_files(path)
        self._open: dict[Path, Any] = {}
        self._where: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for file in self.files:
            for name, shape in _read_header(file).items():
                self._where[name] = file
                self._shapes[name] = shape

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the memory maps."""
        self._open.clear()

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def names(self) -> list[str]:
        """Names of all tensors, sorted."""
        return sorted(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor; CheckpointError where there is none of that name."""
        if name not in self._shapes:
            raise CheckpointError(
                f"{self.path}: tensor '{name}' is missing",
                hint="the checkpoint is incomplete, or config.json belongs to another model",
            )
        return self._shapes[name]

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise CheckpointError unless the tensor `name` has this shape."""
        found = self.shape(name)
        if found != shape:
            raise CheckpointError(
                f"{self._where[name]}: tensor '{name}' has shape {list(found)}, config.json says {list(shape)}"
            )

    def vector(self, name: str, size: int) -> np.ndarray:
        """A tensor of shape [size], as float32."""
        self.expect(name, (size,))
        return self._checked(name, self._file(name).get_tensor(name))

    def rows(self, name: str, shape: tuple[int, int]) -> Iterator[np.ndarray]:
        """A matrix of `shape` [rows, columns] as float32, a slice of rows at a time."""
        self.expect(name, shape)
        step = max(1, _ROW_BYTES // (4 * max(1, shape[1])))
        source = self._file(name).get_slice(name)
        for start in range(0, shape[0], step):
            yield self._checked(name, source[start : min(start + step, shape[0])])

    def _file(self, name: str) -> Any:
        path = self._where[name]
        if path not in self._open:
            try:
                self._open[path] = safe_open(path, "np")
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{path} cannot be read: {error}", hint="download the checkpoint again") from None
        return self._open[path]

    def _checked(self, name: str, values: Any) -> np.ndarray:
        array = np.asarray(values).astype(np.float32, copy=False)
        # A sum is finite only if every addend is (float32 weights cannot overflow a float64 sum).
        if not np.isfinite(array.sum(dtype=np.float64)):
            kind = "NaN" if np.isnan(array).any() else "infinite"
            raise CheckpointError(
                f"{self._where[name]}: tensor '{name}' holds {kind} values",
                hint="the checkpoint is damaged; download it again",
            )
        return array


def _weight_files(path: Path) -> list[Path]:
    index = path / _INDEX
    if (path / _SINGLE).exists():
        return [path / _SINGLE]
    if index.exists():
        table = read_json(index).get("weight_map")
        if not isinstance(table, dict) or not all(isinstance(v, str) and v == Path(v).name for v in table.values()):
            raise CheckpointError(f"{index}: 'weight_map' is not a table of tensor names to file names")
        files = sorted({path / file for file in table.values()})
        for file in files:
            if not file.exists():
                raise CheckpointError(f"{file} is missing: {index.name} names it", hint="download the checkpoint again")
        return files
    if found := sorted(path.glob("*.safetensors")):
        return found
    if pickles := sorted([*path.glob("pytorch_model*.bin"), *path.glob("*.pt"), *path.glob("*.pth")]):
        raise CheckpointError(
            f"{pickles[0]} is a pickle, which can run any code when it is read; edgelm reads safetensors only",
            hint="in a place you trust: AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW_DIR, safe_serialization=True)",
        )
    raise CheckpointError(
        f"{path} has no *.safetensors file", hint="give a folder with config.json, *.safetensors and tokenizer.json"
    )


def _read_header(path: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape from a safetensors header, checked against the size of the file.

    The format: 8 bytes little-endian length, that many bytes of JSON, then the data
    (https://github.com/huggingface/safetensors#format).
    """
    again = "download the checkpoint again"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
            if len(head) < 8 or length > size - 8:
                raise CheckpointError(f"{path} is truncated: {size:,} bytes do not hold its header", hint=again)
            table = json.loads(file.read(length))
        table.pop("__metadata__", None)
        end = 8 + length + max((entry["data_offsets"][1] for entry in table.values()), default=0)
        shapes = {name: tuple(int(d) for d in entry["shape"]) for name, entry in table.items()}
        kinds = {name: entry["dtype"] for name, entry in table.items()}
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise CheckpointError(f"{path} is not a safetensors file: its header cannot be read", hint=again) from None
    if size < end:
        raise CheckpointError(f"{path} is truncated: {size:,} bytes, expected {end:,}", hint=again)
    for name, kind in kinds.items():
        # Integer buffers (masks, position ids) are no weights and are never asked for.
        if kind not in _DTYPES and name.endswith(".weight"):
            raise CheckpointError(
                f"{path}: tensor '{name}' is stored as {kind}, expected one of {', '.join(_DTYPES)}",
                hint="export the unquantised checkpoint",
            )
    return shapes

"""A safetensors file is read as strictly as by safetensors itself; config.json is not believed to be sane."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from edgelm.errors import CheckpointError
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.checkpoint.tensors import read_header
from edgelm.exporter.families import describe


def write(path: Path, header: dict[str, Any], data: bytes) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def tensor(first: int, last: int, *shape: int, dtype: str = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [first, last]}


DAMAGED: dict[str, tuple[dict[str, Any], int]] = {
    "the same bytes twice": ({"a": tensor(0, 8, 8), "b": tensor(0, 8, 8)}, 8),
    "half the bytes twice": ({"a": tensor(0, 8, 8), "b": tensor(4, 12, 8)}, 12),
    "one inside another": ({"a": tensor(0, 8, 8), "b": tensor(2, 4, 2)}, 8),
    "a hole": ({"a": tensor(0, 4, 4), "b": tensor(8, 12, 4)}, 12),
    "a hole at the start": ({"a": tensor(4, 8, 4)}, 8),
    "bytes behind the last": ({"a": tensor(0, 4, 4)}, 8),
    "bytes and no tensor": ({}, 8),
    "an end before its start": ({"a": tensor(8, 4, 4)}, 8),
    "an integer of another length": ({"a": tensor(0, 4, 4, dtype="I64")}, 4),
    "truncated": ({"a": tensor(0, 8, 8)}, 4),
    "negative": ({"a": tensor(-4, 0, 4)}, 4),
    "a type that there is not": ({"a": tensor(0, 4, 4, dtype="XX")}, 4),
    "a type of half bytes": ({"a": tensor(0, 4, 4, dtype="F4")}, 4),
    "8-bit floats of another length": ({"a": tensor(0, 4, 2, dtype="F8_E4M3")}, 4),
    "a size as text": ({"a": tensor(0, 4) | {"shape": ["4"]}}, 4),
    "a size as a float": ({"a": tensor(0, 4) | {"shape": [4.0]}}, 4),
    "a size that is true": ({"a": tensor(0, 1) | {"shape": [True]}}, 1),
    "an offset as text": ({"a": tensor(0, 4, 4) | {"data_offsets": ["0", "4"]}}, 4),
    "metadata that is no text": ({"__metadata__": {"format": 1}, "a": tensor(0, 4, 4)}, 4),
    "metadata that is a list": ({"__metadata__": [], "a": tensor(0, 4, 4)}, 4),  # type: ignore[dict-item]
    "a size that overflows": ({"a": tensor(0, 4, 1 << 40, 1 << 40, 1 << 40)}, 4),
}


@pytest.mark.parametrize(("header", "size"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_headers_are_refused_as_by_safetensors(header: dict[str, Any], size: int, tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", header, bytes(size))
    with pytest.raises(SafetensorError), safe_open(path, "numpy") as opened:
        opened.keys()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is (damaged|truncated|not a safetensors file)"):
        read_header(path)


def test_sound_headers_are_read(tmp_path: Path) -> None:
    tensors = {"a": np.arange(3.0, dtype=np.float32), "b": np.zeros((0, 4), np.float32), "c": np.ones((2, 2), np.int8)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = read_header(tmp_path / "model.safetensors")
    assert {name: entry.shape for name, entry in found.items()} == {name: a.shape for name, a in tensors.items()}
    np.testing.assert_array_equal(found["a"].read(), tensors["a"])


def test_700_000_tensors_are_refused_before_they_are_made(tmp_path: Path) -> None:
    entry = json.dumps(tensor(0, 0, 0)).encode()
    text = b"{" + b",".join(b'"%d":' % i + entry for i in range(700_000)) + b"}"
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(CheckpointError, match=r"700,000 tensors|header would have"):
        read_header(path)


def test_a_header_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 1 << 39))
        file.truncate(1 << 40)
    with pytest.raises(CheckpointError, match="its header would have"):
        read_header(path)


LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 300,
}


@pytest.mark.parametrize("key", ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"])
@pytest.mark.parametrize("value", [10**9, 1 << 70, -1, 0, 2.5, True, "64", None, [64]])
def test_absurd_sizes_are_refused_before_anything_is_built(key: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=key):
        describe(Config({**LLAMA, key: value}, Path("config.json")))


@pytest.mark.parametrize(
    "more", [{"head_dim": 10**9}, {"hidden_size": 1 << 20, "num_attention_heads": 1}, {"num_attention_heads": 128}]
)
def test_absurd_heads_are_refused(more: dict[str, int]) -> None:
    with pytest.raises(CheckpointError, match=r"head_dim|heads of"):
        describe(Config({**LLAMA, **more}, Path("config.json")))


@pytest.mark.parametrize("key", ["rope_theta", "rms_norm_eps"])
def test_numbers_that_no_float_holds(key: str) -> None:
    for value in (10**400, 10**5000, -1, float("nan"), float("inf"), "x"):
        with pytest.raises(CheckpointError, match=f"key '{key}' is .*, expected a positive number"):
            describe(Config({**LLAMA, key: value}, Path("config.json")))


def test_a_long_wrong_value_is_cut_short() -> None:
    with pytest.raises(CheckpointError) as raised:
        describe(Config({**LLAMA, "hidden_size": "x" * 10**6}, Path("config.json")))
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("name", ["x" * 5000, "a\nb", "\x1b[2J"])
def test_an_index_that_names_what_no_file_is_called(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(CheckpointError, match=r"is missing|…") as raised:
        Checkpoint(tmp_path)
    assert str(raised.value).isprintable()

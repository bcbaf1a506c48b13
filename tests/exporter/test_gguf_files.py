"""Bad GGUF files: one line each, and nothing allocated by a length that the file cannot hold."""

from __future__ import annotations

import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf_file import write_gguf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgelm.errors import CheckpointError, EdgeLMError, UnsupportedModelError
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.checkpoint.gguf.block_types import block_type
from edgelm.exporter.checkpoint.gguf.header import TensorInfo, read_header
from edgelm.exporter.checkpoint.gguf.tensors import GGUFTensor, Rotated
from edgelm.exporter.formats.blocked import Blocked
from edgelm.exporter.pipeline import export
from edgelm.exporter.tokenizer.text_files import read_text

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound file of one layer, Q8_0."""
    folder = tmp_path_factory.mktemp("gguf")
    return write_gguf(tiny_checkpoint(num_hidden_layers=1), folder / "tiny.gguf", "Q8_0")


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def head(*, tensors: int = 0, keys: int = 0, version: int = 3, magic: bytes = b"GGUF") -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, keys)


ARCH = text("general.architecture") + struct.pack("<I", 8) + text("llama")
HUGE = 1 << 60
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is not a GGUF file"),
    "another format": (b"PK\x03\x04" + bytes(100), "is not a GGUF file"),
    "magic alone": (b"GGUF", "is cut short"),
    "version 1": (head(version=1), "version 1; edgelm reads version 3"),
    "version 2": (head(version=2), "version 2; edgelm reads version 3"),
    "version 4": (head(version=4), "version 4; edgelm reads version 3"),
    "other byte order": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "other byte order"),
    "keys that lie": (head(keys=HUGE), "do not hold"),
    "tensors that lie": (head(tensors=HUGE), "do not hold"),
    "key that lies": (head(keys=1) + struct.pack("<Q", HUGE) + bytes(40), "do not hold"),
    "string that lies": (head(keys=1) + text("general.name") + struct.pack("<IQ", 8, HUGE), "do not hold"),
    "array that lies": (head(keys=1) + text("x") + struct.pack("<IIQ", 9, 6, HUGE), "do not hold"),
    "strings that lie": (head(keys=1) + text("x") + struct.pack("<IIQ", 9, 8, HUGE), "do not hold"),
    "a string of strings that lies": (
        head(keys=1) + text("x") + struct.pack("<IIQ", 9, 8, 2) + text("ok") + struct.pack("<Q", HUGE),
        "do not hold",
    ),
    "arrays of arrays": (head(keys=1) + text("x") + struct.pack("<IIQ", 9, 9, 1) + bytes(40), "array of type 9"),
    "type of a value": (head(keys=1) + text("x") + struct.pack("<I", 77) + bytes(20), "type 77"),
    "no architecture": (head(), "key 'general.architecture' is missing"),
    "axes": (head(tensors=1, keys=1) + ARCH + text("t") + struct.pack("<I", 9) + bytes(99), "9 axes"),
    "type of a tensor": (
        head(tensors=1, keys=1) + ARCH + text("t") + struct.pack("<IQIQ", 1, 32, 99, 0) + bytes(64),
        "stored as type 99",
    ),
    "integers": (
        head(tensors=1, keys=1) + ARCH + text("t") + struct.pack("<IQIQ", 1, 32, 26, 0) + bytes(256),
        "stored as I32",
    ),
    "half a block": (
        head(tensors=1, keys=1) + ARCH + text("t") + struct.pack("<IQIQ", 1, 33, 8, 0) + bytes(99),
        "whole Q8_0 blocks of 32",
    ),
    "shape that lies": (
        head(tensors=1, keys=1) + ARCH + text("t") + struct.pack("<IQIQ", 1, HUGE, 0, 0) + bytes(99),
        "is cut short",
    ),
    "offset that lies": (
        head(tensors=1, keys=1) + ARCH + text("t") + struct.pack("<IQIQ", 1, 32, 0, HUGE) + bytes(99),
        "is cut short",
    ),
    "unknown architecture": (
        head(keys=1) + text("general.architecture") + struct.pack("<I", 8) + text("mamba9"),
        "architecture 'mamba9' cannot be read",
    ),
    "mmproj": (
        head(keys=1) + text("general.architecture") + struct.pack("<I", 8) + text("clip"),
        "holds the parts for images",
    ),
    "lora": (
        head(keys=2) + text("general.type") + struct.pack("<I", 8) + text("adapter") + ARCH,
        "is a LoRA adapter, not a model",
    ),
    "no weights": (head(keys=1) + ARCH, "has no weights"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_told_in_one_line(what: str, tmp_path: Path) -> None:
    data, expected = BAD[what]
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises((CheckpointError, UnsupportedModelError)) as caught:
        Checkpoint(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    assert peak < 4 << 20


@pytest.mark.parametrize("share", [0.001, 0.2, 0.5, 0.9, 0.9999])
def test_a_file_that_is_cut_short(share: float, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny.read_bytes()[: int(share * tiny.stat().st_size)])
    with pytest.raises(CheckpointError, match=r"cut short|not a GGUF"):
        Checkpoint(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_never_crash_the_reader(changes: list[tuple[int, int]], tiny: Path, tmp_path: Path) -> None:
    data = bytearray(tiny.read_bytes())
    for place, value in changes:
        data[place] = value
    path = tmp_path / "changed.gguf"
    path.write_bytes(data)
    said = []
    try:
        checkpoint = Checkpoint(path)
        read_text(path, checkpoint.config)
        for name in checkpoint.names():
            checkpoint.tensor(name).read()
    except EdgeLMError as error:
        said.append(str(error))
    assert all(line.isprintable() for line in said)


def test_no_tokenizer(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    file = write_gguf(tiny_checkpoint(), tmp_path / "m.gguf", tokenizer=lambda *_: None)
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        export(file, "x86-64", "fp32", output=tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


def test_a_tensor_without_a_place(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    file = write_gguf(tiny_checkpoint(), tmp_path / "m.gguf")
    data = file.read_bytes().replace(b"blk.0.ffn_gate.weight", b"blk.0.ffn_gete.weight")
    file.write_bytes(data)
    with pytest.raises(UnsupportedModelError, match=r"'blk.0.ffn_gete.weight' has no place"):
        Checkpoint(file)


def test_optimum_cannot_read_it(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="GGUF"):
        export(tiny, "x86-64", "fp32", output=tmp_path / "b", exporter="optimum")


@pytest.mark.parametrize("parts", [2, 3])
def test_a_split_file_is_the_same_model(parts: int, tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint()
    (tmp_path / "split").mkdir()
    whole = write_gguf(checkpoint, tmp_path / "m.gguf", "Q8_0")
    first = write_gguf(checkpoint, tmp_path / "split" / "m.gguf", "Q8_0", parts=parts)
    files = sorted(first.parent.glob("*.gguf"))
    assert len(files) == parts
    expected = export(whole, "x86-64", "int8", output=tmp_path / "a")
    for number, file in enumerate((files[0], files[-1])):  # any part stands for all
        found = export(file, "x86-64", "int8", output=tmp_path / f"b{number}")
        assert found.manifest.to_dict()["files"] == expected.manifest.to_dict()["files"]
        assert found.manifest.to_dict()["model"]["id"] == "m"
        assert sorted(found.manifest.to_dict()["model"]["sources"]) == [file.name for file in files]


def test_a_part_that_is_missing(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    first = write_gguf(tiny_checkpoint(), tmp_path / "m.gguf", parts=2)
    other = first.with_name("m-00002-of-00002.gguf")
    shutil.move(other, tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"m-00002-of-00002.gguf is missing: .* is one of 2 parts"):
        Checkpoint(first)
    first.rename(tmp_path / "renamed.gguf")
    with pytest.raises(CheckpointError, match="is one of 2 parts, and its name does not tell the others"):
        Checkpoint(tmp_path / "renamed.gguf")


@pytest.mark.parametrize(
    "kind",
    ["F16", "BF16", "Q4_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ2_XXS", "IQ4_NL", "IQ4_XS", "TQ1_0"],
)
def test_slices_are_what_the_package_makes_of_the_whole(kind: str, tmp_path: Path) -> None:
    number = gguf.GGMLQuantizationType[kind]
    size, length = gguf.GGML_QUANT_SIZES[number]
    data = np.random.default_rng(0).integers(0, 120, (6, 4 * length), np.uint8)
    path = tmp_path / "data"
    path.write_bytes(bytes(17) + data.tobytes())
    tensor = GGUFTensor(TensorInfo(path, "t", block_type(number), (6, 4 * size), 17), "t")
    whole = gguf.quants.dequantize(data, number).reshape(-1)
    np.testing.assert_array_equal(tensor.read(), whole)
    for start, count in ((0, 1), (size - 1, 2), (5 * size + 3, 2 * size), (24 * size - 7, 7)):
        np.testing.assert_array_equal(tensor.read(start, count), whole[start : start + count])
    rows = [(0, 2), (2, 6)]
    np.testing.assert_array_equal(np.concatenate(list(tensor.slices(rows))), whole.reshape(6, -1))


def test_blocks_are_dequantised_many_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The package works on sixteen rows at a time; a block given as a row made it call its kernel 4,000 times here."""
    number, calls = gguf.GGMLQuantizationType.Q4_1, []
    data = np.random.default_rng(0).integers(0, 120, (4096, 16 * 20), np.uint8)
    (tmp_path / "data").write_bytes(data.tobytes())
    kernel = gguf.quants.Q4_1.dequantize_blocks

    def counted(blocks: np.ndarray) -> Any:
        calls.append(len(blocks))
        return kernel(blocks)

    expected = gguf.quants.dequantize(data, number).reshape(-1)
    monkeypatch.setattr(gguf.quants.Q4_1, "dequantize_blocks", counted)
    tensor = GGUFTensor(TensorInfo(tmp_path / "data", "t", block_type(number), (4096, 512), 0), "t")
    np.testing.assert_array_equal(tensor.read(), expected)
    assert len(calls) <= 4096 * 512 / (1 << 17)


def test_slices_of_rows_in_llama_cpps_order(tmp_path: Path) -> None:
    """Any slice is that of the whole, matrices and biases alike."""
    for shape in ((24, 32), (24,)):
        values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        halves = values.reshape(3, 2, 4, *shape[1:]).swapaxes(1, 2).reshape(shape)
        (tmp_path / "data").write_bytes(halves.tobytes())
        tensor = Rotated(GGUFTensor(TensorInfo(tmp_path / "data", "t", block_type(0), shape, 0), "t"), 3)
        for first in range(24):
            for end in range(first, 25):
                np.testing.assert_array_equal(next(tensor.slices([(first, end)])), values[first:end])
        np.testing.assert_array_equal(tensor.read(5, 17), values.reshape(-1)[5:22])
        np.testing.assert_array_equal(tensor.read(), values.reshape(-1))


@pytest.mark.parametrize(("kind", "bits"), [("Q4_0", 4), ("Q5_0", 8)])
def test_codes_that_a_recipe_can_hold_come_back(kind: str, bits: int) -> None:
    """Rounding in blocks of 32 finds the file's own scales: nothing is lost."""
    number = gguf.GGMLQuantizationType[kind]
    weights = np.random.default_rng(0).normal(0, 0.02, (32, 256)).astype(np.float32)
    values = gguf.quants.dequantize(gguf.quants.quantize(weights, number), number)
    np.testing.assert_array_equal(Blocked(bits, 32).rounded(values), values)


def test_reading_takes_no_more_than_a_slice(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """Memory of an export from GGUF is that of one from safetensors: no matrix is dequantised as a whole."""
    wide = tiny_checkpoint(vocab_size=40_000, num_hidden_layers=1, hidden_size=256, intermediate_size=256)
    checkpoint = Checkpoint(write_gguf(wide, tmp_path / "m.gguf", "Q8_0"))
    tracemalloc.start()
    for _ in checkpoint.rows("model.embed_tokens.weight", (40_000, 256)):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 << 20  # 41 MB as a whole
    assert _metadata_is_small(checkpoint)


def _metadata_is_small(checkpoint: Checkpoint) -> bool:
    assert checkpoint.gguf is not None
    held: dict[str, Any] = dict(checkpoint.gguf.metadata.values)
    return not any(key.startswith("tokenizer.") for key in held)


def test_the_header_says_what_the_package_says(tiny: Path) -> None:
    expected = gguf.GGUFReader(tiny)
    found = read_header(tiny)
    assert {t.name: (t.tensor_type.name, list(t.shape)[::-1], t.data_offset) for t in expected.tensors} == {
        name: (info.type.name, list(info.shape), info.offset) for name, info in found.tensors.items()
    }
    for key, value in found.metadata.items():
        contents = expected.fields[key].contents()
        assert (value.tolist() if isinstance(value, np.ndarray) else value) == contents, key

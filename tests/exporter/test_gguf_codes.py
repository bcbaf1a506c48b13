"""Codes of a GGUF file that an operator can hold are in the bundle as they are: its matrices are the file's values exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx_ir as ir
import pytest
from gguf_file import write_gguf

import edgelm
from edgelm.bundle.reader import MODEL, Bundle
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.checkpoint.gguf.block_types import block_type
from edgelm.exporter.checkpoint.gguf.codes import code_type
from edgelm.exporter.checkpoint.gguf.header import TensorInfo
from edgelm.exporter.checkpoint.gguf.tensors import GGUFTensor, Rotated
from edgelm.exporter.checkpoint.row_subset import PickedRows
from edgelm.exporter.formats.blocked import Blocked
from edgelm.exporter.plan.estimate import of_model
from edgelm.exporter.recipe import RoleCodes, with_codes
from edgelm.target.target import FormatSpec, load_target

pytest.importorskip("transformers")
VOCAB = 300
HOLDABLE = ["Q4_0", "Q5_0", "Q8_0", "Q6_K", "IQ4_NL"]
SHAPE = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4}


def tensor(kind: str, folder: Path, rows: int = 24) -> GGUFTensor:
    """A matrix [rows, 512] of random blocks with sound scales."""
    number = gguf.GGMLQuantizationType[kind]
    size, length = gguf.GGML_QUANT_SIZES[number]
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (rows * 512 // size, length), np.uint8)
    place = 208 if kind == "Q6_K" else 0
    data[:, place : place + 2] = rng.normal(0, 0.02, len(data)).astype(np.float16)[:, None].view(np.uint8)
    (folder / "data").write_bytes(data.tobytes())
    return GGUFTensor(TensorInfo(folder / "data", "t", block_type(number), (rows, 512), 0), "t")


@pytest.mark.parametrize("kind", HOLDABLE)
def test_codes_times_scales_are_the_values(kind: str, tmp_path: Path) -> None:
    """Whole, in another order of rows, and some rows alone, whatever the slices."""
    plain = tensor(kind, tmp_path)
    for coded in (plain, Rotated(plain, 3), PickedRows(Rotated(plain, 3), np.array([0, 1, 5, 17, 23]))):
        rows = [(0, 2), (2, coded.shape[0])]
        found = list(coded.code_slices(rows))
        for codes, values in zip(found, coded.slices(rows), strict=True):
            assert (codes.bits, codes.block) == (code_type(kind).bits, code_type(kind).block)  # type: ignore[union-attr]
            steps = codes.codes.reshape(*codes.scales.shape, -1).astype(np.float32) - codes.zeros[..., None]
            np.testing.assert_array_equal((steps * codes.scales[..., None]).reshape(values.shape), values)


@pytest.mark.parametrize("kind", ["Q4_1", "Q5_1", "Q4_K", "Q5_K", "Q2_K", "IQ2_XXS", "TQ1_0", "F16"])
def test_what_no_operator_holds(kind: str) -> None:
    """A block with a minimum of its own is not a whole zero point away from zero."""
    assert code_type(kind) is None


def plain(value: ir.Value | None) -> np.ndarray:
    """A constant, or what is widened when the graph is loaded: the scales of a GGUF file are 16-bit floats."""
    assert value is not None
    node = value.producer()
    constant = value if node is None else node.inputs[0]
    assert constant is not None
    assert constant.const_value is not None
    assert node is None or (node.op_type == "Cast" and constant.dtype == ir.DataType.FLOAT16)
    return constant.const_value.numpy()


def stored(bundle: Bundle, module: str) -> np.ndarray:
    """A matrix of a bundle as its operator reads it: (code - zero) * scale."""
    model = ir.load(bundle.path / MODEL)
    node = next(n for n in model.graph if n.op_type == "MatMulNBits" and n.name.startswith(module))
    codes, scales = (plain(node.inputs[i]) for i in (1, 2))
    assert len(node.inputs) < 4 or node.inputs[3] is None  # no zero points
    if node.attributes["bits"].as_int() == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:2], -1)
    middle = 1 << (node.attributes["bits"].as_int() - 1)
    values: np.ndarray = (codes.astype(np.float32) - middle) * scales.reshape(*codes.shape[:2], 1)
    return values.reshape(len(codes), -1)


def export(file: Path, quant: str, output: Path, **options: Any) -> Bundle:
    return edgelm.export(file, target="x86-64", quant=quant, output=output, card="none", **options)


@pytest.mark.parametrize(("kind", "quant"), [("Q4_0", "int4"), ("Q8_0", "int8"), ("Q5_0", "int8")])
def test_a_bundle_holds_the_values_of_the_file(
    kind: str, quant: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    file = write_gguf(tiny_checkpoint(**SHAPE), tmp_path / "m.gguf", kind)
    bundle = export(file, quant, tmp_path / "b", calibrate="builtin" if quant == "int4" else None)
    source = Checkpoint(file)
    for module in ("self_attn.o_proj", "mlp.down_proj"):
        values = source.tensor(f"model.layers.0.{module}.weight").read()
        np.testing.assert_array_equal(stored(bundle, f"model.layers.0.{module}").reshape(-1), values)
    qkv = [source.tensor(f"model.layers.0.self_attn.{name}_proj.weight").read() for name in "qkv"]
    np.testing.assert_array_equal(stored(bundle, "model.layers.0.self_attn.qkv").reshape(-1), np.concatenate(qkv))
    quantized = bundle.manifest.model.quantized
    assert quantized is not None
    assert quantized.types is not None
    kept = {kind: quantized.types[kind]}
    if quant == "int4":  # head and embedding are rounded anew, to 8 bits
        kept[kind] -= 2 * VOCAB * SHAPE["hidden_size"]
    assert quantized.kept == kept
    assert bundle.manifest.calibration is None


def test_sizes_are_told_exactly(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """Inspect and estimate know the blocks that stay."""
    file = write_gguf(tiny_checkpoint(**SHAPE), tmp_path / "m.gguf", "Q8_0")
    bundle = export(file, "int8", tmp_path / "b")
    size = sum(entry.stat().st_size for entry in bundle.path.iterdir())
    told = of_model(str(file), load_target("x86-64"), "int8").bundle_bytes
    assert abs(told - size) <= (bundle.path / "manifest.json").stat().st_size


def test_other_recipes_round_anew(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """Codes stay where a recipe's bits hold them."""
    for kind, quant in (("Q8_0", "fp32"), ("Q4_1", "int4"), ("Q4_0", "int8")):
        file = write_gguf(tiny_checkpoint(**SHAPE), tmp_path / f"{kind}.gguf", kind)
        quantized = export(file, quant, tmp_path / f"{kind}-{quant}", calibrate="none").manifest.model.quantized
        assert quantized is not None
        assert quantized.kept is None


def test_rows_of_a_trimmed_vocabulary(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    file = write_gguf(tiny_checkpoint(**SHAPE), tmp_path / "m.gguf", "Q8_0")
    (tmp_path / "text.txt").write_text("the lamp is on " * 20)
    bundle = export(file, "int8", tmp_path / "b", trim_vocab=tmp_path / "text.txt")
    whole = Checkpoint(file).tensor("lm_head.weight").read().reshape(VOCAB, -1)
    head = stored(bundle, "lm_head")
    assert len(head) < VOCAB
    assert all((row == whole).all(axis=1).any() for row in head)


def test_blocks_of_16_stay_where_the_recipe_has_them() -> None:
    """They take half as much memory again as blocks of 32; and their scales are no 16-bit floats."""
    target = load_target("x86-64")
    codes = {"head": RoleCodes("head", code_type("Q6_K")), "a": RoleCodes("body", code_type("Q6_K"))}
    assert with_codes(target.recipe("int8"), codes, target) == target.recipe("int8")
    fine = replace(target.recipe("int8"), body=FormatSpec("MatMulNBits", 8, 16))
    assert with_codes(fine, codes, target) == fine
    assert Blocked(8, 16).holds(code_type("Q6_K"))
    half = replace(target, runtime=replace(target.runtime, activations="fp16"))
    q8 = {"a": RoleCodes("body", code_type("Q8_0")), "b": RoleCodes("body", None)}
    kept = with_codes(half.recipe("int8"), q8, half)
    assert kept.matrices == {"a": FormatSpec("MatMulNBits", 8, 32), "b": half.recipe("int8").body}
    assert with_codes(target.recipe("int4"), q8, target) == target.recipe("int4")

"""Checkpoints that are quantised already keep their codes: the logits are those of the dequantised weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelm.errors import CheckpointError, UnsupportedModelError
from edgelm.exporter.checkpoint.prequantized import unpack
from edgelm.exporter.pipeline import export
from edgelm.runtime.engine import Engine
from edgelm.target.target import FormatSpec, Target, load_target

AWQ_COLUMN_IN_NIBBLE = [0, 2, 4, 6, 1, 3, 5, 7]  # of AutoAWQ's packer
Quantised = tuple[np.ndarray, np.ndarray, np.ndarray]  # codes [n, k], zeros [n, groups], scales [n, groups]


def quantise(weight: np.ndarray, bits: int, group: int, symmetric: bool) -> Quantised:
    """Plain rounding, as reference for what the packers below store."""
    n, k = weight.shape
    blocks, top = weight.reshape(n, k // group, group), (1 << bits) - 1
    if symmetric:
        scales = (np.abs(blocks).max(-1) / (1 << (bits - 1))).astype(np.float16).astype(np.float32)
        zeros = np.full(scales.shape, 1 << (bits - 1))
    else:
        scales = ((blocks.max(-1) - blocks.min(-1)) / top).astype(np.float16).astype(np.float32)
        zeros = np.clip(np.rint(-blocks.min(-1) / scales), 1, top).astype(int)
    codes = np.clip(np.rint(blocks / scales[:, :, None]) + zeros[:, :, None], 0, top).astype(int)
    return codes.reshape(n, k), zeros, scales


def words(values: np.ndarray, bits: int, axis: int, order: list[int] | None = None) -> np.ndarray:
    """Pack integers into int32 along an axis, one field after the other, as the libraries do."""
    values, count = np.moveaxis(values.astype(np.uint32), axis, -1), 32 // bits
    packed = np.zeros((*values.shape[:-1], values.shape[-1] // count), np.uint32)
    for field in range(count):
        packed |= values[..., (order[field] if order else field) :: count] << np.uint32(bits * field)
    return np.ascontiguousarray(np.moveaxis(packed, -1, axis)).view(np.int32)


def gptq(q: Quantised, bits: int, v2: bool = False) -> dict[str, np.ndarray]:
    codes, zeros, scales = q
    stored = zeros if v2 else zeros - 1
    group = codes.shape[1] // zeros.shape[1]
    return {
        "qweight": words(codes.T, bits, 0),
        "qzeros": words(stored.T, bits, 1),
        "scales": scales.T.astype(np.float16),
        "g_idx": (np.arange(codes.shape[1]) // group).astype(np.int32),
    }


def awq(q: Quantised, bits: int) -> dict[str, np.ndarray]:
    codes, zeros, scales = q
    return {
        "qweight": words(codes.T, bits, 1, AWQ_COLUMN_IN_NIBBLE),
        "qzeros": words(zeros.T, bits, 1, AWQ_COLUMN_IN_NIBBLE),
        "scales": scales.T.astype(np.float16),
    }


def compressed(q: Quantised, bits: int, symmetric: bool) -> dict[str, np.ndarray]:
    codes, zeros, scales = q
    parts = {
        "weight_packed": words(codes, bits, 1),
        "weight_scale": scales,
        "weight_shape": np.array(codes.shape, np.int64),
    }
    return parts if symmetric else {**parts, "weight_zero_point": words(zeros, bits, 0)}


def layout(method: str, q: Quantised, bits: int, symmetric: bool) -> dict[str, np.ndarray]:
    match method:
        case "gptq" | "gptq_v2":
            return gptq(q, bits, method == "gptq_v2")
        case "awq":
            return awq(q, bits)
    return compressed(q, bits, symmetric)


def settings_of(method: str, bits: int, group: int, symmetric: bool) -> dict[str, Any]:
    match method:
        case "gptq" | "gptq_v2":
            return {
                "quant_method": "gptq",
                "bits": bits,
                "group_size": group,
                "sym": symmetric,
                "checkpoint_format": method,
            }
        case "awq":
            return {"quant_method": "awq", "bits": bits, "group_size": group, "version": "gemm", "zero_point": True}
    weights = {"num_bits": bits, "type": "int", "group_size": group, "symmetric": symmetric, "strategy": "group"}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"weights": weights, "targets": ["Linear"]}},
    }


CASES = {
    "gptq": ("gptq", 4, 32, False),
    "gptq symmetric": ("gptq", 4, 64, True),
    "gptq v2": ("gptq_v2", 4, 32, False),
    "gptq 8 bits": ("gptq", 8, 32, False),
    "awq": ("awq", 4, 32, False),
    "compressed-tensors": ("compressed", 4, 32, True),
    "compressed-tensors asymmetric": ("compressed", 4, 32, False),
    "compressed-tensors 8 bits": ("compressed", 8, 64, True),
}


@pytest.fixture(scope="module")
def plain(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint(intermediate_size=128, num_hidden_layers=2, attention_bias=True)


def make_pair(plain: Path, folder: Path, method: str, bits: int, group: int, symmetric: bool) -> tuple[Path, Path]:
    """(a checkpoint in the quantised layout, one with the dequantised weights)."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(plain / "model.safetensors")
    stored: dict[str, np.ndarray] = {}
    dense: dict[str, np.ndarray] = {}
    for name, weight in tensors.items():
        if not name.endswith("_proj.weight"):
            stored[name] = dense[name] = weight
            continue
        q = quantise(weight, bits, group, symmetric)
        codes, zeros, scales = q
        index = np.arange(weight.shape[1]) // group
        dense[name] = ((codes - zeros[:, index]) * scales[:, index]).astype(np.float32)
        for part, value in layout(method, q, bits, symmetric).items():
            stored[f"{name.removesuffix('.weight')}.{part}"] = np.ascontiguousarray(value)
    pair = []
    for label, content in (("stored", stored), ("dense", dense)):
        copy = shutil.copytree(plain, folder / label)
        save_file(content, copy / "model.safetensors")
        pair.append(copy)
    config = json.loads((plain / "config.json").read_text()) | {
        "quantization_config": settings_of(method, bits, group, symmetric)
    }
    (pair[0] / "config.json").write_text(json.dumps(config))
    return pair[0], pair[1]


def body_only() -> Target:
    """A target that leaves embedding and head, which these checkpoints do not quantise, in floats."""
    target, plain = load_target("x86-64"), FormatSpec("MatMul", 32)
    recipe = replace(target.recipe("int4"), head=plain, embedding=FormatSpec("Gather", 32))
    return replace(target, recipes={"int4": recipe})


@pytest.mark.parametrize("case", CASES)
def test_codes_are_kept(plain: Path, tmp_path: Path, case: str) -> None:
    stored, dense = make_pair(plain, tmp_path, *CASES[case])
    ids = np.random.default_rng(0).integers(3, 300, 50)
    exact = Engine.load(export(dense, "x86-64", "fp32", output=tmp_path / "a")).forward(ids, 50)
    # In fp32 the weights are the dequantised ones to the last bit; in int4 only the activations are rounded.
    same = Engine.load(export(stored, "x86-64", "fp32", output=tmp_path / "b")).forward(ids, 50)
    np.testing.assert_allclose(same, exact, atol=1e-3)
    bundle = export(stored, body_only(), "int4", output=tmp_path / "c")
    kept = Engine.load(bundle).forward(ids, 50)
    assert np.corrcoef(kept.ravel(), exact.ravel())[0, 1] > 0.999
    assert b"MatMulNBits" in bundle.model_path.read_bytes()
    assert bundle.manifest.model.quantized.method == (
        "compressed-tensors" if CASES[case][0] == "compressed" else "gptq" if "gptq" in CASES[case][0] else "awq"
    )


@pytest.mark.parametrize(("method", "name"), [("gptq", "quantize_config.json"), ("awq", "quant_config.json")])
def test_settings_in_a_file_of_their_own(plain: Path, tmp_path: Path, method: str, name: str) -> None:
    """As AutoGPTQ and AutoAWQ wrote them at first."""
    stored, _ = make_pair(plain, tmp_path, method, 4, 32, False)
    expected = export(stored, body_only(), "int4", output=tmp_path / "a").manifest.to_dict()
    config = json.loads((stored / "config.json").read_text())
    settings = config.pop("quantization_config")
    del settings["quant_method"]
    if method == "awq":
        settings["w_bit"], settings["q_group_size"] = settings.pop("bits"), settings.pop("group_size")
    (stored / "config.json").write_text(json.dumps(config))
    (stored / name).write_text(json.dumps(settings))
    found = export(stored, body_only(), "int4", output=tmp_path / "b").manifest.to_dict()
    assert found["files"]["model.onnx.data"] == expected["files"]["model.onnx.data"]
    assert found["model"]["quantized"] == expected["model"]["quantized"]


@pytest.mark.parametrize("case", ["gptq", "compressed-tensors"])
def test_calibration_leaves_the_codes(plain: Path, tmp_path: Path, case: str) -> None:
    stored, _ = make_pair(plain, tmp_path, *CASES[case])
    text = tmp_path / "text.txt"
    text.write_text("Turn on the lamp. " * 400)
    made = [
        export(stored, body_only(), "int4", calibrate=text if wanted else None, output=tmp_path / str(wanted))
        for wanted in (False, True)
    ]
    assert made[0].files["model.onnx.data"] == made[1].files["model.onnx.data"]


def test_a_target_without_the_operator_rounds_again(plain: Path, tmp_path: Path) -> None:
    stored, dense = make_pair(plain, tmp_path, "gptq", 4, 32, False)
    ids = np.random.default_rng(0).integers(3, 300, 50)
    exact = Engine.load(export(dense, "rpi4", "fp32", output=tmp_path / "a")).forward(ids, 50)
    bundle = export(stored, "rpi4", "int8", output=tmp_path / "b")
    assert b"MatMulNBits" not in bundle.model_path.read_bytes()
    assert np.corrcoef(Engine.load(bundle).forward(ids, 50).ravel(), exact.ravel())[0, 1] > 0.99


def test_columns_out_of_order_are_dequantised(plain: Path, tmp_path: Path) -> None:
    """GPTQ's desc_act sorts columns by importance: no block can say it, the values are still right."""
    from safetensors.numpy import load_file, save_file

    stored, dense = make_pair(plain, tmp_path, "gptq", 4, 32, False)
    shuffled, unpacked = load_file(stored / "model.safetensors"), load_file(dense / "model.safetensors")
    name = "model.layers.0.mlp.down_proj"
    order = np.random.default_rng(0).permutation(shuffled[f"{name}.g_idx"])
    codes = unpack(shuffled[f"{name}.qweight"], 4, axis=0).T.astype(int)
    zeros = unpack(shuffled[f"{name}.qzeros"], 4, axis=1).T.astype(int) + 1
    scales = shuffled[f"{name}.scales"].T.astype(np.float32)
    shuffled[f"{name}.g_idx"] = order
    weight = ((codes - zeros[:, order]) * scales[:, order]).astype(np.float32)
    unpacked[f"{name}.weight"] = np.ascontiguousarray(weight)  # save_file writes the buffer, whatever its order
    save_file(shuffled, stored / "model.safetensors")
    save_file(unpacked, dense / "model.safetensors")
    ids = np.random.default_rng(0).integers(3, 300, 50)
    exact = Engine.load(export(dense, "x86-64", "fp32", output=tmp_path / "a")).forward(ids, 50)
    same = Engine.load(export(stored, "x86-64", "fp32", output=tmp_path / "b")).forward(ids, 50)
    np.testing.assert_allclose(same, exact, atol=1e-3)
    Engine.load(export(stored, "x86-64", "int4", output=tmp_path / "c")).forward(ids)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quant_method": "bitsandbytes"}, "'bitsandbytes'"),
        ({"quant_method": "awq", "version": "gemv", "bits": 4}, "gemv"),
        ({"quant_method": "gptq", "bits": 3, "group_size": 32}, "3-bit gptq"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "float-quantized"),
    ],
)
def test_layouts_that_cannot_be_repacked_are_named(
    plain: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    copy = shutil.copytree(plain, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text()) | {"quantization_config": changes}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match=message):
        export(copy, "x86-64", "int4", output=tmp_path / "out")


def test_a_missing_part_is_named(plain: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    stored, _ = make_pair(plain, tmp_path, "awq", 4, 32, False)
    tensors = load_file(stored / "model.safetensors")
    del tensors["model.layers.1.mlp.down_proj.scales"]
    save_file(tensors, stored / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"down_proj\.scales' is missing"):
        export(stored, "x86-64", "int4", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@settings(deadline=None)
@given(bits=st.sampled_from([4, 8]), axis=st.sampled_from([0, 1]), seed=st.integers(0, 1000))
def test_unpacking_undoes_packing(bits: int, axis: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 1 << bits, (16, 24))
    assert (unpack(words(values, bits, axis), bits, axis=axis) == values).all()

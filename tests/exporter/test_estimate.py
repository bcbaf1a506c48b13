"""What a model asks for is told from config.json as the export then finds it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgelm.errors import CheckpointError, UnsupportedModelError
from edgelm.exporter import families
from edgelm.exporter.checkpoint.config import Config, read_json
from edgelm.exporter.pipeline import export
from edgelm.exporter.plan.estimate import of_model
from edgelm.exporter.sizing import workload
from edgelm.forecast.estimate import of_bundle
from edgelm.target.target import load_target

SHAPES: dict[str, dict[str, Any]] = {
    "untied": {"tie_word_embeddings": False},
    "tied": {"tie_word_embeddings": True},
    "qwen3": {"kind": "qwen3", "head_dim": 16},
    "gemma2": {"kind": "gemma2", "head_dim": 16, "sliding_window": 32},
    "gpt2": {"kind": "gpt2", "n_embd": 64, "n_layer": 3, "n_head": 4},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_graph_has_about_as_many_nodes(tiny_checkpoint: Callable[..., Path], tmp_path: Path, shape: str) -> None:
    onnx_ir = pytest.importorskip("onnx_ir")
    checkpoint, board = tiny_checkpoint(**SHAPES[shape]), load_target("rpi5")
    bundle = export(checkpoint, board, "int4", output=tmp_path / "b")
    real = len(onnx_ir.load(bundle.model_path).graph)
    path = checkpoint / "config.json"
    work = workload.of_decoder(families.describe(Config(read_json(path), path)), board.recipe("int4"), board)
    assert work.nodes == pytest.approx(real, rel=0.15)


@pytest.mark.parametrize("quant", ["int4", "int8", "fp32"])
def test_config_json_alone_tells_what_the_bundle_tells(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, quant: str
) -> None:
    checkpoint = tiny_checkpoint(tie_word_embeddings=True)
    bundle = export(checkpoint, "rpi5", quant, output=tmp_path / "b")
    only = tmp_path / "only"
    only.mkdir()
    shutil.copy(checkpoint / "config.json", only)
    told, found = of_model(str(only), load_target("rpi5"), quant, context=128), of_bundle(bundle)
    assert dict(told.memory) == bundle.manifest.memory.to_dict()
    assert told.context == found.context
    for one, other in zip(
        [told.forecast.prefill, *told.forecast.decode], [found.forecast.prefill, *found.forecast.decode], strict=True
    ):
        assert one.tokens_per_second == pytest.approx(other.tokens_per_second, rel=0.2)


def test_what_does_not_fit_and_what_would(make_checkpoint: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(make_checkpoint.PRESETS["smollm2-135m"]))
    found = of_model(str(tmp_path), load_target("rpi-zero2w"), "int8", context=4608)
    assert found.misfit is not None
    assert "needs 443 MB, rpi-zero2w has 304 MB" in found.misfit[0]
    assert "would fit: --context" in found.misfit[1]
    found = of_model(str(tmp_path), load_target("rpi-zero2w"), "int8")
    assert (found.context, found.misfit) == (1024, None)


def test_the_default_model_and_errors(tmp_path: Path) -> None:
    assert of_model(None, load_target("rpi5")).model == "edgelm-home"
    with pytest.raises(CheckpointError, match=r"config.json is missing"):
        of_model(str(tmp_path), load_target("rpi5"))
    (tmp_path / "config.json").write_text('{"model_type": "bloom"}')
    with pytest.raises(UnsupportedModelError, match=r"its speed cannot be told from config.json"):
        of_model(str(tmp_path), load_target("rpi5"))


# Tokens a second of llama.cpp on a Raspberry Pi 5 (ggml-org/llama.cpp issue 26484; Q4_K_M and Q8_0 of these shapes).
PUBLISHED = [
    ("qwen2.5-0.5b-shape", "int4", "prefill", 89),
    ("qwen2.5-0.5b-shape", "int4", "decode", 28.1),
    ("qwen2.5-0.5b-shape", "int8", "prefill", 249),
    ("qwen2.5-0.5b-shape", "int8", "decode", 19.1),
    ("llama3.2-1b", "int4", "decode", 14.4),
]


@pytest.mark.parametrize(("shape", "quant", "what", "published"), PUBLISHED)
def test_what_others_measured_on_a_pi_5_lies_within_the_range(
    make_checkpoint: ModuleType, tmp_path: Path, shape: str, quant: str, what: str, published: float
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(make_checkpoint.PRESETS[shape]))
    found = of_model(str(tmp_path), load_target("rpi5"), quant).forecast
    speed = found.prefill if what == "prefill" else found.decode[0]
    assert speed.range is not None
    assert speed.range[0] < published < speed.range[1]
    if what == "decode":
        assert speed.tokens_per_second == pytest.approx(published, rel=0.1)
    assert found.threads == (2 if shape == "llama3.2-1b" else 3)

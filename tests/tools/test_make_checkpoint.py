"""Checkpoints of true shape with random weights, which measurements of the export are made with."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from edgelm.exporter import families
from edgelm.exporter.pipeline import export

SMALL = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "vocab_size": 300,
    "tie_word_embeddings": True,
}
# Millions of parameters, as the model cards say.
EXECUTORCH: dict[str, tuple[str, float]] = {
    "gemma_config_2b": ("gemma", 2506),
    "gemma2_config_2b": ("gemma2", 2614),
    "gemma3_config_1b": ("gemma3_text", 1000),
    "granite_config_2b": ("granite", 2534),
    "lfm2_config_lfm2_350m": ("lfm2", 354),
    "phi_4_mini_config": ("phi3", 3836),
    "qwen2_5_config_0_5b": ("qwen2", 494),
    "qwen2_5_config_1_5b": ("qwen2", 1544),
    "qwen3_5_config_0_8b": ("qwen3_5_text", 752),
    "qwen3_config_0_6b": ("qwen3", 596),
    "qwen3_config_1_7b": ("qwen3", 1721),
    "smollm2_135M": ("llama", 134.5),
    "smollm3_3b": ("smollm3", 3075),
}


def test_it_exports_and_is_the_same_every_time(make_checkpoint: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    first, second = (make_checkpoint.make(str(tmp_path / "config.json"), tmp_path / name) for name in ("a", "b"))
    name = "model.safetensors"
    assert (first / name).read_bytes() == (second / name).read_bytes()
    assert export(first, "rpi5", "int4", output=tmp_path / "bundle").manifest.graph.tied


def test_every_preset_is_described(make_checkpoint: ModuleType) -> None:
    for preset in make_checkpoint.PRESETS:
        assert families.describe(make_checkpoint.read_config(preset)).parameters > 1e8


def test_every_real_config_is_described(make_checkpoint: ModuleType, data_dir: Path) -> None:
    files = sorted(data_dir.glob("configs/*/config.json"))
    assert len(files) >= 13
    for file in files:
        assert families.describe(make_checkpoint.read_config(str(file))).parameters > 4e8, file


@pytest.mark.parametrize("name", EXECUTORCH)
def test_executorchs_names_for_the_same_facts(make_checkpoint: ModuleType, data_dir: Path, name: str) -> None:
    kind, millions = EXECUTORCH[name]
    file = next(data_dir.glob(f"configs/executorch/{name}*.json"))
    found = families.describe(make_checkpoint.read_config(str(file), kind)).parameters / 1e6
    assert found == pytest.approx(millions, rel=0.002)

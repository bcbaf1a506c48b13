"""One plan for `export`, `inspect` and `estimate`: they take the same context, refuse the same, and know the same bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
from gguf_file import write_gguf

from edgelm.cli import inspect
from edgelm.errors import EdgeLMError, ExportError, UnsupportedModelError
from edgelm.exporter.pipeline import export
from edgelm.exporter.plan.estimate import of_model
from edgelm.exporter.plan.export import ExportPlan, plan_export
from edgelm.exporter.plan.options import ExportOptions
from edgelm.exporter.progress import Progress
from edgelm.exporter.recipe import Choices
from edgelm.target.target import load_target


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint(num_hidden_layers=1, max_position_embeddings=4096)


def inspected(checkpoint: Path, target: str, **options: Any) -> dict[str, Any]:
    given = {"context": None, "kv": None, "prefill": None, **options}
    found: dict[str, Any] = inspect._checkpoint(str(checkpoint), target, **given)["needs"]
    return found


def plan(**options: Any) -> ExportPlan:
    return plan_export(ExportOptions(**options), Progress())


@pytest.mark.parametrize("target", ["rpi5", "rpi-zero2w", "x86-64"])
@pytest.mark.parametrize("options", [{}, {"kv": "int8"}, {"context": 300}, {"prefill": "int8"}])
def test_all_three_tell_the_same(checkpoint: Path, tmp_path: Path, target: str, options: dict[str, Any]) -> None:
    told = inspected(checkpoint, target, **options)
    choices = Choices(options.get("kv"), options.get("prefill"))
    for quant, need in told["quants"].items():
        bundle = export(checkpoint, target, quant, output=tmp_path / quant, **options)
        found = of_model(str(checkpoint), load_target(target), quant, context=options.get("context"), choices=choices)
        assert bundle.context == told["context"] == found.context
        assert bundle.manifest.to_dict()["memory"] == need["memory"] == found.memory
        assert bundle.size == need["bundle_bytes"] == found.bundle_bytes
        assert found.fits is need["fits"] is True


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("gpt2", {"n_embd": 64, "n_layer": 1, "n_head": 4}),
        ("gemma2", {"head_dim": 16, "sliding_window": 32, "num_hidden_layers": 2}),
        ("qwen2", {"num_hidden_layers": 1}),
        ("lfm2", {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]}),
    ],
)
def test_bytes_are_known_without_a_weight(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, kind: str, config: dict[str, Any]
) -> None:
    """Norms, biases, tables of positions and of rotary embeddings, windows, convolutions."""
    folder = tiny_checkpoint(kind, **config)
    for quant in ("int4", "fp32"):
        bundle = export(folder, "rpi5", quant, output=tmp_path / quant, lora_ready=quant == "fp32")
        planned = plan(model=folder, quant=quant, output=tmp_path / "b", lora_ready=quant == "fp32")
        assert planned.model.sizes.weighed(quant, bundle.context).footprint.bundle == bundle.size


def test_a_limit_of_bytes_is_kept_to_the_byte(checkpoint: Path, tmp_path: Path) -> None:
    size = export(checkpoint, "rpi5", "int4", output=tmp_path / "a").size
    assert export(checkpoint, "rpi5", "int4", max_size=size, output=tmp_path / "b").size == size
    with pytest.raises(ExportError, match=r"int4 takes .*, more than --max-size"):
        plan(model=checkpoint, quant="int4", max_size=size - 1, output=tmp_path / "c")
    with pytest.raises(ExportError, match=r"int8 takes") as raised:
        plan(model=checkpoint, quant="int8", max_size=size, output=tmp_path / "c")
    assert (raised.value.hint or "").startswith("--quant int4 takes ")


def test_a_plan_writes_nothing_and_stays_as_it_is(checkpoint: Path, tmp_path: Path) -> None:
    found = plan(model=checkpoint, quant="int4", output=tmp_path / "deep" / "b", calibrate="builtin", lora_ready=False)
    assert list(tmp_path.iterdir()) == []
    assert (found.recipe.quant, found.model.context, found.output) == ("int4", 2048, tmp_path / "deep" / "b")
    assert found.measure is None
    with pytest.raises(FrozenInstanceError):
        found.output = tmp_path  # type: ignore[misc]


@pytest.mark.parametrize("option", ["kv", "prefill"])
def test_what_optimum_cannot_do_is_refused_alike(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, option: str
) -> None:
    folder, said = tiny_checkpoint("bloom"), []
    for attempt in (
        lambda: inspected(folder, "x86-64", **{option: "int8"}),
        lambda: export(folder, "x86-64", output=tmp_path / "b", **{option: "int8"}),
    ):
        with pytest.raises(UnsupportedModelError, match="goes through Optimum, whose graphs") as raised:
            attempt()
        assert raised.value.hint == f"leave out --{option} int8"
        said.append(str(raised.value))
    assert said[0] == said[1]
    assert inspected(folder, "x86-64", **{option: None})["quants"]


def test_a_missing_tensor_is_told_by_inspect_too(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    said = []
    for attempt in (lambda: inspected(folder, "rpi5"), lambda: export(folder, "rpi5", output=tmp_path / "b")):
        with pytest.raises(EdgeLMError, match=r"tensor 'model\.layers\.1\..*' is missing") as raised:
            attempt()
        said.append(str(raised.value))
    assert said[0] == said[1]


def test_only_recipes_that_can_be_are_told(checkpoint: Path, tmp_path: Path) -> None:
    """Of a target that computes in fp16, int8 prefill goes with fp32 alone: neither a list nor a hint stumbles there."""
    target = load_target("rpi5")
    target = replace(target, runtime=replace(target.runtime, activations="fp16"))
    found = plan(model=checkpoint, target=target, quant="fp32", prefill="int8", output=tmp_path / "b")
    assert found.model.sizes.quants == ("fp32",)
    small = replace(target, memory=replace(target.memory, usable_mb=40))
    with pytest.raises(ExportError, match="as fp32 with a context of"):
        plan(model=checkpoint, target=small, quant="fp32", prefill="int8", output=tmp_path / "b")
    with pytest.raises(ExportError, match="--prefill int8 is for targets that compute in fp32 on the CPU"):
        inspected(checkpoint, "jetson-orin-nano", prefill="int8")


def test_an_embedding_that_config_json_does_not_tie(checkpoint: Path, tmp_path: Path) -> None:
    """Where config.json leaves out whether the head is the embedding, the headers say it, to an estimate as well."""
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    config.pop("tie_word_embeddings", None)
    (folder / "config.json").write_text(json.dumps(config))
    bundle = export(folder, "rpi5", "int8", output=tmp_path / "b")
    assert of_model(str(folder), load_target("rpi5"), "int8").memory == bundle.manifest.to_dict()["memory"]


def test_a_gguf_file_is_planned_like_a_folder(checkpoint: Path, tmp_path: Path) -> None:
    file = write_gguf(checkpoint, tmp_path / "model.gguf")
    bundle = export(file, "rpi5", "int8", output=tmp_path / "b")
    need, found = inspected(file, "rpi5")["quants"]["int8"], of_model(str(file), load_target("rpi5"), "int8")
    assert bundle.manifest.to_dict()["memory"] == need["memory"] == found.memory
    assert bundle.size == need["bundle_bytes"] == found.bundle_bytes

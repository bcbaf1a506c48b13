"""Everything an export can be asked for at once: each keeps its promise beside the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_lora import SHAPES, write_adapter

import edgelm
from edgelm.bundle.reader import LORA, Bundle
from edgelm.evaluate.card import compare
from edgelm.evaluate.passages import load_passages
from edgelm.exporter.lora_adapter import export_adapter
from edgelm.exporter.mixed import sensitivity
from edgelm.exporter.pipeline import export

TEXT = "the quick brown fox jumps over the lazy dog. " * 300


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "domain.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint(num_hidden_layers=2)


@pytest.fixture(scope="module")
def made(checkpoint: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sensitivity, "_TOKENS", 512)
        return export(
            checkpoint,
            "rpi5",
            "auto",
            trim_vocab=text,
            calibrate=text,
            kv="int8",
            lora_ready=True,
            output=tmp_path_factory.mktemp("together") / "b",
        )


def test_the_manifest_tells_all_of_it(made: Bundle) -> None:
    manifest = made.manifest.to_dict()
    assert manifest["mixed"]["budget"] == {}, "the size of the default recipe"
    assert manifest["graph"]["vocab"] == manifest["vocabulary"]["tokens"] < manifest["vocabulary"]["of"]
    assert manifest["graph"]["lora_places"] == len(manifest["recipe"]["matrices"]) == 8
    assert manifest["recipe"]["kv"] == {"op": "GroupQueryAttention", "bits": 8}
    assert manifest["kv_calibration"]["text"] == manifest["calibration"]["text"]
    assert "smoothed" not in manifest["calibration"], "an adapter would not know of it"
    assert LORA in made.files


def test_it_generates_and_takes_adapters(made: Bundle, tmp_path: Path) -> None:
    lora = export_adapter(write_adapter(tmp_path / "peft", SHAPES), made.path, output=tmp_path / "lora.safetensors")
    with edgelm.load(made.path, threads=1) as lm:
        plain, adapted, again = (
            lm.generate("the quick brown", max_tokens=20, raw=True, adapter=adapter).tokens
            for adapter in (None, lora, None)
        )
    assert plain == again != adapted
    assert 0 < len(plain) <= 20
    assert max(plain) < made.manifest.graph.vocab


def test_it_loses_what_its_weights_lose(made: Bundle, checkpoint: Path, text: Path, tmp_path: Path) -> None:
    """Against fp32 no more than the target's int4, and int8 keys and values hardly anything beside it."""
    options: dict[str, Any] = {"trim_vocab": text, "calibrate": text, "card": "none"}
    base = export(checkpoint, "rpi5", "fp32", trim_vocab=text, output=tmp_path / "fp32")
    int4 = export(checkpoint, "rpi5", "int4", output=tmp_path / "int4", **options)
    floats = export(
        checkpoint, "rpi5", recipe=made.path, kv="float", lora_ready=True, output=tmp_path / "floats", **options
    )
    passages = load_passages(text, "evaluation")
    assert floats.manifest.recipe.kv.spec.op == "none"
    lost, lost_in_int4 = (compare(base, bundle, passages, chunks=4).mean for bundle in (made, int4))
    assert lost < 1.05 * lost_in_int4
    assert compare(floats, made, passages, chunks=4).mean < 0.002


def test_a_replay_gives_the_same_bytes(made: Bundle, checkpoint: Path, text: Path, tmp_path: Path) -> None:
    again = export(
        checkpoint,
        "rpi5",
        recipe=made.path,
        trim_vocab=text,
        calibrate=text,
        lora_ready=True,
        output=tmp_path / "b",
    )
    assert {e.name: e.read_bytes() for e in again.path.iterdir()} == {
        e.name: e.read_bytes() for e in made.path.iterdir()
    }


def test_a_budget_is_kept_to_the_byte(made: Bundle, checkpoint: Path, text: Path, tmp_path: Path) -> None:
    """What is weighed counts places for adapters, lora.json and the scales of an int8 KV cache."""
    options = {"trim_vocab": text, "kv": "int8", "lora_ready": True, "card": "none"}
    least = export(checkpoint, "rpi5", "auto", max_size=made.size, output=tmp_path / "b", **options)
    again = export(checkpoint, "rpi5", "auto", max_size=least.size, output=tmp_path / "c", **options)
    assert again.size == least.size

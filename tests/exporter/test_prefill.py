"""The prefill graph: near transformers in every family, whatever the pieces; and what it takes is told."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from parity import pairs, reference, some_ids
from test_adapter import modules_of
from test_kvscales import SHAPES
from test_lora import write_adapter

from edgelm.bundle.reader import DATA, MODEL, PREFILL, PREFILL_DATA, Bundle
from edgelm.errors import ExportError, OptionError, TargetError, UnsupportedModelError
from edgelm.exporter import families, native, recipe
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.graph import prefill
from edgelm.exporter.lora_adapter import export_adapter
from edgelm.exporter.pipeline import export
from edgelm.exporter.plan.estimate import of_model
from edgelm.exporter.recipe import Choices, GraphPlan
from edgelm.exporter.sizing import footprint
from edgelm.exporter.sizing.preflight import Sizes, misfit
from edgelm.forecast.cost_model import from_manifest
from edgelm.forecast.estimate import of_bundle
from edgelm.machine.host import CpuInfo, read_cpu
from edgelm.runtime.engine import Engine
from edgelm.runtime.lm import load
from edgelm.runtime.lora_adapter import RuntimeAdapter
from edgelm.target.fallback import exact_int8
from edgelm.target.target import load_target

PROMPT = 70  # of the ids; the others are decoded


@pytest.fixture(autouse=True, scope="module")
def used_everywhere() -> Iterator[None]:
    """The prefill graph reads prompts on processors, too, where int8 is exact but not faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgelm.runtime.ort.bundle_sessions.exact_int8", lambda cpu: True)
        yield


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny model in fp32, with int8 prefill."""
    return export(tiny_checkpoint(), "x86-64", "fp32", prefill="int8", output=tmp_path_factory.mktemp("prefill") / "b")


pair = pairs(SHAPES, options={"prefill": "int8"})


def read(engine: Engine, ids: np.ndarray, *pieces: int) -> np.ndarray:
    """The logits behind a prompt, in pieces of these sizes, and behind each id after it."""
    engine.reset()
    start = 0
    for size in pieces:
        found = engine.forward(ids[start : start + size], int(start + size == sum(pieces)))
        start += size
    return np.concatenate([found.copy(), *(engine.forward(ids[i : i + 1]).copy() for i in range(start, len(ids)))])


def test_near_transformers(pair: tuple[Engine, Any]) -> None:
    engine, model = pair
    ids = some_ids()
    found, expected = read(engine, ids, PROMPT), reference(model, ids)[PROMPT - 1 :]
    assert float(np.corrcoef(found.ravel(), expected.ravel())[0, 1]) > 0.99
    assert not np.allclose(found, expected, atol=1e-6), "the prompt was not read by int8 matrices"


def test_any_pieces_give_nearly_the_same_logits(pair: tuple[Engine, Any]) -> None:
    engine, ids = pair[0], some_ids()
    whole, pieces = read(engine, ids, PROMPT), read(engine, ids, 33, 37)
    assert float(np.corrcoef(whole.ravel(), pieces.ravel())[0, 1]) > 0.995


def test_after_a_rewind(pair: tuple[Engine, Any]) -> None:
    engine, ids = pair[0], some_ids()
    whole = read(engine, ids, PROMPT)
    engine.reset()
    engine.forward(ids[::-1])
    engine.rewind(0)
    engine.forward(ids[:PROMPT])
    engine.forward(ids[::-1][:20])
    engine.rewind(PROMPT)
    found = np.concatenate([engine.forward(ids[i : i + 1]).copy() for i in range(PROMPT, len(ids))])
    assert float(np.corrcoef(found.ravel(), whole[1:].ravel())[0, 1]) > 0.995


def test_few_tokens_and_logits_are_the_other_graphs(bundle: Bundle, tiny_bundle: Bundle) -> None:
    ids = some_ids()
    engines = [Engine.load(each, threads=1) for each in (bundle, tiny_bundle)]
    for count in (1, 20, 32):
        found, expected = (read(engine, ids[:40], count) for engine in engines)
        np.testing.assert_array_equal(found, expected)
    for engine in engines:
        engine.reset()
    np.testing.assert_array_equal(*(engine.forward(ids, len(ids)) for engine in engines))


def test_no_logits_where_none_are_wanted(bundle: Bundle, tiny_bundle: Bundle) -> None:
    for each in (bundle, tiny_bundle):
        engine = Engine.load(each, threads=1)
        assert engine.forward(some_ids(), 0).shape == (0, engine.vocab_size)
        assert engine.position == 100
        assert engine.forward([5], 0).shape == (0, engine.vocab_size)
        assert engine.position == 101


def test_a_whole_generation(bundle: Bundle) -> None:
    with load(bundle.path, threads=1) as lm:
        prompt = "the quick brown fox jumps over the lazy dog " * 2
        first = lm.generate(prompt, raw=True, max_tokens=12, temperature=0)
        assert lm.generate(prompt, raw=True, max_tokens=12, temperature=0).text == first.text
        assert first.usage.prompt_tokens > 40


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells where files are mapped")
def test_only_the_weights_at_work_stand_in_memory(bundle: Bundle, resident: Callable[[Path], int]) -> None:
    engine, ids = Engine.load(bundle, threads=1), some_ids()
    first = read(engine, ids, PROMPT)
    assert resident(bundle.path / PREFILL_DATA) == 0
    assert len(engine.model._opened().prompt_pages) > 0 or not exact_int8(read_cpu())
    np.testing.assert_array_equal(read(engine, ids, PROMPT), first)


def test_not_used_where_int8_products_overflow(
    bundle: Bundle, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgelm.runtime.ort.bundle_sessions.exact_int8", lambda cpu: False)
    found, expected = (read(Engine.load(each, threads=1), some_ids(), PROMPT) for each in (bundle, tiny_bundle))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("arch", "features", "exact"),
    [
        ("aarch64", {"asimd"}, True),
        ("aarch64", None, True),
        ("x86_64", {"avx2"}, False),
        ("x86_64", None, False),
        ("x86_64", {"avx2", "avx_vnni"}, True),
        ("x86_64", {"avx512f", "avx512_vnni"}, True),
    ],
)
def test_which_cores_multiply_int8_exactly(arch: str, features: set[str] | None, exact: bool) -> None:
    known = None if features is None else frozenset(features)
    cpu = CpuInfo(arch=arch, model=None, features=known, cores=(), allowed=(), quota=None)
    assert exact_int8(cpu) is exact


def test_adapters_reach_both_graphs(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint()
    peft = write_adapter(tmp_path / "adapter", modules_of(checkpoint))
    base = export(checkpoint, "x86-64", "fp32", lora_ready=True, prefill="int8", output=tmp_path / "base")
    merged = export(checkpoint, "x86-64", "fp32", adapter=peft, output=tmp_path / "merged")
    ids, engine = some_ids(), Engine.load(base, threads=1)
    plain = read(engine, ids, PROMPT)
    engine.adapt(RuntimeAdapter.open(export_adapter(peft, base.path)))
    found, expected = read(engine, ids, PROMPT), read(Engine.load(merged, threads=1), ids, PROMPT)
    assert float(np.corrcoef(found.ravel(), expected.ravel())[0, 1]) > 0.99
    assert float(np.corrcoef(plain.ravel(), expected.ravel())[0, 1]) < 0.95


def test_it_shares_all_but_its_matrices(bundle: Bundle) -> None:
    graph = ir.load(bundle.path / PREFILL).graph
    inputs, outputs = ({str(value.name) for value in values} for values in (graph.inputs, graph.outputs))
    assert "num_logits" not in inputs
    assert "logits" not in outputs
    places: dict[str, set[str]] = {DATA: set(), PREFILL_DATA: set()}
    for name, value in graph.initializers.items():
        if isinstance(value.const_value, ir.ExternalTensor):
            places[str(value.const_value.location)].add(name)
    assert {"model.embed_tokens.qweight", "model.embed_tokens.weight"} & places[DATA], sorted(places[DATA])
    assert {name.rpartition(".")[2] for name in places[PREFILL_DATA]} == {"qweight", "scales"}
    assert not any(".2.mlp." in name for name in places[PREFILL_DATA]), "the last feed-forward is for logits alone"


@pytest.mark.parametrize("quant", ["int4", "int8", "fp32"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_its_size_is_known_before(kind: str, quant: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint, target = Checkpoint(tiny_checkpoint(kind)), load_target("x86-64")
    decoder = families.describe(checkpoint.config)
    spec = recipe.with_prefill(target.recipe(quant), "int8", target)
    made = export(checkpoint.path, target, quant, prefill="int8", context=64, output=tmp_path / "b")
    sizes = {name: int(made.files[name].bytes) for name in (MODEL, DATA, PREFILL, PREFILL_DATA)}
    told = footprint.of_decoder(decoder, spec, target)
    count = 2 * len(prefill.linears(decoder))
    assert 0 <= sizes[PREFILL_DATA] - told.prefill < 4096 * count
    assert native.weigh(GraphPlan(decoder, spec, target, 64)) == sum(sizes.values())
    memory = made.manifest.to_dict()["memory"]
    plain = footprint.of_decoder(decoder, target.recipe(quant), target).device(64)
    assert memory["prefill_bytes"] == told.prefill
    assert memory["total_bytes"] == plain.total_bytes + memory["passing_bytes"]


def test_the_manifest_says_so_and_replays(bundle: Bundle, tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    assert bundle.manifest.to_dict()["recipe"]["prefill"] == {"op": "DynamicQuantizeMatMul", "bits": 8}
    again = export(tiny_checkpoint(), "x86-64", recipe=bundle.path, output=tmp_path / "again")
    assert {n: f.sha256 for n, f in again.files.items()} == {n: f.sha256 for n, f in bundle.files.items()}
    without = export(tiny_checkpoint(), "x86-64", recipe=bundle.path, prefill="same", output=tmp_path / "without")
    assert PREFILL not in without.files
    assert without.prefill_path is None


def test_a_forecast_knows_it(bundle: Bundle, tiny_bundle: Bundle, tiny_checkpoint: Callable[..., Path]) -> None:
    assert not from_manifest(tiny_bundle.manifest).prefill
    [matrices] = from_manifest(bundle.manifest).prefill
    assert matrices.nbytes == bundle.manifest.to_dict()["memory"]["prefill_bytes"]
    target = load_target("x86-64")
    plain, own = (of_model(None, target, "int4", choices=Choices(prefill=kind)) for kind in ("same", "int8"))
    assert own.forecast.decode[0].tokens_per_second == plain.forecast.decode[0].tokens_per_second
    more = own.memory["total_bytes"] - plain.memory["total_bytes"]
    assert more == own.memory["passing_bytes"] > 0
    told = of_bundle(bundle, target).forecast
    assert told.ttft_seconds > 0


def test_large_models_gain_by_a_forecast(make_checkpoint: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(make_checkpoint.PRESETS["qwen2.5-0.5b"]))
    target = load_target("x86-64")
    plain, own = (
        of_model(str(tmp_path), target, "int4-fast", choices=Choices(prefill=kind)).forecast
        for kind in ("same", "int8")
    )
    assert own.prefill.tokens_per_second > 1.3 * plain.prefill.tokens_per_second


def test_what_does_not_fit_would_without(tiny_checkpoint: Callable[..., Path]) -> None:
    decoder, target = families.describe(Checkpoint(tiny_checkpoint()).config), load_target("x86-64")
    large = dataclasses.replace(decoder, layers=decoder.layers * 40)
    without = footprint.of_decoder(large, target.recipe("int4"), target).device(128).total_bytes
    memory = dataclasses.replace(target.memory, usable_mb=(without >> 20) + 1)
    small = dataclasses.replace(target, memory=memory)
    plan = Sizes("m", small, lambda spec: footprint.of_decoder(large, spec, small), recipe.Choices(prefill="int8"))
    found = misfit(plan, plan.need("int4", 128))
    assert found is not None
    assert "--prefill same" in found[1]


def test_what_cannot_be_is_told(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint()
    with pytest.raises(OptionError, match="prefill must be same or int8, not 'int4'"):
        export(checkpoint, "rpi5", prefill="int4", output=tmp_path / "b")  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="--prefill int8 is for targets that compute in fp32 on the CPU"):
        export(checkpoint, "jetson-orin-nano", prefill="int8", output=tmp_path / "b")
    with pytest.raises(UnsupportedModelError, match="goes through Optimum, whose graphs prefill as they decode"):
        export(checkpoint, "rpi5", prefill="int8", exporter="optimum", output=tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_a_target_may_choose_it(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "targets" / "x86-64.toml").read_text()
    line = 'kv = { op = "none", bits = 32 }\n'
    own = tmp_path / "own.toml"
    own.write_text(text.replace(line, line + 'prefill = { op = "DynamicQuantizeMatMul", bits = 8 }\n', 1))
    assert PREFILL in export(tiny_checkpoint(), own, output=tmp_path / "b").files
    assert PREFILL not in export(tiny_checkpoint(), own, prefill="same", output=tmp_path / "c").files
    own.write_text(text.replace(line, line + 'prefill = { op = "MatMulNBits", bits = 4 }\n', 1))
    with pytest.raises(TargetError, match=re.escape("recipe.int4.prefill.op")):
        load_target(own)

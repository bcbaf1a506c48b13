"""Keys and values kept as int8: the same text, whatever the pieces it is read in; a quarter of the memory."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from parity import agreement, load_model, some_ids

from edgelm.bundle.reader import DATA, Bundle
from edgelm.errors import ExportError, OptionError, TargetError, UnsupportedModelError
from edgelm.evaluate.card import compare
from edgelm.evaluate.passages import load_passages
from edgelm.exporter import families, recipe
from edgelm.exporter.calibration import kvscales
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.graph.attention import rope_tables
from edgelm.exporter.model.rope import Rope, RopeScaling
from edgelm.exporter.pipeline import export
from edgelm.exporter.plan.estimate import of_model
from edgelm.exporter.recipe import Choices
from edgelm.exporter.sizing import footprint
from edgelm.exporter.sizing.preflight import Sizes, misfit
from edgelm.forecast.cost_model import from_manifest
from edgelm.forecast.estimate import of_bundle
from edgelm.runtime.engine import Engine
from edgelm.runtime.lm import LM, load
from edgelm.target.target import load_target

# Heads that are padded, normed, half rotated, not rotated, rotated in pairs; windows, soft caps, gates, other layers.
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {},
    "head-dim-8": {"num_attention_heads": 8},
    "gpt2": {"kind": "gpt2"},
    "gpt_neox": {"kind": "gpt_neox"},
    "qwen3": {"kind": "qwen3", "head_dim": 32},
    "cohere2": {"kind": "cohere2", "sliding_window": 16, "sliding_window_pattern": 2, "pad_token_id": 0},
    "mistral": {"kind": "mistral", "sliding_window": 16},
    "phi3": {
        "kind": "phi3",
        "partial_rotary_factor": 0.75,
        "rope_scaling": {"type": "longrope", "short_factor": [1.1] * 6, "long_factor": [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]},
        "original_max_position_embeddings": 32,
    },
    "gemma2": {
        "kind": "gemma2",
        "head_dim": 32,
        "query_pre_attn_scalar": 24,
        "attn_logit_softcapping": 3.0,
        "sliding_window": 16,
        "pad_token_id": 0,
    },
    "lfm2": {"kind": "lfm2", "layer_types": ["conv", "full_attention", "conv"], "block_auto_adjust_ff_dim": False},
}


@pytest.fixture(scope="module", params=SHAPES)
def pair(
    request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Engine, Path]:
    """(Engine of a bundle with fp32 weights and an int8 cache, the checkpoint)."""
    checkpoint = tiny_checkpoint(**SHAPES[request.param])
    output = tmp_path_factory.mktemp("kv") / "b"
    return Engine.load(export(checkpoint, "x86-64", "fp32", kv="int8", output=output), threads=1), checkpoint


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(tiny_checkpoint(), "x86-64", "fp32", kv="int8", output=tmp_path_factory.mktemp("kv") / "b")


def test_near_transformers(pair: tuple[Engine, Path]) -> None:
    found = agreement(pair[0], load_model(pair[1]), some_ids())
    assert found.correlation > 0.98


def test_any_pieces_give_the_same_logits(pair: tuple[Engine, Path]) -> None:
    engine, ids = pair[0], some_ids()
    engine.reset()
    whole = engine.forward(ids, len(ids)).copy()
    engine.reset()
    pieces = [engine.forward(part, len(part)).copy() for part in np.split(ids, [1, 30, 31, 32, 77])]
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=2e-3 * np.ptp(whole))
    engine.rewind(40)
    np.testing.assert_allclose(engine.forward(ids[40:], 60), whole[40:], atol=2e-3 * np.ptp(whole))


def test_a_quarter_of_the_bytes(bundle: Bundle, tiny_bundle: Bundle) -> None:
    sizes = []
    for each in (tiny_bundle, bundle):
        engine = Engine.load(each, threads=1)
        engine.forward(np.full(100, 5))
        memory = each.manifest.to_dict()["memory"]
        assert engine.cache_bytes == memory["kv_bytes"] == 128 * memory["kv_bytes_per_token"]
        sizes.append((engine.cache_bytes, memory["total_bytes"]))
    assert sizes[1][0] * 4 == sizes[0][0]
    assert sizes[0][1] - sizes[1][1] == sizes[0][0] - sizes[1][0]


def test_the_manifest_and_the_graph_say_so(bundle: Bundle) -> None:
    assert bundle.manifest.to_dict()["recipe"]["kv"] == {"op": "GroupQueryAttention", "bits": 8}
    facts = bundle.manifest.to_dict()["kv_calibration"]
    assert facts["text"]["name"] == "builtin"
    assert facts["tokens"] == kvscales.TOKENS
    graph = ir.load(bundle.model_path).graph
    past = [value for value in graph.inputs if str(value.name).startswith("past_key_values")]
    assert {value.dtype for value in past} == {ir.DataType.INT8}
    for name, value in graph.initializers.items():
        if name.endswith(("k_scale", "v_scale")):
            assert value.const_value is not None
            assert value.const_value.shape == [1, 2, 1, 16]
            assert (value.const_value.numpy() > 0).all()


def test_its_size_is_known_before(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(num_key_value_heads=4, head_dim=128)
    decoder, target = families.describe(Checkpoint(checkpoint).config), load_target("x86-64")
    spec = recipe.with_kv(target.recipe("int8"), "int8", target)
    grown = [
        export(checkpoint, target, "int8", kv=kv, output=tmp_path / kv).files[DATA].bytes for kv in ("float", "int8")
    ]
    told = [footprint.of_decoder(decoder, each, target).stored for each in (target.recipe("int8"), spec)]
    assert told[1] - told[0] == 3 * 2 * 4 * 128 * 4 == grown[1] - grown[0]


def test_a_forecast_reads_fewer_bytes_and_multiplies_as_often(bundle: Bundle, tiny_bundle: Bundle) -> None:
    small, large = (from_manifest(each.manifest).attention[0] for each in (bundle, tiny_bundle))
    assert small.pair == large.pair
    assert small.kv_bytes * 4 == large.kv_bytes
    assert of_bundle(bundle).memory["kv_bytes"] == bundle.manifest.memory.kv_bytes


def test_an_estimate_knows_it(tiny_checkpoint: Callable[..., Path]) -> None:
    checkpoint = str(tiny_checkpoint())
    plain, small = (of_model(checkpoint, load_target("rpi5"), choices=Choices(kv=kv)) for kv in (None, "int8"))
    assert small.memory["kv_bytes"] * 4 == plain.memory["kv_bytes"]


def test_what_does_not_fit_is_told_that_it_would() -> None:
    from test_preflight import board, decoder

    target, model = board("rpi5", 300), decoder()
    plan = Sizes("model", target, lambda spec: footprint.of_decoder(model, spec, target))
    small, large = plan.need("int4", 512).device.total_bytes, plan.need("int4", 4096).device.total_bytes
    between = dataclasses.replace(target.memory, usable_mb=(small + (large - small) // 2) >> 20)
    plan = dataclasses.replace(plan, target=dataclasses.replace(target, memory=between))
    found = misfit(plan, plan.need("int4", 4096))
    assert found is not None
    assert ", or --kv int8, or" in found[1]


def test_greedy_text_sessions_files_and_speculation_agree(bundle: Bundle, tmp_path: Path) -> None:
    options: dict[str, Any] = {"temperature": 0.0, "max_tokens": 30, "raw": True}
    prompt = "the cat sat on the mat, the cat sat on the mat, the cat"
    with load(bundle.path) as lm:
        expected = lm.generate(prompt, reuse_cache=False, speculate="off", **options).text
        assert lm.generate(prompt, speculate="auto", **options).text == expected
        with lm.session() as session:
            session.prefill(prompt[:20], raw=True)
            assert session.generate(prompt, **options).text == expected
            session.save(tmp_path / "cache")
    with load(bundle.path) as again, again.session() as session:
        session.load(tmp_path / "cache")
        assert len(session.tokens) > len(prompt)
        assert session.generate(prompt, **options).text == expected
    size = (tmp_path / "cache").stat().st_size
    assert size < 2 * bundle.manifest.memory.kv_bytes + (64 << 10)


def test_a_ceiling_on_memory_allows_more_tokens(bundle: Bundle, tiny_bundle: Bundle) -> None:
    memory = tiny_bundle.manifest.to_dict()["memory"]
    ceiling = (memory["total_bytes"] - memory["kv_bytes"] // 4) / 1e6
    assert Engine.load(tiny_bundle, max_memory_mb=ceiling).context == 96
    assert Engine.load(bundle, max_memory_mb=ceiling).context == 128


@pytest.mark.parametrize("kind", ["plain", "yarn", "interleaved"])
def test_keys_turned_on_are_the_keys_of_later_places(kind: str) -> None:
    scaling = (
        RopeScaling(kind="yarn", factor=4.0, original_context=64, attention_factor=1.3) if kind == "yarn" else None
    )
    rope = Rope(32, 1e4, scaling, interleaved=kind == "interleaved")
    keys = np.random.default_rng(0).standard_normal((1, 2, 8, 48)).astype(np.float32)

    def rotated(first: int) -> np.ndarray:
        cos, sin = (table[first : first + 8] for table in rope_tables(rope, 200))
        a, b = (slice(0, 32, 2), slice(1, 32, 2)) if rope.interleaved else (slice(0, 16), slice(16, 32))
        out = keys.copy()
        out[..., a] = keys[..., a] * cos - keys[..., b] * sin
        out[..., b] = keys[..., b] * cos + keys[..., a] * sin
        return out

    turned = kvscales.turn(rotated(0), rope, 200)
    np.testing.assert_allclose(turned[0], rotated(0), atol=1e-5)
    np.testing.assert_allclose(turned[-1], rotated(192), atol=1e-4)


def test_stories_lose_little(data_dir: Path, tmp_path: Path) -> None:
    """Against fp32 keys and values, the weights being the same; steps are found on the beginning of the text."""
    story = (data_dir / "tinystories" / "tinystories_sample_2MiB.txt").read_text(encoding="utf-8", errors="ignore")
    first, end = tmp_path / "first.txt", tmp_path / "end.txt"
    first.write_text(story[:100_000])
    end.write_text(story[-50_000:])
    model = data_dir / "stories260K"
    base = export(model, "x86-64", "int8", output=tmp_path / "float")
    small = export(model, "x86-64", "int8", kv="int8", calibrate=first, output=tmp_path / "int8")
    found = compare(base, small, load_passages(str(end), "evaluation"), chunks=4)
    assert 0 < found.mean < 0.01  # 4-bit weights cost 0.1
    assert found.same_top > 0.94
    with load(base.path) as lm, load(small.path) as other:
        texts = [_story(each) for each in (lm, other)]
    assert all("Lily" in text for text in texts)


def _story(lm: LM) -> str:
    return lm.generate("Once upon a time", max_tokens=40, temperature=0.0, raw=True).text


def test_a_card_measures_it_even_with_exact_weights(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    card = export(tiny_checkpoint(), "x86-64", "fp32", kv="int8", card="auto", output=tmp_path / "b").quality
    assert card is not None
    assert card["recipe"]["kv"]["bits"] == 8
    assert card["kld"]["mean"] > 0


def test_a_recipe_can_ask_for_it(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    text = Path(__file__).parents[2].joinpath("targets", "rpi5.toml").read_text()
    int8 = 'kv = { op = "GroupQueryAttention", bits = 8 }'
    own.write_text(re.sub(r"^kv = .*$", int8, text, flags=re.MULTILINE))
    bundle = export(tiny_checkpoint(), own, output=tmp_path / "b")
    assert bundle.manifest.recipe.kv.spec.bits == 8
    plain = export(tiny_checkpoint(), own, kv="float", output=tmp_path / "c")
    assert plain.manifest.to_dict()["recipe"]["kv"] == {"op": "none", "bits": 32}
    own.write_text(
        text.replace('provider = "cpu"', 'provider = "cuda"').replace('{ op = "none", bits = 32 }', int8[5:])
    )
    with pytest.raises(TargetError, match=r"kv\.op must be 'none' for provider 'cuda'"):
        load_target(own)


def test_what_cannot_be(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint()
    with pytest.raises(OptionError, match="kv must be float or int8, not 'int4'"):
        export(checkpoint, "rpi5", kv="int4", output=tmp_path / "b")  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="for targets that compute on the CPU"):
        export(checkpoint, "jetson-orin-nano", kv="int8", output=tmp_path / "b")
    pytest.importorskip("optimum")
    with pytest.raises(UnsupportedModelError, match="goes through Optimum") as raised:
        export(checkpoint, "rpi5", kv="int8", exporter="optimum", output=tmp_path / "b")
    assert raised.value.hint == "leave out --kv int8"
    assert list(tmp_path.iterdir()) == []

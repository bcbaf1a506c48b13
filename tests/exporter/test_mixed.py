"""``--quant auto``: budgets are kept, what is chosen is better than one format for all, and recipes are replayed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelm.bundle.reader import Bundle
from edgelm.errors import EdgeLMError
from edgelm.evaluate.card import compare
from edgelm.evaluate.passages import load_passages
from edgelm.exporter import families, native
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.mixed import auto, recipes, sensitivity
from edgelm.exporter.mixed.replay import read_replay
from edgelm.exporter.model.weights import WeightReader
from edgelm.exporter.pipeline import export
from edgelm.exporter.progress import Progress
from edgelm.exporter.recipe import GraphPlan, is_mixture, named
from edgelm.exporter.tokenizer.text_files import read_text
from edgelm.forecast.cost_model import from_manifest
from edgelm.runtime.engine import Engine
from edgelm.target.target import FormatSpec, Target, load_all, load_target

SIZE = 90_000  # bytes of the tiny model: between the smallest and the best
WORK = json.loads((Path(__file__).parents[2] / "docs" / "notes" / "work.json").read_text())
# Each has something of its own: an embedding beside the head, one tied to it, learned positions, a convolution.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"num_hidden_layers": 1},
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 24, "final_logit_softcapping": 5.0, "num_hidden_layers": 1},
    "gpt2": {"n_layer": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2, "block_auto_adjust_ff_dim": False},
}


def contents(bundle: Bundle) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in bundle.path.iterdir()}


@pytest.fixture(scope="module", autouse=True)
def _little_text() -> Iterator[None]:
    """A tiny model's matrices need no more; the figures do not matter here, but for the tests on a real model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sensitivity, "_TOKENS", 512)
        yield


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint(num_hidden_layers=1)


@pytest.fixture(scope="module")
def made(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Chosen by size, calibrated."""
    output = tmp_path_factory.mktemp("mixed") / "b"
    return export(checkpoint, "rpi5", "auto", max_size=SIZE, calibrate="builtin", output=output)


@pytest.mark.parametrize("target", [t for t in load_all() if t.cpu.core in WORK["cores"]], ids=lambda t: t.name)
def test_no_format_on_offer_falls_back_on_its_core(target: Target) -> None:
    work = WORK["cores"][target.cpu.core]
    specs = [format.spec for format in recipes.formats_of(target, floats=True)]
    told = [name for spec in specs if (name := str(replace(spec, half_scales=None))) in work]
    assert all(work[name]["decode"] <= 2 * work["MatMul 32-bit"]["decode"] for name in told)
    assert {4, 8} <= {spec.bits for spec in specs} or not target.has_dotprod


def test_what_gptq_will_leave_counts_where_the_bundle_is_calibrated(data_dir: Path, tmp_path: Path) -> None:
    """4 bits lose less then, of each matrix another share; the head, which is measured as it is, loses the same."""
    source, board = Checkpoint(data_dir / "stories260K"), load_target("x86-64")
    decoder = families.describe(source.config)
    offer = recipes.choices(decoder, board)
    text = (data_dir / "tinystories" / "tinystories_sample_2MiB.txt").read_text(encoding="utf-8", errors="ignore")
    ids = np.array(read_text(source.path, source.config).tokenizer.encode(text[:12_000]).ids, np.int64)
    chunks = list(ids[: len(ids) // 256 * 256].reshape(-1, 256)[:8])
    found = {
        rounds: sensitivity.measure(WeightReader(source), decoder, offer, chunks, tmp_path, Progress(), rounds=rounds)
        for rounds in (False, True)
    }
    smallest = [[losses[m.name][0] for m in decoder.linears] for losses in (found[True], found[False])]
    assert sum(smallest[0]) < 0.8 * sum(smallest[1])
    shares = np.divide(*smallest)
    assert shares.max() > 1.5 * shares.min()
    assert found[True]["lm_head"] == pytest.approx(found[False]["lm_head"], rel=1e-3)


def test_between_two_recipes_it_is_better_than_either_way_of_sharing_them(data_dir: Path, tmp_path: Path) -> None:
    """Below the straight line from int4 to int8, which is what a random choice of matrices would reach."""
    model = data_dir / "stories260K"
    text = (data_dir / "tinystories" / "tinystories_sample_2MiB.txt").read_text(encoding="utf-8", errors="ignore")
    end = tmp_path / "end.txt"
    end.write_text(text[-60_000:])
    base = export(model, "rpi5", "fp32", output=tmp_path / "fp32")

    def kld(bundle: Bundle) -> float:
        return compare(base, bundle, load_passages(end, "evaluation"), chunks=12).mean

    int4, int8 = (export(model, "rpi5", quant, output=tmp_path / quant) for quant in ("int4", "int8"))
    half = export(model, "rpi5", "auto", max_size=(int4.size + int8.size) // 2, output=tmp_path / "half")
    assert half.size <= (int4.size + int8.size) // 2
    assert kld(half) < 0.75 * (kld(int4) + kld(int8)) / 2


@pytest.mark.slow
def test_a_limit_of_kld_is_met_with_fewer_bytes(data_dir: Path, tmp_path: Path) -> None:
    """Near int8, whose rows have a scale for each token, but smaller."""
    model = data_dir / "stories260K"
    text = (data_dir / "tinystories" / "tinystories_sample_2MiB.txt").read_text(encoding="utf-8", errors="ignore")
    end = tmp_path / "end.txt"
    end.write_text(text[-60_000:])
    int8 = export(model, "rpi5", "int8", card=end, output=tmp_path / "int8")
    assert int8.quality is not None
    limit = 2 * int8.quality["kld"]["mean"]
    good = export(model, "rpi5", "auto", max_kld=limit, card=end, output=tmp_path / "good")
    assert good.quality is not None
    assert good.quality["kld"]["mean"] <= limit
    assert good.files["model.onnx.data"].bytes < int8.files["model.onnx.data"].bytes


def test_the_manifest_tells_what_was_chosen(made: Bundle, checkpoint: Path) -> None:
    assert made.size <= SIZE
    matrices = made.manifest.to_dict()["recipe"]["matrices"]
    assert matrices["model.layers.0.mlp.down_proj"]["shape"] == [64, 96]
    assert len(matrices) == 4
    chosen = made.manifest.to_dict()["mixed"]
    assert chosen["budget"] == {"max_size": SIZE}
    assert chosen["text"] == made.manifest.to_dict()["calibration"]["text"]
    assert set(chosen["sensitivity"]) == {*matrices, "lm_head", "model.embed_tokens"}
    assert made.manifest.quant == "auto"
    assert sum(m.weights for m in from_manifest(made.manifest).body) == sum(
        m["shape"][0] * m["shape"][1] for m in matrices.values()
    )


def test_what_a_bundle_takes_is_known_before_it_is_written(made: Bundle, checkpoint: Path, tmp_path: Path) -> None:
    source = Checkpoint(checkpoint)
    decoder, board = families.describe(source.config), load_target("rpi5")
    for spec in (board.recipe("int4"), board.recipe("int8"), read_replay(made.path).spec):
        bundle = export(checkpoint, auto.with_recipe(board, "one", spec), "one", output=tmp_path / "b", overwrite=True)
        told = native.weigh(GraphPlan(decoder, spec, board, bundle.context))
        assert told == bundle.files["model.onnx"].bytes + bundle.files["model.onnx.data"].bytes


@pytest.mark.parametrize("target", ["x86-64", "rpi5"])
def test_a_mixture_is_told_from_a_default_recipe(checkpoint: Path, target: str) -> None:
    decoder = families.describe(Checkpoint(checkpoint).config)
    default = named(load_target(target).recipe("int4"), decoder)
    assert not is_mixture(default, decoder)
    last = decoder.layers[0].mlp.down.name
    other = replace(default, matrices={**default.matrices, last: FormatSpec("MatMulNBits", 8, 32)})
    assert is_mixture(other, decoder)


def test_a_budget_is_kept_to_the_byte(made: Bundle, checkpoint: Path, tmp_path: Path) -> None:
    again = export(checkpoint, "rpi5", "auto", max_size=made.size, calibrate="builtin", output=tmp_path / "b")
    assert again.size == made.size
    less = export(checkpoint, "rpi5", "auto", max_size=made.size - 1, calibrate="builtin", output=tmp_path / "c")
    assert less.size < made.size


@pytest.mark.parametrize("name", [".", "manifest.json"])
def test_a_replay_gives_the_same_bytes(made: Bundle, checkpoint: Path, tmp_path: Path, name: str) -> None:
    again = export(checkpoint, "rpi5", recipe=made.path / name, max_size=SIZE, output=tmp_path / "b")
    assert contents(again) == contents(made)


def test_a_replay_without_calibration_says_that_it_differs(made: Bundle, checkpoint: Path, tmp_path: Path) -> None:
    said: list[str] = []
    progress = Progress()
    progress.say = said.append  # type: ignore[method-assign]
    again = export(checkpoint, "rpi5", recipe=made.path, calibrate="none", output=tmp_path / "b", progress=progress)
    assert [line for line in said if "the bytes will be others" in line]
    assert again.manifest.recipe == made.manifest.recipe
    assert again.manifest.calibration is None


def test_a_recipe_that_is_slow_on_another_target_says_so(made: Bundle, checkpoint: Path, tmp_path: Path) -> None:
    said: list[str] = []
    progress = Progress()
    progress.say = said.append  # type: ignore[method-assign]
    export(checkpoint, "rpi4", recipe=made.path, output=tmp_path / "b", progress=progress)
    assert "the recipe's MatMulNBits falls back to slow kernels on rpi4 (docs/notes/targets.md)" in said


def test_a_uniform_bundle_is_replayed_too(checkpoint: Path, tmp_path: Path) -> None:
    first = export(checkpoint, "rpi5", "int8", output=tmp_path / "a")
    again = export(checkpoint, "rpi5", recipe=first.path, output=tmp_path / "b")
    assert contents(again) == contents(first)


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_kind_of_model(kind: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_checkpoint(kind, **FAMILIES[kind])
    bundle = export(folder, "rpi5", "auto", max_kld=0.01, output=tmp_path / "b")
    assert bundle.quality is not None
    assert bundle.quality["kld"]["mean"] <= 0.01
    assert Engine.load(bundle).forward([1, 5, 6]).shape == (1, 300)
    smaller = export(folder, "rpi5", "int8", output=tmp_path / "int8")
    assert bundle.files["model.onnx.data"].bytes < 4 * smaller.files["model.onnx.data"].bytes


def test_a_core_without_dot_products_mixes_int8_and_floats(checkpoint: Path, tmp_path: Path) -> None:
    assert [f.spec for f in recipes.formats_of(load_target("rpi4"))] == [FormatSpec("DynamicQuantizeMatMul", 8)]
    plain = export(checkpoint, "rpi4", "auto", output=tmp_path / "a")
    int8 = export(checkpoint, "rpi4", "int8", output=tmp_path / "b")
    assert plain.files["model.onnx.data"] == int8.files["model.onnx.data"]


@pytest.mark.parametrize(
    ("options", "said", "hint"),
    [
        ({"max_size": "1kB"}, r"no recipe of rpi5 keeps --max-size 0\.001 MB: the smallest takes 0\.\d+ MB", "smaller"),
        (
            {"max_size": "120kB", "max_kld": 1e-6},
            r"no recipe of rpi5 reaches --max-kld 1e-06 within --max-size 0\.120 MB: the best, 0\.1\d\d MB, has a KLD",
            "calibrate",
        ),
        ({"exporter": "optimum"}, "--quant auto is for native families", "--quant int4"),
        ({"recipe": "x"}, "--quant and --recipe exclude each other", ""),
    ],
)
def test_what_cannot_be_done(checkpoint: Path, tmp_path: Path, options: dict[str, Any], said: str, hint: str) -> None:
    with pytest.raises(EdgeLMError, match=said) as raised:
        export(checkpoint, "rpi5", "auto", **options, output=tmp_path / "b")
    assert hint in (raised.value.hint or "")
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_a_recipe_that_misses_its_budget_points_to_auto(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeLMError) as raised:
        export(checkpoint, "rpi5", "int4", max_size="1kB", output=tmp_path / "b")
    assert "--quant auto" in (raised.value.hint or "")


def test_one_that_is_interrupted_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    class Interrupted(Progress):
        what = ""

        def start(self, what: str, total: int) -> None:
            self.what = what

        def advance(self, units: int, detail: str = "") -> None:
            if self.what == "measuring matrices":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(checkpoint, "rpi5", "auto", output=tmp_path / "b", progress=Interrupted())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"intermediate_size": 64}, r"gate_up_proj is \[192, 64\] there, and \[128, 64\] here"),
        ({"num_hidden_layers": 2}, r"it has no matrix 'model\.layers\.1\.self_attn\.qkv_proj'"),
    ],
)
def test_a_recipe_for_another_model(
    made: Bundle, tiny_checkpoint: Callable[..., Path], tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    other = tiny_checkpoint(**{"num_hidden_layers": 1, **change})
    with pytest.raises(EdgeLMError, match=r"manifest\.json is a recipe for another model: .*" + said):
        export(other, "rpi5", recipe=made.path, output=tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_calibrated_on_a_file_asks_for_it(made: Bundle, checkpoint: Path, tmp_path: Path) -> None:
    manifest = made.manifest.to_dict()
    manifest["calibration"]["text"] = {"name": "mine.txt", "sha256": "0" * 64}
    (tmp_path / "r.json").write_text(json.dumps(manifest))
    with pytest.raises(EdgeLMError, match=r"calibrated on mine\.txt \(SHA-256 000000000000\)") as raised:
        export(checkpoint, "rpi5", recipe=tmp_path / "r.json", output=tmp_path / "b")
    assert "--calibrate" in (raised.value.hint or "")


GOOD: dict[str, Any] = {
    "body": {"op": "MatMulNBits", "bits": 4, "block": 32},
    "head": {"op": "MatMulNBits", "bits": 4, "block": 32},
    "embedding": {"op": "GatherBlockQuantized", "bits": 4, "block": 32},
    "kv": {"op": "none", "bits": 32},
}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"[]", "holds list, expected a JSON object"),
        ({}, "recipe is missing"),
        ({"recipe": []}, "recipe must be an object"),
        ({"recipe": {**GOOD, "kv": None}}, r"recipe\.kv must be an object"),
        ({"recipe": {**GOOD, "head": {"op": "Gather", "bits": 8}}}, r"recipe\.head\.op must be one of MatMul, "),
        ({"recipe": {**GOOD, "body": {"op": "MatMulNBits", "bits": True, "block": 32}}}, r"body\.bits must be one of"),
        ({"recipe": {**GOOD, "body": {"op": "MatMulNBits", "bits": 4, "block": 33}}}, r"body\.block must be one of 16"),
        ({"recipe": {**GOOD, "body": {"op": "MatMul", "bits": 32, "block": 4}}}, r"body\.block must be one of none"),
        ({"recipe": {**GOOD, "matrices": {"a": {**GOOD["body"], "shape": [1]}}}}, r"matrices\.a\.shape must be two"),
        (
            {"recipe": {**GOOD, "head": {**GOOD["head"], "half_scales": 1}}},
            r"head\.half_scales must be true or false for",
        ),
        ({"recipe": {**GOOD, "kv": {**GOOD["kv"], "half_scales": True}}}, r"kv\.half_scales must be false for none"),
        ({"recipe": GOOD, "quant": "../x"}, "quant is no name for a recipe"),
    ],
)
def test_malformed_recipes(checkpoint: Path, tmp_path: Path, content: Any, said: str) -> None:
    file = tmp_path / "r.json"
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(EdgeLMError, match=said) as raised:
        export(checkpoint, "rpi5", recipe=file, output=tmp_path / "b")
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.json"]


def test_a_recipe_that_is_not_there(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeLMError, match=r"nothing\.json cannot be read: No such file"):
        export(checkpoint, "rpi5", recipe=tmp_path / "nothing.json", output=tmp_path / "b")

"""Calibration: parts of a decoder run like the whole, and matrices rounded on them lose less."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelm.bundle.reader import Bundle
from edgelm.bundle.writer import save_quality
from edgelm.errors import EdgeLMError
from edgelm.evaluate.card import compare
from edgelm.evaluate.passages import Passages, load_passages
from edgelm.exporter import families, recipe
from edgelm.exporter.calibration import calibrate, layer_runner, moments, quality, smooth
from edgelm.exporter.calibration.flow import Flow
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.formats.per_row import PerChannel
from edgelm.exporter.formats.rounding.rtn import quantize_blocks
from edgelm.exporter.model.decoder import Attention
from edgelm.exporter.model.weights import WeightReader
from edgelm.exporter.pipeline import export
from edgelm.exporter.progress import Progress
from edgelm.runtime.engine import Engine
from edgelm.target.target import Target, load_target

# Each has something of its own: biases, tied or fused matrices, norms before, after or beside, learned positions, a
# parallel residual, heads of other sizes, a short convolution in attention's place.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"head_dim": 24, "tie_word_embeddings": True},
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 24, "final_logit_softcapping": 5.0, "sliding_window": 16},
    "olmo2": {},
    "phi3": {},
    "gpt_neox": {},
    "gpt2": {},
    "opt": {"ffn_dim": 96, "init_std": 0.2},
    "lfm2": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2, "block_auto_adjust_ff_dim": False},
}


class Said(Progress):
    """Remembers what the user is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_parts_one_after_another_are_the_whole(
    kind: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_checkpoint(kind, **FAMILIES[kind])
    checkpoint = Checkpoint(folder)
    decoder, reader = families.describe(checkpoint.config), WeightReader(checkpoint)
    formats = recipe.formats(load_target("x86-64").recipe("fp32"), decoder.hidden)
    ids = np.random.default_rng(0).integers(3, 300, 48)
    x = layer_runner.embedding(decoder, formats, reader, tmp_path)(ids[None], {})[None]
    flow = Flow(decoder, [x[0]])
    for index, layer in enumerate(decoder.layers):
        matrices = {linear.name: reader.matrix(linear) for linear in layer.linears}
        parts = layer_runner.parts(decoder, formats, index, reader, 48, tmp_path)
        for linear, inputs in flow.through(layer, parts):
            assert inputs.shape == (48, linear.inputs)
            flow.multiply(linear, matrices[linear.name])
        x = layer_runner.whole(decoder, formats, index, reader, 48, tmp_path)(x, matrices)[None]
        np.testing.assert_allclose(flow.hidden[0], x[0], atol=1e-4 * np.ptp(x))
    last = layer_runner.final(decoder, formats, reader, tmp_path)(x, {})
    found = last @ reader.matrix(decoder.head).T
    engine = Engine.load(export(folder, "x86-64", "fp32", output=tmp_path / "b", exporter="native"))
    expected = engine.forward(ids, num_logits=48)
    if decoder.logits_softcap:
        found = decoder.logits_softcap * np.tanh(found / decoder.logits_softcap)
    bias = [reader.vector(source) for source in decoder.head.biases]
    found = found + np.concatenate(bias) if bias else found
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.ptp(expected))
    assert [entry.name for entry in tmp_path.iterdir()] == ["b"], "no graph stays"


@pytest.fixture(scope="module")
def stories(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The model, and two files: the first part of TinyStories, and its end."""
    text = (data_dir / "tinystories" / "tinystories_sample_2MiB.txt").read_text(encoding="utf-8", errors="ignore")
    folder = tmp_path_factory.mktemp("stories")
    (folder / "first.txt").write_text(text[:120_000])
    (folder / "end.txt").write_text(text[-60_000:])
    return {"model": data_dir / "stories260K", "first": folder / "first.txt", "end": folder / "end.txt"}


def of_block(block: int) -> Target:
    """The rpi5 with everything in 4 bits, in these blocks: rounding is compared without a head of 8 bits."""
    board = load_target("rpi5")
    int4 = board.recipe("int4")
    roles = {
        role: dataclasses.replace(getattr(int4, role), bits=4, block=block) for role in ("body", "head", "embedding")
    }
    return dataclasses.replace(board, recipes={**board.recipes, "int4": dataclasses.replace(int4, **roles)})


def test_kld_falls_as_promised(stories: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPTQ's KLD at most 0.6 of rounding to nearest, the search's 0.88, at the same bytes; and GPTQ in blocks of 64
    is better than rounding to nearest in blocks of 32.
    """
    end = load_passages(stories["end"], "evaluation")
    base = export(stories["model"], "rpi5", "fp32", output=tmp_path / "fp32")

    def make(name: str, block: int = 32, **options: Any) -> tuple[float, int]:
        bundle = export(stories["model"], of_block(block), "int4", output=tmp_path / name, **options)
        return compare(base, bundle, end, chunks=12).mean, bundle.size

    search, search_size = make("search")
    gptq, gptq_size = make("gptq", calibrate=stories["first"])
    coarse, _ = make("coarse", 64, calibrate=stories["first"])
    monkeypatch.setattr("edgelm.exporter.formats.blocked.search_blocks", quantize_blocks)
    nearest, nearest_size = make("rtn")
    assert search_size == gptq_size == nearest_size
    assert search <= 0.88 * nearest
    assert gptq <= 0.6 * nearest
    assert coarse < nearest


def test_the_card_and_the_manifest_tell_of_it(stories: dict[str, Path], tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text(stories["first"].read_text()[:5_000])

    def make(name: str) -> Bundle:
        folder = tmp_path / name
        return export(stories["model"], "rpi5", "int4", calibrate=short, card=stories["end"], output=folder)

    said = Said()
    bundle = export(
        stories["model"], "rpi5", "int4", calibrate=short, card="none", output=tmp_path / "p", progress=said
    )
    assert bundle.quality is None
    assert any(line.endswith("4,096 or more serve better") for line in said.lines)
    bundle, again = make("a"), make("b")
    facts = bundle.manifest.to_dict()["calibration"]
    assert (facts["method"], facts["text"]["name"], facts["matrices"]) == ("gptq", "short.txt", 20)
    card = bundle.quality
    assert card is not None
    assert card["calibration"] == facts
    assert card["text"]["name"] == "end.txt"
    assert card["base"] == {"id": "stories260K", "quant": "fp32"}
    assert (card["chunks"], card["tokens"]) == (quality.CARD_CHUNKS, quality.CARD_CHUNKS * 255)
    assert len(card["matrices"]) == 21, "the head is there, too, rounded to 8 bits"
    assert all(0 < m["weight"] < 0.05 and 0 < m.get("output", m["weight"]) < 0.05 for m in card["matrices"].values())
    assert (bundle.path / "manifest.json").read_bytes() == (again.path / "manifest.json").read_bytes(), "all the same"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "b", "p", "short.txt"]


def test_int8_activations_are_evened_out(stories: dict[str, Path], tmp_path: Path) -> None:
    base = export(stories["model"], "rpi5", "fp32", output=tmp_path / "fp32")
    plain = export(stories["model"], "rpi5", "int8", output=tmp_path / "plain")
    even = export(stories["model"], "rpi5", "int8", calibrate=stories["first"], output=tmp_path / "even")
    calibration = even.manifest.calibration
    assert calibration is not None
    assert (calibration.method, calibration.matrices, calibration.smoothed) == ("gptq", 20, 20)
    assert even.size == plain.size
    end = load_passages(stories["end"], "evaluation")
    smoothed, without = (compare(base, bundle, end, chunks=8).mean for bundle in (even, plain))
    assert smoothed < without < 0.008, "tokens brought to one size take most of the loss away; it was 0.0154"


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt_neox", "qwen2", "phi3", "opt", "lfm2"])
def test_smoothing_changes_nothing_in_fp32(kind: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = Checkpoint(tiny_checkpoint(kind, **FAMILIES.get(kind, {})))
    decoder, reader = families.describe(checkpoint.config), WeightReader(checkpoint)
    formats = recipe.formats(load_target("x86-64").recipe("fp32"), decoder.hidden)
    chunk = np.random.default_rng(0).integers(3, 300, 48)
    int8 = dataclasses.replace(formats, body=PerChannel())
    found = smooth.smooth(reader, decoder, int8, [chunk], tmp_path, Progress())
    outputs = [layer.linears[1].name for layer in decoder.layers if isinstance(layer.attention, Attention)]
    # Biases of queries, keys and values that alternate head by head are not followed.
    assert any(name in found.smoothing.columns for name in outputs) == (kind != "gpt_neox")
    assert all(found.after[name] < found.before[name] for name in found.after)
    even = WeightReader(checkpoint, found.smoothing)
    x = layer_runner.embedding(decoder, formats, reader, tmp_path)(chunk[None], {})[None]
    expected, got = (
        layer_runner.whole(decoder, formats, 0, r, 48, tmp_path)(
            x, {linear.name: r.matrix(linear) for linear in decoder.layers[0].linears}
        )
        for r in (reader, even)
    )
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.ptp(expected))


def test_a_recipe_that_gains_nothing_says_so(stories: dict[str, Path], tmp_path: Path) -> None:
    said = Said()
    bundle = export(stories["model"], "x86-64", "fp32", calibrate="builtin", output=tmp_path / "b", progress=said)
    assert said.lines == ["calibration serves matrices of 4 and 8 bits, and this recipe has none"]
    assert bundle.manifest.calibration is None


def test_a_matrix_that_reads_nothing_keeps_to_the_search(
    stories: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgelm.exporter.formats.blocked.factor", lambda hessian, block: None)
    said = Said()
    calibrated = export(
        stories["model"], "rpi5", "int4", calibrate=stories["first"], output=tmp_path / "a", progress=said
    )
    plain = export(stories["model"], "rpi5", "int4", output=tmp_path / "b")
    assert said.lines == [
        "the text says nothing about model.layers.0.self_attn.qkv_proj and 19 more: scales searched without data instead"
    ]
    assert calibrated.files["model.onnx.data"] == plain.files["model.onnx.data"]


@pytest.mark.parametrize("option", ["calibrate", "card"])
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "text.txt holds no text"),
        (b"Once upon a time.", "the text has .* tokens"),
        ("Es war einmal ein Bär".encode("latin-1"), "text.txt is not valid UTF-8"),
    ],
)
def test_texts_that_cannot_serve(stories: dict[str, Path], tmp_path: Path, option: str, data: bytes, said: str) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(data)
    with pytest.raises(EdgeLMError, match=said):
        export(stories["model"], "rpi5", "int4", output=tmp_path / "b", **{option: text})  # type: ignore[arg-type]
    assert [entry.name for entry in tmp_path.iterdir()] == ["text.txt"], "nothing is left behind"


def test_small_models_are_measured_unasked() -> None:
    board = load_target("rpi5")
    int4, fp32 = board.recipe("int4"), board.recipe("fp32")
    assert quality.QualityOptions.of("none", "auto").measures(1_000_000, int4) == "builtin"
    assert quality.QualityOptions.of(None, "auto").measures(100_000_000, int4) is None
    assert quality.QualityOptions.of("builtin", "auto").measures(100_000_000, int4) is None
    assert quality.QualityOptions.of(None, "builtin").measures(100_000_000, int4) == "builtin"
    assert quality.QualityOptions.of(None, "auto").measures(1_000_000, fp32) is None
    assert quality.QualityOptions.of(None, None).measures(1_000_000, int4) is None
    assert quality.QualityOptions.of("auto", None).calibrate == "auto"


def test_a_saved_card_belongs_to_the_bundle(stories: dict[str, Path], tmp_path: Path) -> None:
    made = export(stories["model"], "rpi5", "int4", output=tmp_path / "b")
    found = json.loads((Path(__file__).parents[1] / "frozen" / "format1" / "quality.json").read_text())
    saved = save_quality(made, found)
    assert saved.quality == Bundle.open(made.path).quality == found
    assert Bundle.open(made.path).verify() == []
    assert {**saved.files, "quality.json": None} == {**made.files, "quality.json": None}
    assert [entry.name for entry in tmp_path.iterdir()] == ["b"]

    card = made.path / "quality.json"
    card.write_text(json.dumps({"format": 1, "kld": {"mean": 0.4}}))
    with pytest.raises(EdgeLMError, match=r"quality\.json (was changed|is truncated|is longer)"):
        Bundle.open(made.path)


def test_a_damaged_bundle_is_not_blessed_by_a_new_card(stories: dict[str, Path], tmp_path: Path) -> None:
    made = export(stories["model"], "rpi5", "int4", output=tmp_path / "b")
    data = made.path / "model.onnx.data"
    content = bytearray(data.read_bytes())
    content[0] ^= 1
    data.write_bytes(content)
    with pytest.raises(EdgeLMError, match=r"model\.onnx\.data was changed"):
        save_quality(made, {"format": 1})
    assert not (made.path / "quality.json").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["b"]


def test_models_of_other_tokenizers_are_not_compared(
    stories: dict[str, Path], tiny_bundle: Bundle, tmp_path: Path
) -> None:
    made = export(stories["model"], "rpi5", "int4", output=tmp_path / "b")
    with pytest.raises(EdgeLMError, match="different tokenizers"):
        compare(tiny_bundle, made, Passages("x", "0", ("Once upon a time " * 200,)))


@pytest.mark.parametrize(
    ("options", "said", "hint"),
    [
        ({"max_kld": 0.001}, r"KLD 0\.\d+ of int4 on end\.txt is more than --max-kld 0\.001", "--calibrate TEXT"),
        ({"max_size": "1kB"}, r"int4 takes .* MB, more than --max-size 0\.001 MB", "the smallest recipe of rpi5, int4"),
        ({"max_size": 500_000, "quant": "fp32"}, "fp32 takes", "--quant int8 takes"),
        ({"max_size": "much"}, "--max-size must be a size such as 350MB, not 'much'", ""),
        ({"max_kld": 0.0}, "--max-kld must be a number above 0", ""),
    ],
)
def test_limits_that_are_missed(
    stories: dict[str, Path], tmp_path: Path, options: dict[str, Any], said: str, hint: str
) -> None:
    with pytest.raises(EdgeLMError, match=said) as raised:
        export(stories["model"], "rpi5", **{"quant": "int4", "card": stories["end"], **options}, output=tmp_path / "b")
    assert hint in (raised.value.hint or "")
    assert list(tmp_path.iterdir()) == []


def test_limits_that_are_kept(stories: dict[str, Path], tmp_path: Path) -> None:
    bundle = export(stories["model"], "rpi5", "int4", max_size="2MB", max_kld=2.0, output=tmp_path / "b")
    assert bundle.quality is not None, "a limit of quality is measured"
    assert bundle.quality["text"]["name"] == "builtin"


def test_loud_tokens_count_as_others_do() -> None:
    """One token a hundred times as large as the others does not decide how a matrix is rounded; silence stays silent."""
    x = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    loud = x.copy()
    loud[0] *= 100
    even = moments.hessian(loud)
    assert np.abs(even - moments.hessian(x)).max() < 0.2 * np.abs(even).max()
    assert np.abs(loud.T @ loud - x.T @ x).max() > 10 * np.abs(even).max()
    faint = np.concatenate([x, 1e-6 * x[:8], np.zeros((4, 8), np.float32)])
    np.testing.assert_allclose(moments.hessian(faint), moments.hessian(x), rtol=0.2, atol=0.2 * np.abs(even).max())
    assert (moments.hessian(np.zeros((4, 8), np.float32)) == 0).all()


def test_a_model_is_calibrated_without_being_asked(
    stories: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "BY_DEFAULT", True)
    monkeypatch.setattr(quality, "TOKENS", 1024)

    def make(quant: str, **options: Any) -> tuple[Bundle, list[str]]:
        said = Said()
        folder = tmp_path / "b"
        return export(
            stories["model"], "x86-64", quant, card="none", output=folder, overwrite=True, progress=said, **options
        ), said.lines

    bundle, _ = make("int4")
    found = bundle.manifest.calibration
    assert found is not None
    assert (found.method, found.text.name, found.tokens) == ("gptq", "builtin", 1024)
    again, _ = make("int4", calibrate="auto")
    assert again.manifest.calibration == found
    plain, lines = make("int4-fast", calibrate="none")
    assert plain.manifest.calibration is None
    assert any("lose twice as much without calibration" in line for line in lines)
    assert make("fp32")[0].manifest.calibration is None
    monkeypatch.setattr(quality, "LONGEST", 0.0)
    late, lines = make("int4")
    assert late.manifest.calibration is None
    assert any("not calibrated, since that takes about" in line for line in lines)


def test_more_text_takes_longer(tiny_checkpoint: Callable[..., Path]) -> None:
    small = families.describe(Checkpoint(tiny_checkpoint()).config)
    assert calibrate.seconds(small, 4096) < calibrate.seconds(small, 8192) < 60
    assert calibrate.memory(small, 4096) < calibrate.memory(small, 8192)


@pytest.mark.parametrize("rows", [8, 40])
def test_later_matrices_make_up_for_earlier_ones(rows: int) -> None:
    """On inputs that have lost something which the others can tell, a corrected matrix gives nearly what it gave."""
    generator = np.random.default_rng(0)
    exact = generator.standard_normal((400, 4), np.float32) @ generator.standard_normal((4, 16), np.float32)
    inputs = exact.copy()
    inputs[:, 3] = 0
    inputs += 0.01 * generator.standard_normal(inputs.shape, np.float32)
    weight = generator.standard_normal((rows, 16), np.float32)
    found = moments.correction(inputs, exact, moments.hessian(inputs))
    assert found is not None
    corrected = weight + found.of(weight)
    lost = [float(np.square(inputs @ matrix.T - exact @ weight.T).sum()) for matrix in (weight, corrected)]
    assert lost[1] < 0.05 * lost[0]
    same = moments.correction(exact, exact, moments.hessian(exact))
    assert same is not None
    assert (same.of(weight) == 0).all()
    assert moments.correction(inputs[:47], exact[:47], moments.hessian(inputs[:47])) is None, "too few tokens to tell"
    zeros = np.zeros((400, 16), np.float32)
    assert moments.correction(zeros, exact, moments.hessian(zeros)) is None


def test_the_exact_model_reads_a_part_of_the_text_where_that_is_enough(
    stories: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it is chunks from all over it, and calibration loses hardly more; a small model's text is read whole."""
    decoder = families.describe(Checkpoint(stories["model"]).config)
    assert calibrate._compared(decoder, 8192) == 1.0
    monkeypatch.setattr(calibrate, "_LITTLE", 0.0)
    widest = max(linear.inputs for linear in decoder.linears)
    assert calibrate._compared(decoder, 8192) == calibrate._LEAST
    assert calibrate._compared(decoder, moments.ENOUGH * widest) == 1.0, "fewer would be too few for the widest matrix"
    assert calibrate._compared(decoder, 4 * widest) == 0.75
    read: list[int] = []
    correction = calibrate.correction

    def counted(inputs: np.ndarray, exact: np.ndarray, hessian: np.ndarray) -> moments.Correction | None:
        read.append(len(exact))
        assert len(inputs) == len(exact)
        return correction(inputs, exact, hessian)

    monkeypatch.setattr(calibrate, "correction", counted)
    made = export(stories["model"], "rpi5", "int4", calibrate=stories["first"], output=tmp_path / "b")
    facts = made.manifest.calibration
    assert facts is not None
    assert len(read) == len(decoder.linears)
    assert set(read) == {math.ceil(facts.tokens // 512 * calibrate._LEAST) * 512}


def test_the_exact_model_goes_through_beside(stories: dict[str, Path], tmp_path: Path) -> None:
    """Without it, calibration in 4 bits loses more; 8 bits do without it."""
    end = load_passages(stories["end"], "evaluation")
    base = export(stories["model"], "rpi5", "fp32", output=tmp_path / "fp32")
    lost = {}
    for corrected in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not corrected:
                patch.setattr(calibrate, "_MOST", 0.0)
            made = export(
                stories["model"], "rpi5", "int4", calibrate=stories["first"], output=tmp_path / str(corrected)
            )
        lost[corrected] = compare(base, made, end, chunks=8).mean
    assert lost[True] < 0.9 * lost[False]
    decoder = families.describe(Checkpoint(stories["model"]).config)
    recipes = [recipe.formats(load_target("rpi4").recipe(quant), decoder.hidden) for quant in ("int4", "int8")]
    assert [calibrate.corrects(decoder, formats, 4096) for formats in recipes] == [True, False]
    large = dataclasses.replace(decoder, layers=decoder.layers * 100_000)
    assert not calibrate.corrects(large, recipes[0], 4096)
    assert calibrate.seconds(large, 4096) < 1.1 * 100_000 * calibrate.seconds(decoder, 4096)

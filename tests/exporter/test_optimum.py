"""The Optimum route: models without a native family, against transformers."""

from __future__ import annotations

import importlib.util
import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelm.bundle.reader import DATA, MODEL, Bundle
from edgelm.errors import CheckpointError, DependencyError, ExportError, UnsupportedModelError
from edgelm.exporter.checkpoint.checkpoint import Config
from edgelm.exporter.optimum import route, traced
from edgelm.exporter.pipeline import export
from edgelm.exporter.progress import Progress
from edgelm.exporter.sizing.context import context_limit
from edgelm.runtime.engine import Engine
from edgelm.runtime.ort.session import open_session, providers
from edgelm.target.target import load_target

pytest.importorskip("optimum.exporters.onnx")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_numpy = pytest.importorskip("safetensors.numpy")
ir = pytest.importorskip("onnx_ir")

KINDS: dict[str, dict[str, Any]] = {
    "gpt2": {},  # tied, learnt positions, weights stored [k, n]
    "gpt_neox": {"rotary_pct": 0.25, "use_parallel_residual": True, "tie_word_embeddings": False},
    "opt": {"ffn_dim": 96, "init_std": 0.2, "word_embed_proj_dim": 32},  # tied, an embedding narrower than the stream
    "bloom": {},  # tied, no position_ids
    "cohere": {},  # tied, the head's product is scaled
}
RECIPES = [
    ("rpi5", "int4"),  # MatMulNBits, block 32
    ("rpi5", "int8"),  # DynamicQuantizeMatMul
    ("x86-64", "int4"),
    ("x86-64", "int8"),  # MatMulNBits, 8 bits
    ("rpi4", "int8"),
    ("rpi4", "int4"),
]
IDS = np.random.default_rng(7).integers(3, 300, 40)


class Models:
    """Checkpoints, their transformers models and their bundles, each made once."""

    def __init__(self, make: Callable[..., Path], folder: Path) -> None:
        self._folder = folder
        self.checkpoint = cache(lambda kind: make(kind, **KINDS[kind]))
        self.bundle = cache(self._bundle)
        self.reference = cache(self._reference)

    def _bundle(self, kind: str, target: str, quant: str) -> Bundle:
        output = self._folder / f"{kind}-{target}-{quant}"
        return export(self.checkpoint(kind), target, quant, output=output, exporter="optimum")

    def _reference(self, kind: str) -> np.ndarray:
        """Logits [n, vocab] of IDS."""
        return reference(self.checkpoint(kind), IDS)


@pytest.fixture(scope="module")
def models(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tiny_checkpoint, tmp_path_factory.mktemp("bundles"))


@cache
def load_reference(checkpoint: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(checkpoint).eval()


def reference(checkpoint: Path, ids: Any) -> np.ndarray:
    with torch.no_grad():
        logits: np.ndarray = load_reference(checkpoint)(torch.tensor(np.asarray(ids))[None]).logits[0].numpy()
    return logits


def engine_of(bundle: Bundle) -> Engine:
    return Engine.load(bundle, threads=1)


def weights_of(checkpoint: Path) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = safetensors_numpy.load_file(checkpoint / "model.safetensors")
    return tensors


def stored(bundle: Bundle) -> dict[str, tuple[int, int]]:
    """Name → (offset, length) of every initializer in the data file."""
    values = ir.load(bundle.model_path).graph.initializers.values()
    tensors = {v.name: v.const_value for v in values if isinstance(v.const_value, ir.ExternalTensor)}
    return {name: (tensor.offset, tensor.length) for name, tensor in tensors.items()}


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_fp32_logits_are_those_of_transformers(models: Models, kind: str) -> None:
    engine, expected = engine_of(models.bundle(kind, "x86-64", "fp32")), models.reference(kind)
    assert expected.std() > 0.01  # or a comparison would mean nothing

    at_once = engine.forward(IDS, num_logits=len(IDS))
    np.testing.assert_allclose(at_once, expected, atol=1e-3)

    engine.reset()
    one_by_one = np.concatenate([engine.forward([token]) for token in IDS])
    np.testing.assert_allclose(one_by_one, expected, atol=1e-3)

    engine.rewind(15)
    several_on_a_past = engine.forward(IDS[15:32], num_logits=17)
    np.testing.assert_allclose(several_on_a_past, expected[15:32], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_fp32_greedy_continuation_is_that_of_transformers(models: Models, kind: str) -> None:
    checkpoint, engine = models.checkpoint(kind), engine_of(models.bundle(kind, "x86-64", "fp32"))
    expected, found = list(IDS[:8]), []
    logits = engine.forward(IDS[:8])
    for _ in range(32):
        expected.append(int(reference(checkpoint, expected)[-1].argmax()))
        found.append(int(logits[-1].argmax()))
        logits = engine.forward([found[-1]])
    assert found == expected[8:]


@pytest.mark.parametrize(("target", "quant"), RECIPES)
@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "opt"])
def test_quantised_logits_agree(models: Models, kind: str, target: str, quant: str) -> None:
    engine, expected = engine_of(models.bundle(kind, target, quant)), models.reference(kind)
    found = engine.forward(IDS, num_logits=len(IDS)).copy()
    correlation = np.corrcoef(found.ravel(), expected.ravel())[0, 1]
    same = (found.argmax(axis=1) == expected.argmax(axis=1)).mean()
    assert correlation > (0.99 if quant == "int8" else 0.9)
    assert same > (0.8 if quant == "int8" else 0.4)  # random weights: many tokens are nearly as likely

    engine.reset()
    one_by_one = np.concatenate([engine.forward([token]) for token in IDS])
    assert np.corrcoef(one_by_one.ravel(), expected.ravel())[0, 1] > (0.99 if quant == "int8" else 0.9)


def test_a_full_context_is_reached(models: Models) -> None:
    bundle = models.bundle("gpt2", "x86-64", "fp32")
    ids = np.random.default_rng(1).integers(3, 300, bundle.context)
    assert bundle.context == 128
    last = engine_of(bundle).forward(ids)
    np.testing.assert_allclose(last, reference(models.checkpoint("gpt2"), ids)[-1:], atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "config"),
    [("llama", {}), ("gpt2", {}), ("gpt_neox", KINDS["gpt_neox"]), ("opt", {"ffn_dim": 96, "init_std": 0.2})],
)
def test_a_native_family_gives_the_same_on_either_road(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, kind: str, config: dict[str, Any]
) -> None:
    checkpoint = tiny_checkpoint(kind, **config)
    native = export(checkpoint, "x86-64", "fp32", output=tmp_path / "native", exporter="native")
    other = export(checkpoint, "x86-64", "fp32", output=tmp_path / "optimum", exporter="optimum")
    assert (native.manifest.graph.cache, other.manifest.graph.cache) == ("shared", "growing")
    assert other.manifest.model.parameters == native.manifest.model.parameters
    expected = engine_of(native).forward(IDS, num_logits=len(IDS)).copy()
    np.testing.assert_allclose(engine_of(other).forward(IDS, num_logits=len(IDS)), expected, atol=1e-3)


def test_it_is_taken_where_there_is_no_native_family(models: Models, tmp_path: Path) -> None:
    bundle = export(models.checkpoint("bloom"), "x86-64", "fp32", output=tmp_path / "bundle", exporter="auto")
    assert bundle.manifest.model.exporter == "optimum"


# --- what the graph is -----------------------------------------------------------------------------------------------


def test_the_graph_has_the_inputs_and_outputs_of_a_native_one(models: Models) -> None:
    graph = ir.load(models.bundle("gpt2", "rpi5", "int4").model_path).graph
    shapes = {value.name: [str(d) if not isinstance(d, int) else d for d in value.shape] for value in graph.inputs}
    assert shapes.pop("input_ids") == [1, "sequence_length"]
    assert shapes.pop("attention_mask") == [1, "total_sequence_length"]
    assert shapes.pop("position_ids") == [1, "sequence_length"]
    assert shapes.pop("num_logits") == [1]
    assert set(map(tuple, shapes.values())) == {(1, 4, "past_sequence_length", 16)}
    outputs = {value.name: [str(d) if not isinstance(d, int) else d for d in value.shape] for value in graph.outputs}
    assert outputs.pop("logits") == [1, 1, 300]
    assert {name.replace("present", "past_key_values") for name in outputs} == set(shapes)
    assert graph.opset_imports[""] >= 21
    # The head runs on the last positions alone: it reads the Slice.
    head = next(node for node in graph if node.outputs[0].name == "logits")
    assert head.op_type == "MatMulNBits"
    assert head.inputs[0].producer().op_type == "Slice"


def test_one_position_has_logits_by_default(models: Models) -> None:
    session = open_session(models.bundle("gpt2", "rpi5", "int4").model_path, 1, providers("cpu"))
    feeds: dict[str, np.ndarray] = {
        "input_ids": np.array([[5, 6, 7]]),
        "attention_mask": np.ones((1, 3), np.int64),
        "position_ids": np.arange(3)[None],
    }
    for value in session.get_inputs():
        if value.name.startswith("past_"):
            feeds[value.name] = np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
    assert session.run(["logits"], feeds)[0].shape == (1, 1, 300)


def test_logits_are_cut_where_the_head_cannot_be_told(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traced, "find_head", lambda *_: None)
    bundle = export(models.checkpoint("gpt2"), "x86-64", "fp32", output=tmp_path / "bundle", exporter="optimum")
    engine = engine_of(bundle)
    expected = models.reference("gpt2")
    np.testing.assert_allclose(engine.forward(IDS[:20], num_logits=3), expected[17:20], atol=1e-3)
    np.testing.assert_allclose(engine.forward(IDS[20:]), expected[-1:], atol=1e-3)


def test_the_manifest_describes_the_graph(models: Models) -> None:
    manifest = models.bundle("gpt_neox", "rpi5", "int4").manifest.to_dict()
    assert manifest["model"]["exporter"] == "optimum"
    assert manifest["model"]["parameters"] == sum(w.size for w in weights_of(models.checkpoint("gpt_neox")).values())
    assert manifest["graph"] == {
        "cache": "growing",
        "layers": 3,
        "kv_heads": 4,
        "head_dim": 16,
        "hidden": 64,
        "vocab": 300,
        "activations": "float32",
        "tied": False,
    }
    assert manifest["recipe"]["body"] == {"op": "MatMulNBits", "bits": 4, "block": 32}
    assert manifest["recipe"]["kv"] == {"op": "none", "bits": 32}
    assert manifest["memory"]["kv_bytes_per_token"] == 3 * 2 * 4 * 16 * 4


# --- what is stored --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "quant"), RECIPES)
@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox"])
def test_no_float_copy_of_a_quantised_weight_is_left(models: Models, kind: str, target: str, quant: str) -> None:
    bundle = models.bundle(kind, target, quant)
    data = (bundle.path / DATA).read_bytes()
    matrices = {name: w for name, w in weights_of(models.checkpoint(kind)).items() if w.ndim == 2 and "wpe" not in name}
    assert len(matrices) >= 13
    for name, matrix in matrices.items():
        assert matrix[0].tobytes() not in data, name
        assert np.ascontiguousarray(matrix.T)[0].tobytes() not in data, name
    full = models.bundle(kind, "x86-64", "fp32").size
    assert bundle.files[DATA].bytes < full * (0.35 if quant == "int4" else 0.5)


def test_a_tied_float_table_is_stored_once(models: Models) -> None:
    bundle = models.bundle("gpt2", "x86-64", "fp32")
    table = weights_of(models.checkpoint("gpt2"))["transformer.wte.weight"]
    data = (bundle.path / DATA).read_bytes()
    assert data.count(table[:2].tobytes()) == 1
    assert table.T[0].tobytes() not in data
    assert bundle.manifest.graph.tied is True
    assert bundle.manifest.recipe.embedding.shared_with == "head"


@pytest.mark.parametrize(("target", "quant"), RECIPES)
def test_a_tied_quantised_table_is_stored_once(models: Models, target: str, quant: str) -> None:
    bundle = models.bundle("gpt2", target, quant)
    assert bundle.manifest.graph.tied is True
    tensors = stored(bundle)
    tables = {tensors[name] for name in tensors if name.startswith("transformer.wte.qweight")}
    assert len(tables) == 1
    assert tables.pop()[1] == 300 * 64 * load_target(target).recipe(quant).head.bits // 8


def test_untied_tables_are_stored_apart(models: Models) -> None:
    bundle = models.bundle("gpt_neox", "rpi5", "int4")
    tensors = stored(bundle)
    assert tensors["gpt_neox.embed_in.qweight.rows"] != tensors["embed_out.qweight"]
    assert bundle.manifest.recipe.embedding.shared_with is None


def test_a_tied_table_that_the_head_cannot_share_is_kept_in_int8_rows(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = tiny_checkpoint("gpt2", hidden_size=72)  # no block size divides it
    bundle = export(checkpoint, "rpi5", "int4", output=tmp_path / "bundle", exporter="optimum")
    assert bundle.manifest.graph.tied is False
    assert bundle.manifest.to_dict()["recipe"]["embedding"] == {"op": "Gather", "bits": 8}
    found = engine_of(bundle).forward(IDS, num_logits=len(IDS))
    assert np.corrcoef(found.ravel(), reference(checkpoint, IDS).ravel())[0, 1] > 0.9


def test_the_same_checkpoint_gives_the_same_bytes(models: Models, tmp_path: Path) -> None:
    first = models.bundle("gpt_neox", "rpi5", "int4")
    folder = tmp_path / "other" / "again"
    again = export(models.checkpoint("gpt_neox"), "rpi5", "int4", output=folder, exporter="optimum")
    assert again.files == first.files
    graph = (again.path / MODEL).read_bytes()
    assert str(tmp_path).encode() not in graph
    assert b".trace-" not in graph


# --- the process -----------------------------------------------------------------------------------------------------


def test_it_is_silent_and_needs_no_network(
    models: Models, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the export asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    heard: list[Any] = []

    class Listener(Progress):
        def start(self, what: str, total: int) -> None:
            heard.append(what)

        def advance(self, units: int, detail: str = "") -> None:
            heard.append(units)

    bundle = export(
        models.checkpoint("opt"), "rpi5", "int4", output=tmp_path / "bundle", exporter="optimum", progress=Listener()
    )
    assert capfd.readouterr() == ("", "")
    assert "tracing with Optimum" in heard
    assert "weights" in heard
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle"]
    assert set(bundle.files) == {p.name for p in bundle.path.iterdir()} - {"manifest.json"}


def test_looking_for_the_extra_imports_nothing_heavy() -> None:
    code = (
        "import sys; from edgelm.exporter.optimum import route; route.require(); "
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_without_the_extra_the_error_names_the_command(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    absent = {"torch", "optimum.exporters.onnx"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in absent else find(name, *a))
    with pytest.raises(DependencyError, match=r"(?m)needs torch, optimum-onnx$") as error:
        export(models.checkpoint("bloom"), "rpi5", output=tmp_path / "bundle")
    assert error.value.hint == "pip install 'edgelm[optimum]'"
    assert list(tmp_path.iterdir()) == []


def test_a_package_around_it_may_be_missing_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str, *_: Any) -> None:
        raise ModuleNotFoundError(f"No module named {name.partition('.')[0]!r}")

    monkeypatch.setattr(importlib.util, "find_spec", find)
    with pytest.raises(DependencyError, match="torch, transformers, optimum-onnx"):
        route.require()


def edited(checkpoint: Path, folder: Path, **changes: Any) -> Path:
    """A copy of a checkpoint with another config.json."""
    folder.mkdir()
    for file in checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        (
            {"model_type": "gpt_noex"},
            r"'gpt_noex' has no native family \(.*llama.*\), and is not .* \d+ types",
            "gpt_neox",
        ),
        ({"model_type": "wibble"}, "'wibble'", "supported: .*gpt2.*llama"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder: true", ""),
    ],
)
def test_an_unsupported_model_is_told_in_one_line(
    models: Models, tmp_path: Path, changes: dict[str, Any], message: str, hint: str
) -> None:
    checkpoint = edited(models.checkpoint("bloom"), tmp_path / "checkpoint", **changes)
    with pytest.raises(UnsupportedModelError, match=message) as error:
        export(checkpoint, "rpi5", output=tmp_path / "bundle")
    assert "\n" not in str(error.value)
    assert hint == "" or re.search(hint, str(error.value.hint))
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


def test_a_failure_inside_optimum_is_told_in_one_line(models: Models, tmp_path: Path) -> None:
    checkpoint = edited(models.checkpoint("gpt2"), tmp_path / "checkpoint", activation_function="no_such_function")
    with pytest.raises(ExportError, match="Optimum cannot export") as error:
        export(checkpoint, "rpi5", output=tmp_path / "bundle", exporter="optimum")
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


def test_a_missing_tensor_is_named(models: Models, tmp_path: Path) -> None:
    checkpoint = edited(models.checkpoint("gpt_neox"), tmp_path / "checkpoint")
    tensors = weights_of(checkpoint)
    del tensors["gpt_neox.layers.1.mlp.dense_h_to_4h.weight"]
    safetensors_numpy.save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"'gpt_neox\.layers\.1\.mlp\.dense_h_to_4h\.weight' is missing"):
        export(checkpoint, "rpi5", output=tmp_path / "bundle", exporter="optimum")


def test_a_weight_that_is_not_finite_is_named(models: Models, tmp_path: Path) -> None:
    checkpoint = edited(models.checkpoint("gpt_neox"), tmp_path / "checkpoint")
    tensors = weights_of(checkpoint)
    tensors["gpt_neox.layers.1.mlp.dense_h_to_4h.weight"][3, 4] = np.nan
    safetensors_numpy.save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"'gpt_neox\.layers\.1\.mlp\.dense_h_to_4h\.weight' holds .* not finite"):
        export(checkpoint, "rpi5", output=tmp_path / "bundle", exporter="optimum")
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"n_positions": 1024, "n_ctx": 512}, 1024),
        ({"n_ctx": 512}, 512),
        ({"max_seq_len": 2048}, 2048),
        ({"seq_length": 77}, 77),
        ({"text_config": {"max_position_embeddings": 300}}, 300),
        ({}, 2048),
    ],
)
def test_the_context_limit_stands_in_the_config(config: dict[str, Any], limit: int) -> None:
    assert context_limit(Config(config, Path("config.json"))) == limit

"""Adapters at run time: the same logits as merged ones, switched with every request, and never another one's cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_lora import ALPHA, RANK, SHAPES, merge_by_hand, write_adapter

import edgelm
from edgelm.bundle.reader import LORA, MODEL, Bundle
from edgelm.errors import (
    AdapterError,
    BundleError,
    CheckpointError,
    DeviceError,
    EdgeLMError,
    ExportError,
    PromptCacheError,
    UnsupportedModelError,
)
from edgelm.exporter.formats.blocked import Blocked
from edgelm.exporter.formats.dense import Dense
from edgelm.exporter.formats.format import Format
from edgelm.exporter.formats.per_row import PerChannel
from edgelm.exporter.graph.decoder_graph import Formats, GraphBuilder, Weights
from edgelm.exporter.lora_adapter import export_adapter
from edgelm.exporter.model.decoder import Linear, Source
from edgelm.exporter.onnx.builder import Builder
from edgelm.exporter.onnx.store import DataFile
from edgelm.exporter.pipeline import export
from edgelm.forecast.cost_model import from_manifest
from edgelm.runtime.engine import Engine
from edgelm.runtime.lm import LM
from edgelm.runtime.lora_adapter import METADATA, RuntimeAdapter
from edgelm.runtime.ort.session import open_session

torch = pytest.importorskip("torch")

IDS = np.random.default_rng(1).integers(3, 300, 60)


def modules_of(checkpoint: Path) -> dict[str, tuple[int, int]]:
    """Every matrix of the layers: module → (inputs, outputs), as transformers has it."""
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint)
    found = {}
    for name, module in model.named_modules():
        kind, shape = type(module).__name__, tuple(getattr(getattr(module, "weight", None), "shape", ()))
        if len(shape) == 2 and kind in ("Linear", "Conv1D") and name not in ("lm_head", "embed_out"):
            found[name] = shape if kind == "Conv1D" else shape[::-1]
    return found


def logits(bundle: Bundle, adapter: Path | None = None) -> np.ndarray:
    """Of a prompt in two pieces and a token by itself, so that all ways of a step are gone."""
    engine = Engine.load(bundle, threads=1)
    if adapter is not None:
        opened = RuntimeAdapter.open(adapter)
        opened.expect_for(bundle)
        engine.adapt(opened)
    parts = [engine.forward(IDS[:30], 30), engine.forward(IDS[30:58], 28), engine.forward(IDS[58:59])]
    return np.concatenate([*(part.copy() for part in parts), engine.forward(IDS[59:])])


def close(found: np.ndarray, expected: np.ndarray, share: float = 1e-3) -> None:
    np.testing.assert_allclose(found, expected, atol=share * np.ptp(expected))


FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt2": {"kind": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128},  # stored by columns
    "gpt_neox": {"kind": "gpt_neox"},  # queries, keys and values in one matrix, head by head
    "phi3": {"kind": "phi3"},  # one matrix of queries, keys and values, one of gate and up
    "qwen3": {"kind": "qwen3", "head_dim": 32},
    "granite": {"kind": "granite", "residual_multiplier": 0.5, "attention_multiplier": 0.3},  # scaled matrices
    "lfm2": {
        "kind": "lfm2",
        "layer_types": ["conv", "full_attention"],
        "num_hidden_layers": 2,
        "block_auto_adjust_ff_dim": False,
        "norm_eps": 1e-5,
    },
}


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_merged_export_and_of_transformers(
    family: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = tiny_checkpoint(**FAMILIES[family])
    shapes = modules_of(checkpoint)
    peft = write_adapter(tmp_path / "adapter", shapes, fan_in_fan_out=family == "gpt2")
    base = export(checkpoint, "x86-64", "fp32", lora_ready=True, output=tmp_path / "base")
    plain = export(checkpoint, "x86-64", "fp32", output=tmp_path / "plain")
    merged = export(checkpoint, "x86-64", "fp32", adapter=peft, output=tmp_path / "merged")
    file = export_adapter(peft, base.path)
    found = logits(base, file)
    np.testing.assert_array_equal(logits(base), logits(plain))
    close(found, logits(merged))
    model = merge_by_hand(checkpoint, peft, dict.fromkeys(shapes, ALPHA / RANK))
    with torch.no_grad():
        close(found, model(torch.tensor(IDS[None])).logits[0].numpy())
    assert np.abs(found - logits(plain)).max() > 0.1 * np.ptp(found)


@pytest.mark.parametrize("format", [Dense(32), Blocked(4, 32), Blocked(8, 64), PerChannel()], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_beside_a_quantised_matrix_it_adds_its_product(format: Format, bias: bool, tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    weight, x = chance.normal(0, 1, (48, 128)).astype(np.float32), chance.normal(0, 1, (1, 5, 128)).astype(np.float32)
    a, b = (chance.normal(0, 1, shape).astype(np.float32) for shape in ((128, 4), (4, 48)))
    linear = Linear("m", (Source("m", 48),), 128, (Source("m.bias", 48),) if bias else ())
    with DataFile(tmp_path / "model.onnx.data") as data:
        builder = Builder(data)
        weights: Any = Weights(
            lambda linear, form: form.pack(builder, "m", 48, 128, [weight]),
            lambda source: np.ones(48, np.float32),
            None,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
        )
        graph = GraphBuilder(
            builder, SimpleNamespace(layers=()), Formats(format, format, format), weights, branches=True
        )  # type: ignore[arg-type]
        y = graph.linear(linear, builder.input("x", "float32", [1, "s", 128]))
        builder.output(y, "y", "float32", [1, "s", 48])
        builder.save(tmp_path / MODEL, {})
    session = open_session(tmp_path / MODEL, 1, ["CPUExecutionProvider"])
    alone = session.run(["y"], {"x": x})[0]
    both = session.run(["y"], {"x": x, "m.lora_A": a, "m.lora_B": b})[0]
    np.testing.assert_allclose(both - alone, x @ a @ b, atol=2e-4)
    np.testing.assert_allclose(alone, x @ format.rounded(weight).T + bias, atol=0.05 * np.abs(alone).max())


# -- one base, two adapters


class Made:
    """A checkpoint, bundles of it, two adapters, and the same merged."""

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        self.checkpoint, self.folder = checkpoint, folder
        self.base = export(checkpoint, "x86-64", "fp32", lora_ready=True, output=folder / "base")
        self.peft = {"lamps": write_adapter(folder / "lamps", SHAPES), "doors": self.doors()}
        self.files = {name: export_adapter(peft, self.base.path) for name, peft in self.peft.items()}
        self.merged = {
            name: export(checkpoint, "x86-64", "fp32", adapter=peft, output=folder / f"merged-{name}")
            for name, peft in self.peft.items()
        }

    def doors(self) -> Path:
        """Other values, another rank, other modules."""
        modules = ("self_attn.v_proj", "mlp.gate_proj")
        shapes = {f"model.layers.{i}.{m}": (64, 32 if "v_proj" in m else 96) for i in range(2) for m in modules}
        ranks = dict.fromkeys(shapes, 7)
        folder = write_adapter(self.folder / "doors", shapes, ranks=ranks, r=7, use_rslora=True)
        path = folder / "adapter_model.safetensors"
        save_file({name: -3 * tensor for name, tensor in load_file(path).items()}, path)
        return folder


@pytest.fixture(scope="module")
def made(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tiny_checkpoint(num_hidden_layers=2), tmp_path_factory.mktemp("adapters"))


@pytest.fixture
def lm(made: Made) -> Iterator[LM]:
    with edgelm.load(made.base.path, threads=1) as lm:
        yield lm


def expected(made: Made, name: str | None, prompt: str, **options: Any) -> tuple[int, ...]:
    bundle = made.base if name is None else made.merged[name]
    with edgelm.load(bundle.path, threads=1) as lm:
        return lm.generate(prompt, max_tokens=20, raw=True, **options).tokens


def test_adapters_are_switched_with_every_request(made: Made, lm: LM) -> None:
    answers = set()
    for name in ("lamps", "doors", None, "lamps", "lamps", None, "doors"):
        adapter = None if name is None else made.files[name]
        found = lm.generate("hello there", max_tokens=20, raw=True, adapter=adapter)
        assert found.tokens == expected(made, name, "hello there")
        answers.add(found.tokens)
    assert len(answers) == 3


def test_the_cache_serves_the_same_adapter_alone(made: Made, lm: LM) -> None:
    def cached(name: str | None) -> int:
        adapter = None if name is None else made.files[name]
        return lm.generate("hello there", max_tokens=2, raw=True, adapter=adapter).timings.cached_tokens

    assert [cached(name) for name in (None, None, "lamps", "lamps", "doors", None)] == [0, 10, 0, 10, 0, 0]


def test_the_same_file_elsewhere_is_the_same_adapter(made: Made, lm: LM, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(made.files["lamps"].read_bytes())
    lm.generate("hello there", max_tokens=2, raw=True, adapter=made.files["lamps"])
    assert lm.generate("hello there", max_tokens=2, raw=True, adapter=str(copy)).timings.cached_tokens == 10


def test_sessions_have_an_adapter_of_their_own(made: Made, lm: LM) -> None:
    sessions = {name: lm.session() for name in ("lamps", "doors", None)}
    for prompt in ("hello", "hello there", "hell", "hello there"):
        for name, session in sessions.items():
            adapter = None if name is None else made.files[name]
            found = session.generate(prompt, max_tokens=20, raw=True, adapter=adapter)
            assert found.tokens == expected(made, name, prompt)
            assert prompt == "hello" or found.timings.cached_tokens >= 3
    assert sessions["lamps"].generate("hello", raw=True, max_tokens=2).timings.cached_tokens == 0  # now without one


def test_saved_caches_belong_to_an_adapter(made: Made, lm: LM, tmp_path: Path) -> None:
    session = lm.session()
    assert session.prefill("hello there", raw=True, adapter=made.files["lamps"]) == 11
    session.save(tmp_path / "cache")
    for other in (None, made.files["doors"]):
        with pytest.raises(PromptCacheError, match="was saved with another bundle or adapter"):
            lm.session().load(tmp_path / "cache", adapter=other)
    again = lm.session()
    again.load(tmp_path / "cache", adapter=made.files["lamps"])
    found = again.generate("hello there", max_tokens=20, raw=True, adapter=made.files["lamps"])
    assert found.tokens == expected(made, "lamps", "hello there")
    assert found.timings.cached_tokens == 10
    plain = lm.session()
    plain.prefill("hello there", raw=True)
    plain.save(tmp_path / "plain")
    with pytest.raises(PromptCacheError, match="was saved with another bundle or adapter"):
        lm.session().load(tmp_path / "plain", adapter=made.files["lamps"])


def test_beside_a_draft_and_with_speculation(made: Made, tiny_bundle: Bundle) -> None:
    with edgelm.load(made.base.path, threads=1, draft=tiny_bundle.path) as lm:
        for name in ("doors", None, "lamps"):
            adapter = None if name is None else made.files[name]
            found = lm.generate("abc abc abc", max_tokens=20, raw=True, adapter=adapter)
            assert found.tokens == expected(made, name, "abc abc abc")


def test_a_session_of_its_own_for_prompts_has_the_adapter_too(made: Made) -> None:
    found = []
    for prefill_threads in (1, 2):
        engine = Engine.load(made.base, threads=1, prefill_threads=prefill_threads)
        engine.adapt(RuntimeAdapter.open(made.files["lamps"]))
        found.append(engine.forward(IDS[:40], 40).copy())
    close(found[1], found[0], 1e-5)


def test_one_file_serves_every_bundle_of_the_same_weights(made: Made, tmp_path: Path) -> None:
    exact, change = logits(made.base), logits(made.base, made.files["lamps"])
    for target, quant in (("x86-64", "int8"), ("x86-64", "int4"), ("rpi4", "int8")):
        bundle = export(
            made.checkpoint, target, quant, lora_ready=True, card="none", output=tmp_path / (target + quant)
        )
        file = export_adapter(made.peft["lamps"], bundle.path)
        assert file.read_bytes() == made.files["lamps"].read_bytes()
        lost, left = logits(bundle) - exact, logits(bundle, made.files["lamps"]) - change
        assert np.linalg.norm(left) < 3 * np.linalg.norm(lost)  # what quantisation costs, and no more
        assert np.linalg.norm(left) < 0.5 * np.linalg.norm(change - exact)


def test_an_estimate_counts_the_nodes(made: Made, plain: Bundle) -> None:
    nodes = [from_manifest(bundle.manifest).nodes for bundle in (made.base, plain)]
    assert nodes[0] == nodes[1] + 3 * len(made.base.lora["places"])  # type: ignore[index]


def test_calibrated_matrices_take_adapters_too(made: Made, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("The ferry leaves the harbour at seven and is back before the lamps are lit. " * 12)
    options = {"lora_ready": True, "calibrate": text, "card": "none"}
    bundle = export(made.checkpoint, "x86-64", "int4", output=tmp_path / "b", **options)
    lost, left = (logits(bundle, file) - logits(made.base, file) for file in (None, made.files["lamps"]))
    assert np.linalg.norm(left) < 3 * np.linalg.norm(lost)
    int8 = export(made.checkpoint, "rpi4", "int8", output=tmp_path / "c", **options).manifest.calibration
    assert int8 is not None
    assert (int8.method, int8.smoothed) == ("gptq", None), "an adapter would not know of scaled inputs"


def test_its_memory_counts(made: Made) -> None:
    total = made.base.manifest.memory.total_bytes
    with edgelm.load(made.base.path, threads=1, max_memory_mb=total / 1e6) as lm:
        assert lm.generate("hello " * 15, raw=True, max_tokens=30).tokens
        with pytest.raises(DeviceError, match=r"of other sessions and adapters, need more than max_memory_mb"):
            lm.generate("hello " * 15, raw=True, max_tokens=30, adapter=made.files["doors"])
    more = total + RuntimeAdapter.open(made.files["doors"]).nbytes
    with edgelm.load(made.base.path, threads=1, max_memory_mb=more / 1e6) as lm:
        assert lm.generate("hello " * 15, raw=True, max_tokens=30, adapter=made.files["doors"]).tokens


def test_an_exported_file_says_what_it_is(made: Made, tmp_path: Path) -> None:
    adapter = RuntimeAdapter.open(made.files["doors"])
    assert made.files["doors"] == made.folder / "base-doors.safetensors"
    assert adapter.id == "doors"
    assert adapter.facts["rank"] == 7
    assert adapter.facts["base"] == made.base.lora["base"]  # type: ignore[index]
    assert set(adapter.facts["sources"]) == {"adapter_config.json", "adapter_model.safetensors"}
    again = export_adapter(made.peft["doors"], made.base.path, output=tmp_path / "again.safetensors")
    assert again.read_bytes() == made.files["doors"].read_bytes()
    # Gate and up are one matrix in the graph: rank 7 of the gate, whose rows come first.
    b = adapter.arrays["model.layers.0.mlp.gate_up_proj.lora_B"]
    assert b.shape == (7, 192)
    assert not b[:, 96:].any()
    assert made.base.lora["activations"] == "float32"  # type: ignore[index]
    assert Bundle.open(made.base.path).verify() == []


def test_a_file_that_changes_is_read_again(made: Made, lm: LM, tmp_path: Path) -> None:
    file = tmp_path / "adapter.safetensors"
    file.write_bytes(made.files["lamps"].read_bytes())
    assert lm.generate("hello", max_tokens=20, raw=True, adapter=file).tokens == expected(made, "lamps", "hello")
    file.unlink()
    file.write_bytes(made.files["doors"].read_bytes())
    assert lm.generate("hello", max_tokens=20, raw=True, adapter=file).tokens == expected(made, "doors", "hello")
    file.unlink()
    with pytest.raises(AdapterError, match="cannot be read: No such file"):
        lm.generate("hello", adapter=file)


# -- what is refused


@pytest.fixture(scope="module")
def plain(made: Made) -> Bundle:
    return export(made.checkpoint, "x86-64", "fp32", output=made.folder / "plain")


def test_a_bundle_without_places(made: Made, plain: Bundle) -> None:
    with pytest.raises(UnsupportedModelError, match="has no places for an adapter at run time") as refused:
        export_adapter(made.peft["lamps"], plain.path)
    assert "--lora-ready" in str(refused.value.hint)
    with edgelm.load(plain.path, threads=1) as lm, pytest.raises(AdapterError, match="takes no adapter at run time"):
        lm.generate("hello", adapter=made.files["lamps"])


def test_an_adapter_of_another_base(made: Made, tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    other = export(
        tiny_checkpoint(seed=9, num_hidden_layers=2), "x86-64", "fp32", lora_ready=True, output=tmp_path / "b"
    )
    with edgelm.load(other.path, threads=1) as lm:
        with pytest.raises(AdapterError, match=r"(?m)lamps.* was made for another base than .*b$"):
            lm.generate("hello", adapter=made.files["lamps"])
        assert lm.generate("hello", max_tokens=3).tokens


def test_not_on_the_optimum_road(made: Made, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="goes through Optimum"):
        export(made.checkpoint, "x86-64", "fp32", lora_ready=True, exporter="optimum", output=tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


WHOLE = {"model.norm.weight": np.ones(64, np.float32)}
REFUSED: dict[str, tuple[dict[str, Any], type[EdgeLMError], str]] = {
    "embedding": ({"shapes": {"model.embed_tokens": (300, 64)}}, UnsupportedModelError, "beside the layers' matrices"),
    "head": ({"shapes": {"lm_head": (64, 300)}}, UnsupportedModelError, r"changes 'lm_head\.weight'; at run time"),
    "whole modules": ({"whole": WHOLE, "modules_to_save": ["norm"]}, UnsupportedModelError, r"model\.norm\.weight"),
    "DoRA": ({"use_dora": True}, UnsupportedModelError, "DoRA"),
    "another rank": ({"r": 9}, CheckpointError, "says rank 9"),
    "another shape": (
        {"shapes": {"model.layers.0.self_attn.q_proj": (65, 64)}},
        CheckpointError,
        r"is for a weight of \[64, 65\]",
    ),
    "a layer the model lacks": (
        {"shapes": {"model.layers.5.self_attn.q_proj": (64, 64)}},
        CheckpointError,
        r"model\.layers\.5\..* which the model does not have",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_adapters_that_have_no_place(made: Made, tmp_path: Path, case: str) -> None:
    options, kind, message = REFUSED[case]
    peft = write_adapter(tmp_path / "adapter", **{"shapes": SHAPES, **options})
    with pytest.raises(kind, match=message) as raised:
        export_adapter(peft, made.base.path, output=tmp_path / "out.safetensors")
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_outputs_that_are_there(made: Made, tmp_path: Path) -> None:
    file = tmp_path / "out.safetensors"
    file.write_text("mine")
    with pytest.raises(ExportError, match="exists already"):
        export_adapter(made.peft["lamps"], made.base.path, output=file)
    assert file.read_text() == "mine"
    with pytest.raises(ExportError, match="it is a folder"):
        export_adapter(made.peft["lamps"], made.base.path, output=tmp_path, overwrite=True)
    with pytest.raises(ExportError, match="is not a folder"):
        export_adapter(made.peft["lamps"], made.base.path, output=tmp_path / "no" / "out")
    export_adapter(made.peft["lamps"], made.base.path, output=file, overwrite=True)
    assert file.read_bytes() == made.files["lamps"].read_bytes()
    with pytest.raises(BundleError, match="does not exist"):
        export_adapter(made.peft["lamps"], tmp_path / "nothing")


def rewritten(data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The file with another header."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def first(header: dict[str, Any]) -> dict[str, Any]:
    return header[next(name for name in header if name.endswith("lora_A"))]  # type: ignore[no-any-return]


def other_facts(header: dict[str, Any]) -> None:
    facts = json.loads(header["__metadata__"][METADATA])
    header["__metadata__"][METADATA] = json.dumps({**facts, "format": 99})


DAMAGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda d: b"", "is no adapter: it is too short"),
    "text": (lambda d: b"hello, this is no adapter", "is no adapter, or truncated"),
    "truncated": (lambda d: d[:-5], "is damaged: tensor '.*' is not all there"),
    "a bit": (lambda d: d[:-5] + bytes([d[-5] ^ 1]) + d[-4:], "was changed: the hash of its tensors is wrong"),
    "no header": (lambda d: d[:8] + b"x" + d[9:], "its header cannot be read"),
    "a list": (lambda d: (2).to_bytes(8, "little") + b"[]", "its header cannot be read"),
    "PEFT's": (lambda d: rewritten(d, lambda h: h.pop("__metadata__")), "not an adapter that edgelm exported"),
    "newer": (lambda d: rewritten(d, other_facts), "has adapter format 99"),
    "a shape": (lambda d: rewritten(d, lambda h: first(h).update(shape=[64, 3])), "is not all there"),
    "below zero": (lambda d: rewritten(d, lambda h: first(h).update(data_offsets=[-4, 8])), "is not all there"),
    "turned": (lambda d: rewritten(d, lambda h: first(h)["shape"].reverse()), "the hash of its tensors is wrong"),
    "a type": (lambda d: rewritten(d, lambda h: first(h).update(dtype="I64")), "is not all there"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_are_one_line(made: Made, lm: LM, tmp_path: Path, case: str) -> None:
    damage, message = DAMAGED[case]
    file = tmp_path / "adapter.safetensors"
    file.write_bytes(damage(made.files["lamps"].read_bytes()))
    with pytest.raises(AdapterError, match=message) as raised:
        lm.generate("hello", adapter=file)
    assert "\n" not in str(raised.value)
    assert lm.generate("hello", max_tokens=3).tokens


def test_a_folder_in_place_of_a_file(made: Made, lm: LM) -> None:
    with pytest.raises(AdapterError, match="is a folder") as raised:
        lm.generate("hello", adapter=made.peft["lamps"])
    assert "--adapter-only" in str(raised.value.hint)


def test_a_file_of_the_right_base_with_the_wrong_tensors(made: Made, tmp_path: Path) -> None:
    from edgelm.runtime.lora_adapter import digest_of

    adapter = RuntimeAdapter.open(made.files["lamps"])
    name = next(iter(adapter.arrays)).removesuffix("lora_A").removesuffix("lora_B")
    for change, message in (
        ({f"{name}lora_A": np.ones((64, 5), np.float32)}, "do not go together"),
        ({f"{name}lora_A": np.ones((9, 4), np.float32)}, "is for a matrix of another shape"),
        ({"model.layers.9.lora_A": np.ones((4, 4), np.float32)}, "has no place in"),
    ):
        arrays = {key: array.copy() for key, array in adapter.arrays.items()} | change
        facts = {**adapter.facts, "digest": digest_of(arrays)}
        file = tmp_path / "adapter.safetensors"
        save_file(arrays, file, {METADATA: json.dumps(facts)})
        with pytest.raises(AdapterError, match=message):
            RuntimeAdapter.open(file).expect_for(made.base)


def test_a_bundle_with_a_damaged_table(made: Made, tmp_path: Path) -> None:
    bundle = export(made.checkpoint, "x86-64", "fp32", lora_ready=True, output=tmp_path / "b")
    (bundle.path / LORA).write_text("{}")
    with pytest.raises(BundleError, match=r"lora\.json"):
        edgelm.load(bundle.path)

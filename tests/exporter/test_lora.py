"""LoRA adapters: merged while the weights are read, to the same logits as weights merged by hand."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edgelm.bundle.reader import Bundle
from edgelm.errors import CheckpointError, UnsupportedModelError
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.checkpoint.lora import Adapter
from edgelm.exporter.lora_adapter import export_adapter
from edgelm.exporter.pipeline import export
from edgelm.runtime.engine import Engine

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

RANK, ALPHA = 4, 12.0
LAYERS = tuple(f"model.layers.{i}" for i in range(2))
Q, DOWN = (tuple(f"{layer}.{part}" for layer in LAYERS) for part in ("self_attn.q_proj", "mlp.down_proj"))


def write_adapter(
    folder: Path,
    shapes: Mapping[str, tuple[int, int]],
    *,
    ranks: Mapping[str, int] | None = None,
    whole: Mapping[str, np.ndarray] | None = None,
    **config: Any,
) -> Path:
    """An adapter with random factors for the modules of `shapes` [in, out]; embeddings by their own names."""
    rng = np.random.default_rng(0)
    tensors = dict(whole or {})
    for module, (inputs, outputs) in shapes.items():
        rank = (ranks or {}).get(module, RANK)
        a, b = (rng.normal(0, 0.2, shape).astype(np.float32) for shape in ((rank, inputs), (outputs, rank)))
        names = ("lora_embedding_A", "lora_embedding_B") if "embed" in module else ("lora_A.weight", "lora_B.weight")
        tensors |= {f"{module}.{names[0]}": a, f"{module}.{names[1]}": b}
    folder.mkdir()
    save_file(
        {f"base_model.model.{name}": value for name, value in tensors.items()}, folder / "adapter_model.safetensors"
    )
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "base_model_name_or_path": "owner/base", **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def merge_by_hand(checkpoint: Path, adapter: Path, scales: Mapping[str, float]) -> Any:
    """The model of transformers with W + scale B A in place of the W of every module of `scales`, its tables apart."""
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    tensors = load_file(adapter / "adapter_model.safetensors")
    for module, scale in scales.items():
        found = model.get_submodule(module)
        a, b = (
            torch.from_numpy(
                next(v for k, v in tensors.items() if k.startswith(f"base_model.model.{module}.lora_") and x in k)
            )
            for x in (f"{'embedding_' if 'embed' in module else ''}A", f"{'embedding_' if 'embed' in module else ''}B")
        )
        change = scale * (b @ a)
        with torch.no_grad():
            found.weight += change.T if type(found).__name__ in ("Conv1D", "Embedding") else change
    return model


def check(bundle: Bundle, model: Any) -> None:
    """The same logits."""
    ids = np.random.default_rng(1).integers(3, 300, 60)
    with torch.no_grad():
        expected = model(torch.tensor(ids[None])).logits[0].numpy()
    found = Engine.load(bundle).forward(ids, len(ids))
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.ptp(expected))


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint(num_hidden_layers=2)


@pytest.fixture(scope="module")
def tied(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint(num_hidden_layers=2, tie_word_embeddings=True)


SHAPES = {**dict.fromkeys(Q, (64, 64)), **dict.fromkeys(DOWN, (96, 64))}
PLAIN = dict.fromkeys(SHAPES, ALPHA / RANK)


@pytest.mark.parametrize(
    ("options", "ranks", "scales"),
    [
        pytest.param({}, {}, PLAIN, id="alpha over rank"),
        pytest.param({"use_rslora": True}, {}, dict.fromkeys(SHAPES, ALPHA / math.sqrt(RANK)), id="rank-stabilised"),
        pytest.param(
            {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {r"layers\.1\.self_attn\.q_proj": 6, "mlp": 100}},
            dict.fromkeys(Q, 2),
            {**PLAIN, Q[0]: ALPHA / 2, Q[1]: 6 / 2},
            id="patterns",
        ),
    ],
)
def test_logits_are_those_of_weights_merged_by_hand(
    checkpoint: Path, tmp_path: Path, options: dict[str, Any], ranks: dict[str, int], scales: dict[str, float]
) -> None:
    adapter = write_adapter(tmp_path / "adapter", SHAPES, ranks=ranks, **options)
    bundle = export(checkpoint, "x86-64", "fp32", adapter=adapter, output=tmp_path / "b")
    check(bundle, merge_by_hand(checkpoint, adapter, scales))


def test_the_adapter_changes_something(checkpoint: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", SHAPES)
    plain, merged = (
        Engine.load(export(checkpoint, "x86-64", "fp32", adapter=a, output=tmp_path / str(a is None))).forward(
            [5, 6, 7]
        )
        for a in (None, adapter)
    )
    assert np.abs(plain - merged).max() > 0.1 * np.ptp(plain)


@pytest.mark.parametrize("module", ["model.embed_tokens", "lm_head"])
def test_a_change_to_one_of_two_tied_tables_leaves_the_other(tied: Path, tmp_path: Path, module: str) -> None:
    shape = (300, 64) if "embed" in module else (64, 300)
    adapter = write_adapter(tmp_path / "adapter", {module: shape, **SHAPES})
    bundle = export(tied, "x86-64", "fp32", adapter=adapter, output=tmp_path / "b")
    assert bundle.manifest.graph.tied is False
    check(bundle, merge_by_hand(tied, adapter, {module: ALPHA / RANK, **PLAIN}))


def test_tied_tables_that_are_not_changed_stay_one(tied: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", SHAPES)
    bundle = export(tied, "x86-64", "fp32", adapter=adapter, output=tmp_path / "b")
    assert bundle.manifest.graph.tied is True
    check(bundle, merge_by_hand(tied, adapter, PLAIN))


def test_modules_saved_whole_take_the_place_of_the_models(checkpoint: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    head, norm = (rng.normal(0, 0.2, shape).astype(np.float32) for shape in ((300, 64), (64,)))
    adapter = write_adapter(
        tmp_path / "adapter",
        SHAPES,
        whole={"lm_head.weight": head, "model.norm.weight": norm},
        modules_to_save=["lm_head", "norm"],
    )
    model = merge_by_hand(checkpoint, adapter, PLAIN)
    with torch.no_grad():
        model.lm_head.weight.copy_(torch.from_numpy(head))
        model.model.norm.weight.copy_(torch.from_numpy(norm))
    check(export(checkpoint, "x86-64", "fp32", adapter=adapter, output=tmp_path / "b"), model)


def test_weights_stored_by_columns(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """GPT-2's Conv1D [in, out]: told by its shape, and where it is square by the flag."""
    from edgelm.exporter import families

    if families.family_of("gpt2") is None:
        pytest.skip("no native family reads [in, out] weights")
    sizes = {"n_embd": 64, "n_layer": 1, "n_head": 4, "n_positions": 128}
    source = tiny_checkpoint("gpt2", **sizes)
    shapes = {"transformer.h.0.attn.c_attn": (64, 192), "transformer.h.0.attn.c_proj": (64, 64)}
    adapter = write_adapter(tmp_path / "adapter", shapes, fan_in_fan_out=True)
    bundle = export(source, "x86-64", "fp32", adapter=adapter, output=tmp_path / "b")
    check(bundle, merge_by_hand(source, adapter, dict.fromkeys(shapes, ALPHA / RANK)))


def test_a_slice_is_a_slice_of_the_whole(checkpoint: Path, tmp_path: Path) -> None:
    opened = Checkpoint(checkpoint, Adapter.open(write_adapter(tmp_path / "adapter", SHAPES)))
    tensor = opened.tensor(f"{DOWN[0]}.weight")
    whole = tensor.read()
    for start, count in ((0, 96), (1, 1), (95, 2), (96 * 7 + 5, 96 * 3), (64 * 96 - 4, 4), (10, 0)):
        np.testing.assert_allclose(tensor.read(start, count), whole[start : start + count], rtol=1e-5, atol=1e-6)


def test_the_manifest_and_the_folder_name_the_adapter(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    adapter = write_adapter(tmp_path / "lamps", SHAPES, use_rslora=True)
    bundle = export(checkpoint, "rpi5", "int4", adapter=adapter)
    assert bundle.path == Path("bundles") / f"{checkpoint.name}-lamps-rpi5-int4"
    facts = bundle.manifest.to_dict()["model"]["adapter"]
    assert set(facts.pop("sources")) == {"adapter_config.json", "adapter_model.safetensors"}
    assert facts == {"id": "lamps", "revision": None, "rank": RANK, "alpha": ALPHA, "rank_stabilised": True}
    assert export(checkpoint, "rpi5", "int4").manifest.model.adapter is None


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite(folder: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


def rename(old: str, new: str) -> Callable[[dict[str, np.ndarray]], None]:
    def change(tensors: dict[str, np.ndarray]) -> None:
        for name in [name for name in tensors if old in name]:
            tensors[name.replace(old, new)] = tensors.pop(name)

    return change


FIRST = f"base_model.model.{Q[0]}"
BAD: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "no config": (lambda p: (p / "adapter_config.json").unlink(), CheckpointError, r"has no adapter_config\.json"),
    "no weights": (
        lambda p: (p / "adapter_model.safetensors").unlink(),
        CheckpointError,
        r"has no adapter_model\.safetensors",
    ),
    "pickle": (
        lambda p: (p / "adapter_model.safetensors").rename(p / "adapter_model.bin"),
        CheckpointError,
        r"adapter_model\.bin is a pickle",
    ),
    "another kind": (lambda p: edit(p, peft_type="IA3"), UnsupportedModelError, "adapter of type 'IA3'"),
    "dora": (lambda p: edit(p, use_dora=True), UnsupportedModelError, "DoRA"),
    "pissa": (lambda p: edit(p, init_lora_weights="pissa_niter_16"), UnsupportedModelError, "starts from pissa"),
    "no rank": (lambda p: edit(p, r=None), CheckpointError, "key 'r' is missing"),
    "alpha a string": (lambda p: edit(p, lora_alpha="16"), CheckpointError, "key 'lora_alpha' is '16'"),
    "another rank": (lambda p: edit(p, r=8), CheckpointError, r"lora_A \[4, \d+\] .* says rank 8"),
    "bad pattern": (lambda p: edit(p, rank_pattern={"q_(proj": 2}), CheckpointError, r"'q_\(proj' in rank_pattern"),
    "truncated": (
        lambda p: (p / "adapter_model.safetensors").write_bytes((p / "adapter_model.safetensors").read_bytes()[:-9]),
        CheckpointError,
        "is truncated",
    ),
    "a module the model lacks": (
        lambda p: rewrite(p, rename("layers.1.", "layers.7.")),
        CheckpointError,
        r"changes 'model\.layers\.7\..*\.weight', which the model does not have",
    ),
    "another shape": (
        lambda p: rewrite(p, lambda t: t.update({f"{FIRST}.lora_A.weight": np.ones((4, 65), np.float32)})),
        CheckpointError,
        r"is for a weight of \[64, 65\], the model's .* has \[64, 64\]",
    ),
    "half a module": (
        lambda p: rewrite(p, lambda t: t.pop(f"{FIRST}.lora_B.weight")),
        CheckpointError,
        "only one of lora_A and lora_B",
    ),
    "a resized vocabulary": (
        lambda p: rewrite(p, lambda t: t.update({"base_model.model.lm_head.weight": np.ones((301, 64), np.float32)})),
        CheckpointError,
        r"is for a weight of \[301, 64\], the model's 'lm_head\.weight' has \[300, 64\]",
    ),
    "something new": (
        lambda p: rewrite(p, rename(f"{FIRST}.lora_A.weight", f"{FIRST}.lora_magnitude_vector")),
        UnsupportedModelError,
        "lora_magnitude_vector' cannot be merged",
    ),
    "no numbers": (
        lambda p: rewrite(p, lambda t: t[f"{FIRST}.lora_A.weight"].fill(np.nan)),
        CheckpointError,
        r"adapter_model\.safetensors: tensor '.*' holds values that are no numbers",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_adapters_are_one_line_and_leave_nothing(checkpoint: Path, tmp_path: Path, case: str) -> None:
    break_it, kind, message = BAD[case]
    break_it(write_adapter(tmp_path / "adapter", SHAPES))
    with pytest.raises(kind, match=message) as raised:
        export(checkpoint, "rpi5", "int4", adapter=tmp_path / "adapter", output=tmp_path / "out" / "b")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_there_is_no_adapter(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"adapter .*nothing does not exist"):
        export(checkpoint, "rpi5", "int4", adapter=tmp_path / "nothing", output=tmp_path / "b")


def test_an_adapter_in_place_of_a_model(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", SHAPES)
    with pytest.raises(CheckpointError, match="is a LoRA adapter, not a model") as raised:
        export(adapter, "rpi5", "int4", output=tmp_path / "b")
    assert raised.value.hint == f"give its model, and it with --adapter {adapter} (it was made for owner/base)"


def test_not_on_the_optimum_road(checkpoint: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", SHAPES)
    with pytest.raises(UnsupportedModelError, match="goes through Optimum, where an adapter cannot be merged"):
        export(checkpoint, "rpi5", "int4", adapter=adapter, exporter="optimum", output=tmp_path / "b")


WRAPPINGS = ("model.", "model.language_model.", "language_model.model.", "model.text_model.", "")


def wrapped(name: str, wrapping: str) -> str:
    """A tensor of a text model as it is called in a checkpoint or adapter of a model that takes images as well."""
    if name.startswith("lm_head"):
        return f"language_model.{name}" if wrapping == "language_model.model." else name
    return name.replace("model.", wrapping, 1)


def renamed(source: Path, folder: Path, file: str, wrapping: str) -> Path:
    """A copy whose tensors are called as in such a model; those of its part for images, too, which must not disturb."""
    copy = shutil.copytree(source, folder)
    tensors = {wrapped(name, wrapping): value for name, value in load_file(copy / file).items()}
    if file == "model.safetensors":
        tensors["vision_tower.model.layers.0.self_attn.q_proj.weight"] = np.ones((8, 8), np.float32)
    save_file(tensors, copy / file, {"format": "pt"})
    return copy


def adapter_of(folder: Path, wrapping: str) -> Path:
    """An adapter whose modules are called as in a model with such a wrapping."""
    return write_adapter(folder, {wrapped(module, wrapping): shape for module, shape in SHAPES.items()})


@pytest.mark.parametrize("stored", WRAPPINGS)
@pytest.mark.parametrize("trained", WRAPPINGS)
def test_an_adapter_of_the_same_model_in_another_wrapping(
    checkpoint: Path, tmp_path: Path, stored: str, trained: str
) -> None:
    expected = Checkpoint(checkpoint, Adapter.open(adapter_of(tmp_path / "plain", "model.")))
    copy = renamed(checkpoint, tmp_path / "c", "model.safetensors", stored)
    found = Checkpoint(copy, Adapter.open(adapter_of(tmp_path / "a", trained)))
    for name in expected.names():
        np.testing.assert_array_equal(found.tensor(name).read(), expected.tensor(name).read())
    changes = {found.key(f"{module}.weight") for module in SHAPES}
    plain = Checkpoint(copy)
    assert changes == {n for n in plain.names() if not np.array_equal(plain.tensor(n).read(), found.tensor(n).read())}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (".weight", ".default.weight"),
        (".weight", ".lamps.weight"),
        (".weight", ""),
        ("base_model.model.", "base_model.model.base_model.model."),
        ("base_model.model.", ""),
    ],
)
def test_other_names_of_the_same_adapter(checkpoint: Path, tmp_path: Path, before: str, after: str) -> None:
    plain = adapter_of(tmp_path / "plain", "model.")
    other = shutil.copytree(plain, tmp_path / "other")
    tensors = load_file(plain / "adapter_model.safetensors")
    save_file(
        {name.replace(before, after): value for name, value in tensors.items()}, other / "adapter_model.safetensors"
    )
    expected, found = (Checkpoint(checkpoint, Adapter.open(folder)) for folder in (plain, other))
    for name in expected.names():
        np.testing.assert_array_equal(found.tensor(name).read(), expected.tensor(name).read())


def test_several_adapters_in_a_file(checkpoint: Path, tmp_path: Path) -> None:
    folder = adapter_of(tmp_path / "a", "model.")
    tensors = load_file(folder / "adapter_model.safetensors")
    both = {name.replace(".weight", f".{own}.weight"): v for name, v in tensors.items() for own in ("one", "two")}
    save_file(both, folder / "adapter_model.safetensors")
    with pytest.raises(UnsupportedModelError, match="holds several adapters"):
        Checkpoint(checkpoint, Adapter.open(folder))


@pytest.mark.parametrize("stored", WRAPPINGS[:3])
def test_at_run_time_as_merged(checkpoint: Path, tmp_path: Path, stored: str) -> None:
    copy = renamed(checkpoint, tmp_path / "c", "model.safetensors", stored)
    base = export(copy, "x86-64", "fp32", output=tmp_path / "b", lora_ready=True, exporter="native")
    files = [
        export_adapter(adapter_of(tmp_path / f"a{i}", trained), base.path, output=tmp_path / f"{i}.safetensors")
        for i, trained in enumerate(WRAPPINGS)
    ]
    tensors = [load_file(file) for file in files]
    assert len(tensors[0]) == 2 * 2 * 2  # A and B of two matrices of two layers
    for other in tensors[1:]:
        assert other.keys() == tensors[0].keys()
        assert all(np.array_equal(other[name], tensors[0][name]) for name in other)


def test_an_adapter_of_a_model_without_its_head(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    source = tiny_checkpoint("gpt2", n_embd=64, n_layer=2, n_head=4, n_positions=128)
    modules = {f"h.{i}.attn.c_attn": (64, 192) for i in range(2)}
    adapters = [
        write_adapter(
            tmp_path / f"a{prefix}", {prefix + name: shape for name, shape in modules.items()}, fan_in_fan_out=True
        )
        for prefix in ("transformer.", "")
    ]
    merged = [Checkpoint(source, Adapter.open(adapter)) for adapter in adapters]
    for name in modules:
        one, other = (found.tensor(f"transformer.{name}.weight").read() for found in merged)
        np.testing.assert_array_equal(one, other)
        assert not np.array_equal(one, Checkpoint(source).tensor(f"transformer.{name}.weight").read())


@pytest.mark.parametrize("module", ["model.embed_tokens", "lm_head"])
def test_a_head_that_only_claims_to_be_tied(checkpoint: Path, tmp_path: Path, module: str) -> None:
    adapter = write_adapter(tmp_path / "a", {module: (300, 64) if "embed" in module else (64, 300)})
    copy = shutil.copytree(checkpoint, tmp_path / "c")
    config = json.loads((copy / "config.json").read_text()) | {"tie_word_embeddings": True}
    (copy / "config.json").write_text(json.dumps(config))
    bundle = export(copy, "x86-64", "fp32", adapter=adapter, output=tmp_path / "b")
    check(bundle, merge_by_hand(checkpoint, adapter, {module: ALPHA / RANK}))


def with_config(adapter: Path, checkpoint: Path) -> Path:
    """The adapter's folder with the model's config.json and tokenizer in it, as some trainers leave it."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (checkpoint / name).exists():
            shutil.copy(checkpoint / name, adapter / name)
    return adapter


def test_an_adapter_folder_with_a_config_json(checkpoint: Path, tmp_path: Path) -> None:
    adapter = with_config(write_adapter(tmp_path / "a", SHAPES), checkpoint)
    plain = write_adapter(tmp_path / "plain", SHAPES)
    merged = [Checkpoint(checkpoint, Adapter.open(folder)) for folder in (adapter, plain)]
    for name in merged[0].names():
        np.testing.assert_array_equal(merged[0].tensor(name).read(), merged[1].tensor(name).read())
    base = export(checkpoint, "x86-64", "fp32", output=tmp_path / "b", lora_ready=True)
    files = [export_adapter(f, base.path, output=tmp_path / f"{f.name}.safetensors") for f in (adapter, plain)]
    one, other = (load_file(file) for file in files)
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_such_a_folder_is_still_no_model(checkpoint: Path, tmp_path: Path) -> None:
    adapter = with_config(write_adapter(tmp_path / "a", SHAPES), checkpoint)
    with pytest.raises(CheckpointError, match="is a LoRA adapter, not a model"):
        export(adapter, "x86-64", "fp32", output=tmp_path / "b")


@pytest.mark.parametrize("single", [True, False])
def test_a_model_with_an_adapter_beside_its_weights(checkpoint: Path, tmp_path: Path, single: bool) -> None:
    copy = shutil.copytree(checkpoint, tmp_path / "c")
    adapter = write_adapter(tmp_path / "a", SHAPES)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(adapter / name, copy / name)
    if not single:
        (copy / "model.safetensors").rename(copy / "weights.safetensors")
    found, plain = Checkpoint(copy), Checkpoint(checkpoint)
    assert found.names() == plain.names()
    assert len(found.files) == 1
    assert Adapter.open(copy).tensors

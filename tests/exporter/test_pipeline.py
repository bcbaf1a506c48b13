"""The conversion as a whole: same bytes every time, one copy of tied weights, and one line for bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelm.bundle.reader import DATA, Bundle
from edgelm.bundle.writer import writing
from edgelm.errors import CheckpointError, EdgeLMError, ExportError, OptionError, TargetError, UnsupportedModelError
from edgelm.exporter.pipeline import export
from edgelm.exporter.progress import Progress
from edgelm.runtime.engine import Engine

TARGETS = ("rpi4", "rpi5", "x86-64", "android-arm64-i8mm")


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint(tie_word_embeddings=True, num_hidden_layers=1)


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint that a test may damage."""
    return shutil.copytree(checkpoint, tmp_path / "checkpoint")


def files(bundle: Bundle) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(bundle.path.iterdir())}


@pytest.mark.parametrize("quant", ["fp32", "fp16", "int8", "int4"])
def test_two_exports_give_the_same_bytes(checkpoint: Path, tmp_path: Path, quant: str) -> None:
    one = export(checkpoint, "rpi5", quant, output=tmp_path / "one")
    two = export(checkpoint, "rpi5", quant, output=tmp_path / "elsewhere" / "two")
    assert files(one) == files(two)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("quant", ["fp16", "int8", "int4"])
def test_every_recipe_runs_and_keeps_the_meaning(checkpoint: Path, tmp_path: Path, target: str, quant: str) -> None:
    ids = np.random.default_rng(0).integers(3, 300, 60)
    exact = Engine.load(export(checkpoint, target, "fp32", output=tmp_path / "fp32")).forward(ids, 60)
    bundle = export(checkpoint, target, quant, output=tmp_path / "b")
    logits = Engine.load(bundle).forward(ids, 60)
    closeness = np.corrcoef(exact.ravel(), logits.ravel())[0, 1]
    assert closeness > {"fp16": 0.99999, "int8": 0.995, "int4": 0.8}[quant]


@pytest.mark.parametrize("quant", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("target", ["rpi4", "rpi5", "x86-64"])
def test_tied_weights_are_stored_once(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, target: str, quant: str
) -> None:
    sizes = []
    for tied in (True, False):
        source = tiny_checkpoint(tie_word_embeddings=tied, num_hidden_layers=1, vocab_size=4096)
        bundle = export(source, target, quant, output=tmp_path / str(tied))
        assert bundle.manifest.graph.tied is tied
        sizes.append(bundle.files["model.onnx.data"].bytes)
    bits = {"fp32": 32, "int8": 8, "int4": 4}[quant]
    assert sizes[1] - sizes[0] >= 0.9 * 4096 * 64 * bits / 8


def test_the_manifest_traces_its_origin(checkpoint: Path, tmp_path: Path) -> None:
    manifest = export(checkpoint, "rpi5", "int4", output=tmp_path / "b").manifest.to_dict()
    assert set(manifest["model"]["sources"]) == {"config.json", "model.safetensors"}
    assert manifest["target"] == "rpi5"
    assert manifest["recipe"]["body"] == {"op": "MatMulNBits", "bits": 4, "block": 32}
    assert manifest["recipe"]["embedding"]["shared_with"] == "head"
    assert manifest["special_tokens"] == {"bos": 1, "eos": [2], "pad": None}
    assert manifest["memory"]["total_bytes"] > manifest["memory"]["kv_bytes"] > 0


def test_int8_avoids_matmulnbits_without_dot_products(checkpoint: Path, tmp_path: Path) -> None:
    graph = export(checkpoint, "rpi4", "int8", output=tmp_path / "b").model_path.read_bytes()
    assert b"DynamicQuantizeMatMul" in graph
    assert b"MatMulNBits" not in graph


def test_context_is_the_targets_or_what_is_asked(checkpoint: Path, tmp_path: Path) -> None:
    assert export(checkpoint, "rpi5", "int4", output=tmp_path / "a").context == 128  # all the model has
    assert export(checkpoint, "rpi5", "int4", output=tmp_path / "b", context=100).context == 100
    with pytest.raises(ExportError, match=r"context 129 is more than the model was made for \(128 tokens\)"):
        export(checkpoint, "rpi5", "int4", output=tmp_path / "c", context=129)
    with pytest.raises(OptionError):
        export(checkpoint, "rpi5", "int4", output=tmp_path / "c", context=0)
    assert not (tmp_path / "c").exists()


def test_progress_counts_every_weight(checkpoint: Path, tmp_path: Path) -> None:
    class Count(Progress):
        def __init__(self) -> None:
            self.stages: list[list[Any]] = []

        def start(self, what: str, total: int) -> None:
            self.stages.append([what, total, 0])

        def advance(self, units: int, detail: str = "") -> None:
            self.stages[-1][2] += units

    count = Count()
    export(checkpoint, "rpi5", "int4", output=tmp_path / "b", progress=count)
    for what, total, done in count.stages:
        assert 0.95 * total <= done <= total, what


def add_tensors(path: Path, *names: str) -> None:
    """More tensors in a file, of the last norm's values."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(path)
    save_file(tensors | {name: tensors["model.norm.weight"].copy() for name in names}, path)


def damage_header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite a safetensors header."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


def truncate(path: Path, by: int) -> None:
    os.truncate(path, path.stat().st_size - by)


BAD: dict[str, tuple[Callable[[Path], Any], type[EdgeLMError], str]] = {
    "no folder": (shutil.rmtree, CheckpointError, "does not exist"),
    "no config": (lambda p: (p / "config.json").unlink(), CheckpointError, r"config\.json is missing"),
    "config not json": (
        lambda p: (p / "config.json").write_text("{"),
        CheckpointError,
        r"config\.json is not valid JSON",
    ),
    "config a list": (lambda p: (p / "config.json").write_text("[]"), CheckpointError, "expected a JSON object"),
    "no weights": (lambda p: (p / "model.safetensors").unlink(), CheckpointError, r"has no \*\.safetensors"),
    "pickle": (lambda p: (p / "model.safetensors").rename(p / "pytorch_model.bin"), CheckpointError, "is a pickle"),
    "truncated": (
        lambda p: truncate(p / "model.safetensors", 100),
        CheckpointError,
        r"is truncated: [\d,]+ bytes, expected [\d,]+",
    ),
    "truncated header": (lambda p: os.truncate(p / "model.safetensors", 30), CheckpointError, "is truncated"),
    "empty weights": (lambda p: os.truncate(p / "model.safetensors", 0), CheckpointError, "is truncated"),
    "weights not safetensors": (
        lambda p: (p / "model.safetensors").write_bytes(b"\x10" + bytes(100)),
        CheckpointError,
        "not a safetensors file",
    ),
    "no hidden size": (lambda p: edit_config(p, hidden_size=...), CheckpointError, "key 'hidden_size' is missing"),
    "hidden size a string": (lambda p: edit_config(p, hidden_size="64"), CheckpointError, "key 'hidden_size' is '64'"),
    "no heads": (lambda p: edit_config(p, num_attention_heads=0), CheckpointError, "num_attention_heads"),
    "no model type": (lambda p: edit_config(p, model_type=...), CheckpointError, "key 'model_type' is missing"),
    "wrong width": (
        lambda p: edit_config(p, intermediate_size=100),
        CheckpointError,
        r"has shape \[96, 64\], config.json says \[100, 64\]",
    ),
    "missing tensor": (
        lambda p: edit_config(p, num_hidden_layers=2),
        CheckpointError,
        r"tensor 'model\.layers\.1.*' is missing",
    ),
    "extra layer": (lambda p: edit_config(p, num_hidden_layers=...), CheckpointError, "num_hidden_layers"),
    "extra tensors": (
        lambda p: add_tensors(p / "model.safetensors", "model.layers.0.self_attn.q_proj.bias"),
        CheckpointError,
        r"tensor 'model\.layers\.0\.self_attn\.q_proj\.bias' has no place",
    ),
    "unknown rope": (
        lambda p: edit_config(p, rope_scaling={"rope_type": "spiral"}),
        UnsupportedModelError,
        "rope type 'spiral'",
    ),
    "unknown activation": (lambda p: edit_config(p, hidden_act="sine"), UnsupportedModelError, "hidden_act 'sine'"),
    "no tokenizer": (lambda p: (p / "tokenizer.json").unlink(), CheckpointError, r"tokenizer\.json is missing"),
    "broken tokenizer": (
        lambda p: (p / "tokenizer.json").write_text("{}"),
        CheckpointError,
        r"tokenizer\.json cannot be read",
    ),
    "integer weights": (
        lambda p: damage_header(p / "model.safetensors", lambda h: h["model.norm.weight"].update(dtype="I32")),
        CheckpointError,
        "is stored as I32",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_checkpoints_are_one_line_and_leave_nothing(copy: Path, tmp_path: Path, case: str) -> None:
    break_it, kind, message = BAD[case]
    break_it(copy)
    with pytest.raises(kind, match=message) as raised:
        export(copy, "rpi5", "int4", output=tmp_path / "out" / "bundle", exporter="native")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_named(copy: Path, tmp_path: Path, value: float) -> None:
    path = copy / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-4:] = np.float32(value).tobytes()
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tensor 'model\..*' holds (NaN|infinite) values"):
        export(copy, "rpi5", "int4", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


KILLED = """
import os, sys
from edgelm.exporter.pipeline import export
from edgelm.exporter.progress import Progress

class Killer(Progress):
    def advance(self, units, detail=""):
        if "mlp" in detail:
            os.kill(os.getpid(), int(sys.argv[3]))

export(sys.argv[1], "rpi5", "int4", output=sys.argv[2], progress=Killer())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_export_leaves_nothing_that_looks_whole(checkpoint: Path, tmp_path: Path, number: int) -> None:
    output = tmp_path / "bundles" / "b"
    command = [sys.executable, "-c", KILLED, str(checkpoint), str(output), str(int(number))]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -number
    assert not output.exists()
    left = list(tmp_path.rglob("*"))
    assert left == [] if number == signal.SIGINT else left
    export(checkpoint, "rpi5", "int4", output=output)
    assert [path.name for path in output.parent.iterdir()] == ["b"]  # what was left is gone


def test_an_export_leaves_another_one_to_the_same_place_alone(checkpoint: Path, tmp_path: Path) -> None:
    with writing(tmp_path / "b") as writer:
        writer.write_text("a.txt", "half")
        export(checkpoint, "rpi5", "int4", output=tmp_path / "b")
        assert writer.path("a.txt").exists()


def test_tensors_outside_the_layers_are_named_and_left_out(copy: Path, tmp_path: Path) -> None:
    class Heard(Progress):
        def say(self, line: str) -> None:
            heard.append(line)

    heard: list[str] = []
    path = copy / "model.safetensors"
    add_tensors(path, "score.weight", "v.bias")
    export(copy, "rpi5", "int4", output=tmp_path / "b", progress=Heard())
    assert heard == ["left out, as a llama decoder has no place for it: 'score.weight' and 1 more"]


def test_tied_where_neither_config_nor_file_has_a_head(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_checkpoint(tie_word_embeddings=True), tmp_path / "c")
    expected = export(copy, "rpi5", "int4", output=tmp_path / "said").manifest.to_dict()
    edit_config(copy, tie_word_embeddings=...)
    found = export(copy, "rpi5", "int4", output=tmp_path / "silent").manifest.to_dict()
    assert found["graph"]["tied"]
    assert found["files"][DATA] == expected["files"][DATA]


def test_where_neither_road_can_the_file_to_extend_is_named(copy: Path, tmp_path: Path) -> None:
    pytest.importorskip("optimum.exporters.onnx")
    edit_config(copy, rope_scaling={"rope_type": "spiral", "factor": 2.0})
    with pytest.raises(ExportError, match=r"Optimum cannot export .*; and .*rope type 'spiral'") as raised:
        export(copy, "rpi5", "int4", output=tmp_path / "out")
    assert raised.value.hint == "extend edgelm/exporter/families/rope.py"
    assert not (tmp_path / "out").exists()


def test_a_missing_shard_is_named(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    source = shutil.copytree(tiny_checkpoint(shard="60KB"), tmp_path / "sharded")
    shard = sorted(source.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"{shard.name} is missing"):
        export(source, "rpi5", "int4", output=tmp_path / "out")


def test_unknown_names(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="unknown target 'rpi6'"):
        export(checkpoint, "rpi6", output=tmp_path / "out")
    with pytest.raises(TargetError, match="has no recipe 'int5'"):
        export(checkpoint, "rpi5", "int5", output=tmp_path / "out")
    with pytest.raises(OptionError, match="exporter must be"):
        export(checkpoint, "rpi5", output=tmp_path / "out", exporter="magic")  # type: ignore[arg-type]


def test_an_unsupported_architecture_lists_the_native_ones(copy: Path, tmp_path: Path) -> None:
    edit_config(copy, model_type="perceiver")
    with pytest.raises(UnsupportedModelError, match=r"no native family for model type 'perceiver' \(native: .*llama"):
        export(copy, "rpi5", "int4", output=tmp_path / "out", exporter="native")


def test_the_disk_is_measured_before_the_work(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(ExportError, match="not enough disk"):
        export(checkpoint, "rpi5", "int4", output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real file system of 100 kB, with the first check silenced."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        monkeypatch.setattr("edgelm.exporter.sizing.preflight.free_disk", lambda _: 1 << 40)
        with pytest.raises(ExportError, match="disk full while writing"):
            export(checkpoint, "rpi5", "fp32", output=disk / "out")
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_an_unwritable_output(checkpoint: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.access(closed, os.W_OK):
        pytest.skip("root may write anywhere")
    with pytest.raises(ExportError, match="no permission"):
        export(checkpoint, "rpi5", output=closed / "out")

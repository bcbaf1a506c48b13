"""Whether a model fits is told from its headers, with figures, and what is suggested does fit."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgelm.errors import ExportError
from edgelm.exporter import families
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.checkpoint.prequantized import Scheme
from edgelm.exporter.model.decoder import Decoder
from edgelm.exporter.pipeline import export
from edgelm.exporter.recipe import Choices
from edgelm.exporter.sizing import footprint, preflight
from edgelm.exporter.sizing.preflight import Sizes
from edgelm.machine.host import MemoryInfo
from edgelm.target.target import Target, load_target

SMOLLM2_135M = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}


def decoder(**changes: object) -> Decoder:
    config = Config({**SMOLLM2_135M, **changes}, Path("config.json"))
    family = families.family_of(config.model_type)
    assert family is not None
    return family.describe(config)


def board(name: str, usable_mb: int | None = None) -> Target:
    target = load_target(name)
    return replace(target, memory=replace(target.memory, usable_mb=usable_mb)) if usable_mb else target


def plan(target: Target, **changes: object) -> Sizes:
    model = decoder(**changes)
    return Sizes("model", target, lambda spec: footprint.of_decoder(model, spec, target))


@pytest.mark.parametrize(
    ("target", "quant", "bits"),
    [
        # Layers: 39.4 % in blocks of 32 at 7.125 bits, as much in blocks of 64 at 5.5625; the head: 21.1 % at 9.5.
        ("x86-64", "int4", 7.0),
        ("rpi5", "int4", 0.789 * 4.5 + 0.211 * 8.25),
        ("rpi4", "int4", 5.0),
        ("rpi4", "int8", 8.0),
        ("rpi5", "fp16", 32),
    ],
)
def test_weights_in_memory_are_counted_as_onnxruntime_packs_them(target: str, quant: str, bits: float) -> None:
    need = plan(board(target)).need(quant, 1024)
    assert 8 * need.device.packed_bytes / need.footprint.parameters == pytest.approx(bits, rel=0.01)


def test_codes_of_a_quantised_checkpoint_are_taken_over() -> None:
    target, model = board("x86-64"), decoder(vocab_size=512)
    taken = footprint.of_decoder(model, target.recipe("int8"), target, Scheme("gptq", 4, 64))
    assert 8 * taken.read / taken.parameters == pytest.approx(4 + 32 / 64, rel=0.02)
    plain = footprint.of_decoder(model, target.recipe("int8"), target)
    assert taken.host > plain.host


def test_the_parts_make_the_whole() -> None:
    device = plan(board("rpi5")).need("int4", 1024).device
    assert device.kv_bytes_per_token == 30 * 2 * 3 * 64 * 4
    assert device.kv_bytes == 1024 * device.kv_bytes_per_token
    parts = ("packed", "table", "kv", "activations", "logits", "runtime")
    assert device.total_bytes == sum(getattr(device, f"{part}_bytes") for part in parts)


def test_few_of_the_matrices_for_prompts_stand_at_once() -> None:
    same, own = (
        replace(plan(board("x86-64")), choices=Choices(prefill=kind)).need("int4", 1024).device
        for kind in ("same", "int8")
    )
    assert (same.prefill_bytes, same.passing_bytes) == (0, 0)
    assert own.prefill_bytes > own.passing_bytes > 0
    assert own.total_bytes == same.total_bytes + own.passing_bytes


def test_an_embedding_of_its_own_is_counted() -> None:
    tied, untied = (plan(board("rpi5"), tie_word_embeddings=t).need("int4", 1024).device for t in (True, False))
    assert (tied.table_bytes, untied.table_bytes) == (0, 49152 * (576 + 576 // 64 * 4))
    assert untied.total_bytes - tied.total_bytes == untied.table_bytes


@pytest.mark.parametrize("quant", ["int4", "int8", "fp32"])
@pytest.mark.parametrize("tied", [True, False])
def test_it_is_what_the_export_then_finds(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, quant: str, tied: bool
) -> None:
    source = tiny_checkpoint(tie_word_embeddings=tied)
    checkpoint, target = Checkpoint(source), board("rpi5")
    model = families.llama.describe(checkpoint.config)  # type: ignore[attr-defined]
    taken = footprint.of_decoder(model, target.recipe(quant), target)
    bundle = export(source, "rpi5", quant, output=tmp_path / "b", context=100)
    assert bundle.manifest.memory == taken.device(100)
    assert taken.stored <= bundle.files["model.onnx.data"].bytes <= taken.stored + 64_000
    assert bundle.size <= taken.disk


def refused(plan: Sizes, quant: str, context: int, folder: Path) -> tuple[str, str]:
    with pytest.raises(ExportError) as raised:
        preflight.check(plan, quant, context, folder / "bundle")
    assert raised.value.hint is not None
    return str(raised.value), raised.value.hint


def test_too_large_for_the_device_is_told_with_figures(tmp_path: Path) -> None:
    message, _ = refused(plan(board("rpi4", 300)), "fp32", 2048, tmp_path)
    assert re.fullmatch(
        r"model as fp32 with a context of 2,048 tokens needs [\d,]+ MB, rpi4 has 315 MB for a model "
        r"\(weights 538 MB, KV cache 94 MB, activations and runtime \d+ MB\)",
        message,
    )


@pytest.mark.parametrize("usable_mb", [200, 250, 300, 350, 400, 500, 700])
@pytest.mark.parametrize("quant", ["int8", "int4", "fp32"])
def test_what_is_suggested_fits(tmp_path: Path, usable_mb: int, quant: str) -> None:
    wanted, asked = plan(board("rpi4", usable_mb)), 8192
    if wanted.need(quant, asked).fits:
        pytest.skip("it fits")
    _, hint = refused(wanted, quant, asked, tmp_path)
    ways = re.findall(r"--(?:quant|context)[^,;]*", hint)
    for way in ways:
        contexts, quants = re.search(r"--context (\d+)", way), re.search(r"--quant ([\w ]+?)(?: --|$)", way)
        for other in quants[1].split(" or ") if quants else [quant]:
            assert wanted.need(other, int(contexts[1]) if contexts else asked).fits, hint
    model = re.search(r"a model of at most about (\d+) M parameters as (\w+)", hint)
    assert model is not None
    assert int(model[1]) < 135 or ways, hint


def test_the_longest_context_is_suggested(tmp_path: Path) -> None:
    wanted = plan(board("rpi4", 400))
    _, hint = refused(wanted, "int8", 8192, tmp_path)
    found = re.search(r"--context (\d+)", hint)
    assert found is not None
    assert int(found[1]) % 256 == 0
    assert not wanted.need("int8", int(found[1]) + 256).fits


def test_a_model_of_the_size_suggested_fits(tmp_path: Path) -> None:
    target = board("rpi4", 200)
    _, hint = refused(plan(target), "int8", 2048, tmp_path)
    found = re.search(r"about (\d+) M parameters as int4", hint)
    assert found is not None
    heads = {"num_attention_heads": 7, "num_key_value_heads": 1}
    need = plan(target, hidden_size=448, intermediate_size=1216, num_hidden_layers=28, **heads).need("int4", 2048)
    assert 0.8 < need.footprint.parameters / 1e6 / int(found[1]) <= 1
    assert need.fits


def test_a_board_on_which_nothing_fits(tmp_path: Path) -> None:
    _, hint = refused(plan(board("rpi4", 40)), "int8", 1024, tmp_path)
    assert hint.startswith("no model of this vocabulary fits: the runtime alone takes ")


def test_little_memory_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = plan(board("rpi4"))
    enough = wanted.need("fp32", 1024).footprint.host
    memory = MemoryInfo(10**9, enough, 0, 0, None, None, None)
    monkeypatch.setattr(preflight, "read_memory", lambda: memory)
    preflight.check(wanted, "fp32", 1024, tmp_path / "bundle")
    message, hint = refused(wanted, "int8", 1024, tmp_path)  # whose largest matrix is turned round in memory
    assert re.fullmatch(r"not enough memory to export model as int8: \d+ MB are needed, \d+ MB are free", message)
    assert hint.startswith("would fit: --quant fp16 or fp32; else stop other programs")


def test_little_disk_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = plan(board("rpi4"))
    enough = wanted.need("int8", 1024).footprint.disk
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=enough))
    preflight.check(wanted, "int8", 1024, tmp_path / "not" / "yet" / "bundle")
    message, hint = refused(wanted, "fp32", 1024, tmp_path)
    assert message.startswith(f"not enough disk for {tmp_path / 'bundle'}: ")
    assert hint.startswith("would fit: --quant int8 or int4; else free some space")


def test_force_makes_warnings_of_it(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="has 63 MB for a model"):
        export(tiny_checkpoint(), board("rpi5", 60), "int4", output=tmp_path / "b")
    assert not (tmp_path / "b").exists()
    with pytest.warns(UserWarning, match="has 63 MB for a model"):
        bundle = export(tiny_checkpoint(), board("rpi5", 60), "int4", output=tmp_path / "b", force=True)
    assert bundle.path.is_dir()


def test_a_model_on_optimums_road_is_estimated(tiny_checkpoint: Callable[..., Path]) -> None:
    checkpoint, target = Checkpoint(tiny_checkpoint("bloom", num_key_value_heads=4)), board("x86-64")
    taken = footprint.of_checkpoint(checkpoint, target.recipe("int4"), target)
    assert taken.kv_per_token == 3 * 2 * 64 * 4
    assert taken.trace == 4 * taken.parameters
    assert taken.host > 4 * 4 * taken.parameters
    assert taken.device(100).total_bytes > 2 * 100 * taken.kv_per_token  # a step returns a longer copy

"""A bundle on a machine that suits it badly: a warning and an answer, never silence."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from manifests import manifest

from edgelm.bundle.reader import Bundle
from edgelm.errors import BundleError, EdgeLMWarning
from edgelm.exporter.pipeline import export
from edgelm.machine.host import CpuInfo, read_cpu
from edgelm.runtime import model as models
from edgelm.runtime.engine import Engine
from edgelm.runtime.ort import session as runtime
from edgelm.target.fallback import find_fallback


def core(name: str, *features: str) -> CpuInfo:
    here = read_cpu()
    return CpuInfo("aarch64", name, frozenset(features), here.cores, here.allowed, None)


A72 = core("Raspberry Pi 4 Model B", "fp", "asimd", "crc32")
A710 = core("phone", "asimd", "fphp", "asimdhp", "asimddp", "i8mm", "bf16")


def recipe_of(op: str, bits: int, block: int | None = None) -> dict[str, Any]:
    return {role: {"op": op, "bits": bits, "block": block} for role in ("body", "head")}


NBITS, PER_CHANNEL = recipe_of("MatMulNBits", 8), recipe_of("DynamicQuantizeMatMul", 8)
FOUR_BITS = recipe_of("MatMulNBits", 4, 32)


def test_a_recipe_that_falls_back_is_warned_of_once(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "read_cpu", lambda: A72)
    bundle = replace(tiny_bundle, manifest=replace(tiny_bundle.manifest, recipe=manifest(recipe=NBITS).recipe))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        Engine.load(bundle)
    (warning,) = caught
    assert warning.category is EdgeLMWarning
    assert "no dotprod: 30x the work of int8 by DynamicQuantizeMatMul; better: edgelm export " in str(warning.message)
    assert "--target rpi4 --quant int8" in str(warning.message)


@pytest.mark.parametrize(
    ("cpu", "recipe", "provider", "slow"),
    [
        (A72, NBITS, "cpu", "30x"),
        (A72, FOUR_BITS, "cpu", "6x"),
        (A72, PER_CHANNEL, "cpu", None),
        (A710, NBITS, "cpu", None),
        (A710, PER_CHANNEL, "cpu", None),
        (A72, NBITS, "cuda", None),
        (A72, recipe_of("MatMul", 32), "cpu", None),
        (read_cpu(), NBITS, "cpu", None),
    ],
)
def test_which_recipes_fall_back(cpu: CpuInfo, recipe: dict[str, Any], provider: str, slow: str | None) -> None:
    found = find_fallback(manifest(recipe=recipe, provider=provider, quant="int8"), cpu)
    assert (found is None) == (slow is None)
    assert found is None or slow in found.detail


def test_the_command_line_warns_in_one_line(tiny_bundle: Bundle) -> None:
    """On this machine CUDA is missing: one line on stderr, the answer on stdout, exit code 0."""
    code = (
        "import dataclasses, sys, edgelm.bundle.reader as b\n"
        "read = b._read_manifest\n"
        "b._read_manifest = lambda folder: dataclasses.replace(read(folder), provider='cuda')\n"
        "from edgelm.cli import main\n"
        f"sys.exit(main(['run', {str(tiny_bundle.path)!r}, '-p', 'hi', '--max-tokens', '2']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["warning"]
    assert "no cuda provider: running on the CPU instead" in done.stderr


class Providers:
    """An onnxruntime that lists CUDA, and what becomes of a session on it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, on_cuda: Callable[[Any, list[str]], Any]) -> None:
        names, real = ["CUDAExecutionProvider", "CPUExecutionProvider"], runtime.ort.InferenceSession
        self.asked: list[list[str]] = []

        def session(model: str, options: Any, *, providers: list[str], **more: Any) -> Any:
            self.asked.append(providers)
            cpu = real(model, options, providers=["CPUExecutionProvider"], **more)
            return on_cuda(cpu, providers) if "CUDAExecutionProvider" in providers else cpu

        monkeypatch.setattr(runtime.ort, "get_available_providers", lambda: names)
        monkeypatch.setattr(runtime.ort, "InferenceSession", session)


def test_a_provider_whose_library_does_not_load(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then onnxruntime makes the session on the CPU and says nothing."""
    Providers(monkeypatch, lambda session, _: session)
    with pytest.warns(EdgeLMWarning, match="provider's libraries cannot be loaded: running on the CPU") as caught:
        engine = Engine.load(Bundle(tiny_bundle.path, replace(tiny_bundle.manifest, provider="cuda")))
    assert (engine.provider, len(caught)) == ("CPUExecutionProvider", 1)
    assert engine.forward([5]).shape == (1, engine.vocab_size)


@pytest.mark.parametrize("error", [RuntimeError("CUDA failure 2: out of memory\nmore"), MemoryError()])
def test_a_provider_that_fails(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(session: Any, providers: list[str]) -> Any:
        raise error

    fake = Providers(monkeypatch, fail)
    with pytest.warns(EdgeLMWarning, match=r"the cuda provider failed \(.*\): running on the CPU") as caught:
        engine = Engine.load(Bundle(tiny_bundle.path, replace(tiny_bundle.manifest, provider="cuda")))
    assert "\n" not in str(caught[0].message)
    assert fake.asked[-1] == ["CPUExecutionProvider"]
    assert engine.provider == "CPUExecutionProvider"


def test_where_the_cpu_fails_too_it_is_an_error(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(BundleError, match="cannot be loaded"):
        Engine.load(Bundle(tmp_path, replace(tiny_bundle.manifest, provider="cuda")))


@pytest.mark.parametrize("quant", ["int4", "int8", "fp16"])
def test_the_jetsons_graph_agrees_with_transformers(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, quant: str
) -> None:
    """fp16 activations, scales and cache on the CPU's fp16 kernels, against transformers in fp32 with the same
    rounded weights. fp16 has 11 bits; 8-bit activations, which some kernels use, 8: hence the bounds.
    """
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    checkpoint, ids = tiny_checkpoint(initializer_range=0.1), np.random.default_rng(0).integers(3, 300, 60)
    bundle = export(checkpoint, "jetson-orin-nano", quant, output=tmp_path / "b")
    assert bundle.manifest.graph.activations == "float16"
    assert bundle.manifest.recipe.kv.spec.bits == 16
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    if quant != "fp16":
        _round(model, quant)
    with torch.no_grad():
        expected = model(torch.tensor(ids[None])).logits[0].numpy()
    with pytest.warns(EdgeLMWarning, match="cuda"):
        engine = Engine.load(bundle)
    prefill = engine.forward(ids, len(ids)).copy()
    engine.reset()
    steps = np.concatenate([engine.forward([int(token)]).copy() for token in ids])
    bound = (0.01 if quant == "fp16" else 0.06) * np.ptp(expected)
    for found in (prefill, steps):
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, expected, atol=bound)
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > (0.9999 if quant == "fp16" else 0.998)


def _round(model: Any, quant: str) -> None:
    """Round the matrices as the Jetson's recipe does."""
    import torch

    from edgelm.exporter.formats.blocked import Blocked
    from edgelm.exporter.formats.rounding.rtn import quantize_blocks
    from edgelm.exporter.formats.rounding.search import search_blocks

    bits = int(quant[3:])
    format, quantize = Blocked(bits, 32 if bits == 4 else 128), search_blocks if bits == 4 else quantize_blocks
    with torch.no_grad():
        for weight in (p for p in model.parameters() if p.dim() == 2):
            block = format.fit(weight.shape[1]).block
            codes, scales = quantize(weight.numpy(), bits, block)
            scales = scales.astype(np.float16).astype(np.float32)
            values = (codes.astype(np.float32) - (1 << (bits - 1))) * scales.repeat(block, axis=1)
            weight.copy_(torch.from_numpy(values[:, : weight.shape[1]]))

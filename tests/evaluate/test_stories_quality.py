"""What quantisation costs a real model: perplexity of stories260K on text held out from its training."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgelm.evaluate.perplexity import perplexity
from edgelm.exporter.pipeline import export
from edgelm.runtime.engine import Engine
from edgelm.runtime.lm import load

CHUNKS = 40


@pytest.fixture(scope="module")
def ids(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """The end of the TinyStories sample, tokenised."""
    bundle = export(data_dir / "stories260K", "rpi5", "fp32", output=tmp_path_factory.mktemp("b") / "b")
    text = (data_dir / "tinystories" / "tinystories_sample_2MiB.txt").read_text(encoding="utf-8", errors="ignore")
    with load(bundle.path) as lm:
        return lm.tokenizer.encode(text[-100_000:])


def of(data_dir: Path, output: Path, target: str, quant: str, ids: list[int]) -> float:
    engine = Engine.load(export(data_dir / "stories260K", target, quant, output=output))
    return perplexity(engine, ids, bos=1, chunk=512, chunks=CHUNKS).value


@pytest.mark.parametrize("target", ["rpi4", "rpi5", "android-arm64-i8mm", "x86-64"])
def test_int8_within_2_and_int4_within_25_percent(data_dir: Path, tmp_path: Path, ids: list[int], target: str) -> None:
    exact = of(data_dir, tmp_path / "fp32", target, "fp32", ids)
    assert of(data_dir, tmp_path / "int8", target, "int8", ids) < 1.02 * exact
    assert of(data_dir, tmp_path / "int4", target, "int4", ids) < 1.25 * exact


def test_prompts_read_by_int8_cost_nothing(data_dir: Path, tmp_path: Path, ids: list[int]) -> None:
    """The first half of each chunk is read as a prompt: its keys and values are nearer to the exact ones than int4's."""
    found = []
    for kind in ("same", "int8"):
        made = export(data_dir / "stories260K", "x86-64", "int4", prefill=kind, output=tmp_path / kind)
        found.append(perplexity(Engine.load(made), ids, bos=1, chunk=512, chunks=CHUNKS).value)
    assert found[1] < 1.005 * found[0]

"""The default model keeps what its card promises, in every form it is stored in, through the runtime users run."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgelm import demo
from edgelm.evaluate.task import read_task, run_task
from edgelm.exporter.pipeline import export
from edgelm.runtime.lm import load


def accuracy(folder: Path, target: str, quant: str) -> float:
    """Percent of held-out items answered word for word."""
    bundle = export(None, target, quant, output=folder / f"{target}-{quant}")
    with load(bundle.path) as lm:
        return 100 * run_task(lm, read_task(demo.heldout())).accuracy.value


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_default_model_keeps_its_quality(tmp_path: Path) -> None:
    exact = accuracy(tmp_path, "rpi5", "fp32")
    assert exact >= 90.5  # what the card says, less two standard errors: a guard against losing it, not the goal
    for target in ("rpi5", "x86-64"):
        assert accuracy(tmp_path, target, "int8") >= exact - 1
        assert accuracy(tmp_path, target, "int4") >= exact - 1


def test_the_readmes_example(tmp_path: Path) -> None:
    bundle = export(None, "rpi5", output=tmp_path / "b")
    with load(bundle.path) as lm:
        answer = lm.generate("dim the bedroom lamp to 30 percent and lock the front door", max_tokens=80)
    assert answer.finish_reason == "stop"
    assert answer.text == (
        '{"actions":[{"device":"light","room":"bedroom","set":"brightness","value":30},'
        '{"device":"lock","room":"front door","set":"locked","value":true}]}'
    )

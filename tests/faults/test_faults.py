"""Killed, or out of disk, at any call that changes a file: the old version answers, or the new one, and nothing is left.

The default run tries a few calls of each way to write, `-m slow` a share of all of them, spread evenly;
``EDGELM_FAULTS=all python -m pytest -m slow tests/faults`` tries every one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SAMPLES = 3
# Each way to write, and how many of its calls the slow run tries.
SCENARIOS = {
    "export": 8,
    "export-all": 3,
    "overwrite": 8,
    "overwrite-without-exchange": 8,
    "save": 8,
    "sweep": 4,
    "weight-cache": 8,
    "prompt-cache": 8,
    "results": 8,
    "remove": 8,
    "compiled-prompt": 5,
    "kept-prompt": 5,
}
EVERY = os.environ.get("EDGELM_FAULTS") == "all"
QUICK = ("overwrite", "overwrite-without-exchange", "save", "prompt-cache", "results", "remove")


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What counts calls and lets them fail, compiled."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler, and Linux")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "shim.c", "-ldl"], check=True)
    return library


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint(num_hidden_layers=1, hidden_size=32, intermediate_size=64, tie_word_embeddings=True)


@pytest.fixture
def drive(shim: Path, checkpoint: Path, tmp_path: Path) -> Callable[[str, str, int], dict[str, Any]]:
    """Run the driver: (scenario, fault, how many calls) → what it found."""

    def run(scenario: str, fault: str, samples: int) -> dict[str, Any]:
        own = {"LD_PRELOAD": shim, "FAULTS_ROOT": tmp_path / "root", "XDG_CACHE_HOME": tmp_path / "root" / "xdg"}
        settings = {"EDGELM_WEIGHT_CACHE": "off", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, HERE / "driver.py", scenario, fault, checkpoint, tmp_path, str(samples)],
            env={**os.environ, **settings, **{name: str(path) for name, path in own.items()}},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    return run


@pytest.mark.parametrize("scenario", QUICK)
def test_some_kills(drive: Callable[[str, str, int], dict[str, Any]], scenario: str) -> None:
    found = drive(scenario, "kill", SAMPLES)
    assert found["tried"] == SAMPLES
    assert found["bad"] == {}


def test_a_full_disk_at_some_calls(drive: Callable[[str, str, int], dict[str, Any]]) -> None:
    found = drive("overwrite", "full", SAMPLES)
    assert (found["tried"], found["bad"]) == (SAMPLES, {})


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", ["kill", "full"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_many_calls(drive: Callable[[str, str, int], dict[str, Any]], scenario: str, fault: str) -> None:
    found = drive(scenario, fault, 0 if EVERY else SCENARIOS[scenario])  # 0 is all
    assert found["tried"] == (found["calls"] if EVERY else min(found["calls"], SCENARIOS[scenario]))
    assert found["bad"] == {}

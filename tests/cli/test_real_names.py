"""``edgelm run smollm2-135m`` in an empty home, with the real model's file on this machine: see tools/real_models.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgelm.target.target import load_target

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(900)]


def test_smollm2_by_its_name_in_an_empty_home(real_model: Callable[[str], Path], tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "EDGELM_", "XDG_"))}
    env |= {"HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:1"}  # where no hub answers
    env["EDGELM_MIRROR"] = str(real_model("smollm2-135m").parent)

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *args]
        return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=800, check=True)

    asked = ("-m", "edgelm", "run", "smollm2-135m", "-p", "What is the capital of France?", "-n", "24", "--temp", "0")
    first = run(*asked)
    # What it says depends on how this machine's sums round: in int4 so small a model knows little for sure.
    assert first.stdout.strip()
    board = load_target("auto")
    name = f"smollm2-135m-{board.name}-{board.default}"
    path = tmp_path / ".cache" / "edgelm" / "models" / name
    assert first.stderr.splitlines()[0] == (
        f"note: exporting smollm2-135m for this machine ({board.name}, {board.default}), once, into {path}"
    )
    second = run(*asked)
    assert (second.stdout, second.stderr) == (first.stdout, "")
    (listed,) = json.loads(run("-m", "edgelm", "list", "--json").stdout)["bundles"]
    assert listed["name"] == name
    question = "edgelm.load('smollm2-135m').generate('What is the capital of France?', max_tokens=24, temperature=0)"
    assert run("-c", f"import edgelm; print({question}.text)").stdout.strip() == first.stdout.strip()

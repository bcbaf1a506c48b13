"""A worker that is lost in the middle: its task is done again, and the outcome is that of one host."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def edgelm(*args: object, **settings: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edgelm", *map(str, args)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **settings}
    )


def test_the_table_of_a_sweep(processes, tiny_checkpoint, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog " * 200)
    model = tiny_checkpoint(seed=1, num_hidden_layers=6, hidden_size=256, intermediate_size=512)
    args = ("sweep", model, "--target", "rpi5", "--text", text, "--chunks", "40", "-t", "1")
    names = ("int8", "int4-b32-nearest", "int4-b32-search", "int4-b64-search", "int4-b128-search")
    args += tuple(option for name in names for option in ("--recipe", name))
    settings = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    here, said = edgelm(*args, **settings).communicate()
    assert here, said
    there = edgelm(*args, "--scheduler", processes.address, **settings)
    assert there.stderr is not None
    lines = list[str]()
    for line in there.stderr:  # all workers are active once the first row is there
        lines.append(line)
        if "KLD" in line:
            processes.started["worker1"].kill()
            break
    out, said = there.communicate()
    assert there.returncode == 0, [*lines, said]
    assert out == here
    assert list(tmp_path.glob("cache/edgelm/sweep/*")) == []

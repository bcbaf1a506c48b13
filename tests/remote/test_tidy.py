"""Environments that a board no longer needs: gone with time, and never while a program runs in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgelm.remote import agent

AGENT = Path(agent.__file__)
LONG = 100 * 86_400
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # SHA-256 of nothing


def call(verb: str, **arguments: object) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", AGENT.read_text(), verb, json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Environments of now and of long ago, parts of transfers, and what is not to be touched."""
    for name in (
        "site-new",
        "site-old",
        "edgelm-new",
        "edgelm-old",
        "site-a.making-1",
        "cache",
        "bundles/x",
        "profiles",
    ):
        (tmp_path / name).mkdir(parents=True)
    for name in ("wheels-1.tar.part", "wheels-2.tar.part", "edgelm.json"):
        (tmp_path / name).write_text("x")
    (tmp_path / "site-old" / "numpy.py").write_text("x")
    for name in (
        "site-old",
        "edgelm-old",
        "edgelm-new",
        "wheels-1.tar.part",
        "cache",
        "bundles",
        "profiles",
        "edgelm.json",
    ):
        os.utime(tmp_path / name, (time.time() - LONG,) * 2)
    return tmp_path


def names(base: Path) -> set[str]:
    return {path.name for path in base.iterdir()}


def test_what_is_old_goes_and_what_is_used_stays(base: Path) -> None:
    call(
        "tidy", base=str(base), keep=[str(base / "site-new"), str(base / "edgelm-new"), str(base / "none")], age=86_400
    )
    assert names(base) == {
        "site-new", "edgelm-new", "site-a.making-1", "cache", "bundles", "profiles", "wheels-2.tar.part", "edgelm.json",
    }  # fmt: skip
    assert time.time() - (base / "edgelm-new").stat().st_mtime < 60  # it is used now


def test_an_environment_in_use_stays(base: Path) -> None:
    arguments = {
        "argv": [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(30)"],
        "environment": {"PYTHONPATH": f"{base}/edgelm-old:{base}/site-old"},
        "folder": str(base / "run-1"),
    }
    command = [sys.executable, "-c", AGENT.read_text(), "run", json.dumps(arguments)]
    running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert running.stdout is not None
        assert running.stdout.readline() == b"up\n"
        call("tidy", base=str(base), keep=[], age=86_400)
        assert {"edgelm-old", "site-old", "run-1"} <= names(base)
        assert (base / "site-old" / "numpy.py").exists()
    finally:
        assert running.stdin is not None
        running.stdin.close()
        running.wait(10)
    call("tidy", base=str(base), keep=[], age=86_400)
    assert not {"edgelm-old", "site-old", "run-1"} & names(base)


def test_a_board_without_anything(tmp_path: Path) -> None:
    assert call("tidy", base=str(tmp_path / "none"), keep=[], age=1) == {"done": True}


@pytest.mark.parametrize(
    ("verb", "arguments", "said"),
    [
        ("receive", {"path": "{base}/edgelm.json/x", "length": 1, "sha256": ""}, "a file is in the place of a folder"),
        (
            "receive",
            {"path": "{base}/edgelm.json/x/y", "length": 1, "sha256": ""},
            "a file is in the place of a folder",
        ),
        (
            "receive",
            {"path": "{base}/cache", "length": 0, "sha256": EMPTY},
            "cache: a folder is in the place of a file",
        ),
        ("run", {"argv": ["x"], "environment": {}, "folder": "{base}/edgelm.json"}, "in the place of a folder"),
        ("run", {"argv": ["/no/such"], "environment": {}, "folder": "{base}/r"}, "/no/such: No such file or directory"),
        ("send", {"path": "{base}/cache"}, "cache: a folder is in the place of a file"),
        ("send", {"path": "{base}/none"}, "none: No such file or directory"),
        ("unpack", {"archives": ["{base}/edgelm.json"], "folder": "{base}/new"}, "edgelm.json is damaged"),
        ("unpack", {"archives": [], "folder": "{base}/edgelm.json"}, "in the place of a folder"),
        ("tidy", {"base": "{base}", "keep": [], "age": 0}, None),
    ],
)
def test_what_stands_in_the_way_is_told_in_one_line(
    base: Path, verb: str, arguments: dict[str, object], said: str | None
) -> None:
    text = json.dumps(arguments).replace("{base}", str(base))
    done = subprocess.run([sys.executable, "-c", AGENT.read_text(), verb, text], capture_output=True, text=True)
    if said is None:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 3
        assert done.stderr.startswith("agent: ")
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1

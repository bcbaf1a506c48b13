"""``optimum-cli export edgelm``, in the real optimum-cli."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

import pytest

from edgelm.bundle.reader import Bundle
from edgelm.cli.optimum import add_arguments, arguments

ROOT = Path(__file__).parents[2]


@pytest.fixture
def optimum_cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs optimum-cli with the file where a wheel puts it."""
    if importlib.util.find_spec("optimum.commands") is None:
        pytest.skip("optimum is not installed")
    place = tmp_path / "site" / "optimum" / "commands" / "register"
    place.mkdir(parents=True)
    if importlib.util.find_spec("optimum.commands.register.register_edgelm") is None:  # an install has put it there
        shutil.copy(ROOT / "packaging" / "register_edgelm.py", place)

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(tmp_path / "site"), str(ROOT), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "optimum.commands.optimum_cli", "export", "edgelm", *args]
        return subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path, capture_output=True, text=True, timeout=120
        )

    return run


def test_a_bundle_by_optimum_cli(optimum_cli, tmp_path: Path) -> None:
    ended = optimum_cli("-m", "edgelm-home", "--target", "rpi5", "--quant", "fp16", "bundle")
    assert ended.returncode == 0, ended.stderr
    assert Bundle.open(tmp_path / "bundle").manifest.quant == "fp16"
    assert ended.stdout.endswith("next: edgelm chat bundle\n")
    again = optimum_cli("-m", "edgelm-home", "--target", "rpi5", "--quant", "fp16", "bundle")
    assert (again.returncode, "error: output bundle exists already" in again.stderr) == (1, True), again.stderr


def parsed(*args: str) -> list[str]:
    parser = ArgumentParser()
    add_arguments(parser)
    return arguments(parser.parse_args(args))


def test_the_options_are_those_of_edgelm_export() -> None:
    assert parsed("-m", "x", "--target", "rpi5") == ["export", "--target=rpi5", "--", "x"]
    found = parsed(
        "-m=-odd", "out", "--target", "./b.toml", "--context", "512", "--trim-vocab", "en", "--trim-vocab", "a.txt",
        "--kv", "int8", "--lora-ready", "--json",
    )  # fmt: skip
    assert found[0:3] == ["export", "--output", "out"]
    assert found[-2:] == ["--", "-odd"]
    for part in ("--target=./b.toml", "--context=512", "--trim-vocab=en", "--trim-vocab=a.txt", "--kv=int8"):
        assert part in found
    assert {"--lora-ready", "--json"} <= set(found)
    assert "--force" not in found
    with pytest.raises(SystemExit):
        parsed("-m", "x")  # without a target


def test_the_help_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--help")
    assert "optimum-cli export edgelm -m" in capsys.readouterr().out

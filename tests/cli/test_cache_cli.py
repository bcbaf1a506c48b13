"""`edgelm cache`, and the options of the commands that load a model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgelm.bundle.reader import Bundle
from edgelm.runtime.ort import packing, weightcache

Run = Callable[..., Any]


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The user's cache, switched on, and small bundles large enough for it."""
    monkeypatch.setattr(weightcache, "SMALLEST", 0)
    monkeypatch.setattr(packing, "_SMALL", 0)
    monkeypatch.setenv("EDGELM_WEIGHT_CACHE", "on")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "edgelm" / "weights"


def run(edgelm: Run, bundle: Bundle, *options: object) -> str:
    ended = edgelm("run", bundle.path, "-p", "Hello", "--max-tokens", 4, "--temperature", 0, *options)
    assert (ended.code, ended.err) == (0, "")
    return ended.out


def test_a_run_fills_it_once_and_says_the_same(edgelm: Run, tiny_bundle: Bundle, folder: Path) -> None:
    expected = run(edgelm, tiny_bundle, "--no-weight-cache")
    assert not folder.exists()
    assert run(edgelm, tiny_bundle) == expected
    assert run(edgelm, tiny_bundle, "-t", 2, "--prefill-threads", 1) == expected
    listed = json.loads(edgelm("cache", "--json").out)
    assert listed["folder"] == str(folder)
    assert listed["limit_bytes"] == 4_096_000_000
    assert listed["on"]
    (entry,) = listed["entries"]
    assert entry["bundle"] == tiny_bundle.digest
    assert entry["bytes"] > 1000
    assert entry["path"] == os.path.realpath(tiny_bundle.path)


def test_the_table(edgelm: Run, tiny_bundle: Bundle, folder: Path) -> None:
    assert edgelm("cache").out.splitlines() == [str(folder), "  size         0 B of 4.10 GB (EDGELM_WEIGHT_CACHE_MB)"]
    run(edgelm, tiny_bundle)
    head, row = edgelm("cache").out.splitlines()[-2:]
    assert head.split() == ["model", "quant", "size", "used", "onnxruntime", "processor", "bundle"]
    assert " fp32 " in row
    assert "just now" in row
    assert row.endswith(os.path.realpath(tiny_bundle.path))


def test_switched_off(edgelm: Run, tiny_bundle: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELM_WEIGHT_CACHE", "off")
    run(edgelm, tiny_bundle)
    assert not folder.exists()
    assert "switched off by EDGELM_WEIGHT_CACHE" in edgelm("cache").out
    monkeypatch.setenv("EDGELM_WEIGHT_CACHE_MB", "much")
    assert edgelm("cache") == (1, "", "error: EDGELM_WEIGHT_CACHE_MB must be a number of MB, not 'much'\nhint: 0 does without the cache\n")  # fmt: skip


def test_clear(edgelm: Run, tiny_bundle: Bundle, folder: Path) -> None:
    run(edgelm, tiny_bundle)
    assert edgelm("cache", "clear", "--down-to", 1000).out == "removed 0 entries, 0 B\n"
    assert edgelm("cache", "clear", "--down-to", 0, "--json").out.startswith('{"folder"')
    assert list(folder.iterdir()) == []
    run(edgelm, tiny_bundle)
    assert edgelm("cache", "clear", tiny_bundle.path).out.startswith("removed 1 entry, ")
    run(edgelm, tiny_bundle)
    assert json.loads(edgelm("cache", "clear", "--json").out)["removed"] == 1
    assert edgelm("cache", "clear").out == "removed 0 entries, 0 B\n"
    ended = edgelm("cache", "clear", folder)
    assert ended.code == 1
    assert "is not a bundle" in ended.err
    assert edgelm("cache", "clear", tiny_bundle.path, "--down-to", 5).code == 2
    assert edgelm("cache", "clear", "--down-to", -5).code == 1


def test_clear_leaves_other_bundles(
    edgelm: Run, tiny_bundle: Bundle, folder: Path, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    from edgelm.exporter.pipeline import export

    other = export(tiny_checkpoint(seed=5), "x86-64", "int8", output=tmp_path / "other")
    run(edgelm, tiny_bundle)
    run(edgelm, other)
    assert edgelm("cache", "clear", other.path).out.startswith("removed 1 entry")
    (entry,) = json.loads(edgelm("cache", "--json").out)["entries"]
    assert entry["bundle"] == tiny_bundle.digest


def test_verify(edgelm: Run, tiny_bundle: Bundle, folder: Path) -> None:
    assert edgelm("cache", "verify").code == 0
    run(edgelm, tiny_bundle)
    assert edgelm("cache", "verify").out.startswith("ok ")
    (path,) = folder.glob("*/packed.bin")
    found, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    ended = edgelm("cache", "verify", "--json")
    assert ended.code == 1
    assert not json.loads(ended.out)["ok"]
    assert "packed.bin is damaged: its checksum is another; 1 of 1 entries were damaged and are removed" in ended.err
    assert edgelm("cache", "verify").code == 0
    run(edgelm, tiny_bundle)
    assert len(json.loads(edgelm("cache", "--json").out)["entries"]) == 1


def test_without_a_home(edgelm: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(weightcache.Path, "home", nowhere)
    assert edgelm("cache").err == "error: this user has no home folder, and so no cache\nhint: set XDG_CACHE_HOME\n"


def test_bench_tells_of_it(edgelm: Run, tiny_bundle: Bundle, folder: Path) -> None:
    options = ("-p", 40, "-n", 2, "-r", 1, "-t", 1, "--prefill-threads", 2)
    assert "packed weights mapped from the cache" in edgelm("bench", tiny_bundle.path, *options).out
    found = json.loads(edgelm("bench", tiny_bundle.path, *options, "-o", "json", "--no-weight-cache").out)
    assert (found["packed"], found["threads"], found["prefill_threads"]) == (False, 1, 2)

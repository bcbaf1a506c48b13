"""``edgelm verify``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copy(tiny_bundle, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_bundle.path, tmp_path / "copy"))


def test_a_sound_bundle(edgelm, tiny_bundle):
    ended = edgelm("verify", tiny_bundle.path)
    assert (ended.code, ended.err) == (0, "")
    rows = [line.split() for line in ended.out.splitlines()]
    assert [row[:2] for row in rows] == [["ok", name] for name in sorted(tiny_bundle.files)]


def test_every_damaged_file_is_named(edgelm, copy):
    data = bytearray((copy / "model.onnx.data").read_bytes())
    data[1000] ^= 1  # one bit
    (copy / "model.onnx.data").write_bytes(data)
    (copy / "tokenizer.json").unlink()
    ended = edgelm("verify", copy)
    assert ended.code == 1
    assert "\nbad  model.onnx.data " in ended.out
    assert f"{copy / 'model.onnx.data'} was changed: SHA-256 " in ended.out
    assert f"{copy / 'tokenizer.json'} is missing: expected " in ended.out
    assert ended.err == (
        f"error: {copy}: 2 of 7 files differ from the manifest\nhint: copy the bundle again, or export it again\n"
    )


def test_json(edgelm, copy, tiny_bundle):
    facts = json.loads(edgelm("verify", copy, "--json").out)
    assert facts["ok"] is True
    assert {file["name"]: file["bytes"] for file in facts["files"]} == {
        name: entry.bytes for name, entry in tiny_bundle.files.items()
    }
    (copy / "model.onnx").write_bytes(b"")
    ended = edgelm("verify", copy, "--json")
    facts = json.loads(ended.out)
    assert (ended.code, facts["ok"]) == (1, False)
    bad = [file for file in facts["files"] if not file["ok"]]
    assert [file["name"] for file in bad] == ["model.onnx"]
    assert "is truncated: 0 bytes" in bad[0]["problem"]


def test_what_is_no_bundle(edgelm, tmp_path):
    ended = edgelm("verify", tmp_path)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith(f"error: {tmp_path} is not a bundle")

"""A bundle is whole or absent, and says in one line what is wrong with it."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from manifests import manifest

from edgelm.bundle.reader import FORMAT, MANIFEST, Bundle
from edgelm.bundle.writer import BundleWriter, writing
from edgelm.errors import BundleError, EdgeLMError, ExportError


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    """A copy that a test may damage."""
    return Bundle.open(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))


def edit_manifest(bundle: Bundle, change: Callable[[dict[str, Any]], None]) -> None:
    path = bundle.path / MANIFEST
    manifest = json.loads(path.read_text())
    manifest.pop("sha256", None)  # else it would be told that it was changed, and no more
    change(manifest)
    path.write_text(json.dumps(manifest))


def write_least(writer: BundleWriter, content: str) -> None:
    """What no bundle is without."""
    for name in ("model.onnx", "tokenizer.json"):
        writer.write_text(name, content)


def test_a_whole_bundle_opens_and_verifies(bundle: Bundle) -> None:
    assert bundle.verify() == []
    assert bundle.context == 128
    assert bundle.size == sum(p.stat().st_size for p in bundle.path.iterdir() if p.name != MANIFEST)
    assert bundle.chat_template is not None
    assert bundle.generation_config["eos_token_id"] == [2]


def test_a_truncated_file_is_named_with_its_size(bundle: Bundle) -> None:
    data = bundle.path / "model.onnx.data"
    size = data.stat().st_size
    with data.open("r+b") as file:
        file.truncate(size - 10)
    with pytest.raises(BundleError, match=rf"model\.onnx\.data is truncated: {size - 10:,} bytes, expected {size:,}"):
        Bundle.open(bundle.path)
    (problem,) = bundle.verify()
    assert "truncated" in problem
    assert "\n" not in problem


def test_an_edited_file_is_named_with_its_hash(bundle: Bundle) -> None:
    path = bundle.path / "tokenizer.json"
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)
    expected = bundle.files["tokenizer.json"].sha256[:12]
    with pytest.raises(BundleError, match=rf"tokenizer\.json was changed: .* expected {expected}"):
        Bundle.open(bundle.path)


def test_an_edit_in_large_weights_is_found_by_verify(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgelm.bundle.reader._HASH_AT_OPEN", 1024)
    data = bundle.path / "model.onnx.data"
    with data.open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff")
    opened = Bundle.open(bundle.path)
    (problem,) = opened.verify()
    assert "model.onnx.data was changed" in problem


def test_a_missing_file_is_named(bundle: Bundle) -> None:
    (bundle.path / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"model\.onnx is missing: expected [\d,]+ bytes"):
        Bundle.open(bundle.path)


def test_a_newer_format_asks_for_an_upgrade(bundle: Bundle) -> None:
    edit_manifest(bundle, lambda m: m.update(format=FORMAT + 1, minimum_runtime={"edgelm": "9.9"}))
    with pytest.raises(BundleError, match=r"needs edgelm 9\.9") as raised:
        Bundle.open(bundle.path)
    assert raised.value.hint == "pip install --upgrade edgelm"


@pytest.mark.parametrize("key", ["format", "graph", "context", "files"])
def test_a_missing_key_is_named(bundle: Bundle, key: str) -> None:
    edit_manifest(bundle, lambda m: m.pop(key))
    with pytest.raises(BundleError, match=f"'{key}'"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", ""])
def test_a_name_that_leads_out_of_the_folder_is_refused(bundle: Bundle, name: str) -> None:
    edit_manifest(bundle, lambda m: m["files"].update({name: {"bytes": 1, "sha256": "0"}}))
    with pytest.raises(BundleError, match="not a file of the bundle"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": "one"}', "[" * 100_000])
def test_a_broken_manifest_is_one_line(bundle: Bundle, text: str) -> None:
    (bundle.path / MANIFEST).write_text(text)
    with pytest.raises(BundleError) as raised:
        Bundle.open(bundle.path)
    assert "\n" not in str(raised.value)


def test_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        Bundle.open(tmp_path / "nothing")
    with pytest.raises(BundleError, match="is not a bundle"):
        Bundle.open(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="is not a folder"):
        Bundle.open(tmp_path / "file")


def test_nothing_is_visible_until_it_is_whole(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "er" / "bundle"
    with writing(output) as writer:
        write_least(writer, "hello")
        assert not output.exists()
        writer.commit(manifest())
    assert sorted(p.name for p in output.iterdir()) == [MANIFEST, "model.onnx", "tokenizer.json"]
    assert [p.name for p in output.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("error", [EdgeLMError("no"), KeyboardInterrupt(), ValueError("bug")])
def test_nothing_is_left_behind_by_a_failure(tmp_path: Path, error: BaseException) -> None:
    def fail() -> None:
        with writing(tmp_path / "made" / "bundle") as writer:
            writer.write_text("a.txt", "half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_in_one_line(tmp_path: Path) -> None:
    def fill() -> None:
        with writing(tmp_path / "bundle"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ExportError, match="disk full while writing"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_kept(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with pytest.raises(ExportError, match="exists already"), writing(tmp_path / "bundle"):
        pass

    # Another process may finish first: then its bundle stays.
    def finish_late() -> None:
        with writing(tmp_path / "late") as writer:
            write_least(writer, "late")
            (tmp_path / "late").mkdir()
            (tmp_path / "late" / "theirs").touch()
            writer.commit(manifest())

    with pytest.raises(ExportError, match="exists already"):
        finish_late()
    assert [p.name for p in (tmp_path / "late").iterdir()] == ["theirs"]


def test_overwriting_replaces_a_bundle_and_nothing_else(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with writing(tmp_path / "bundle", overwrite=True) as writer:
            write_least(writer, content)
            writer.commit(manifest(), overwrite=True)
    assert (tmp_path / "bundle" / "model.onnx").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
    (tmp_path / "photos").mkdir()
    with pytest.raises(ExportError, match="is not a bundle"), writing(tmp_path / "photos", overwrite=True):
        pass


def test_an_output_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="is not a folder"), writing(tmp_path / "file" / "bundle"):
        pass


def test_the_digest_is_that_of_the_files(bundle: Bundle, tiny_bundle: Bundle) -> None:
    assert bundle.digest == tiny_bundle.digest
    edit_manifest(bundle, lambda m: m["files"]["model.onnx.data"].update(sha256="0" * 64))
    assert Bundle.open(bundle.path, check=False).digest != tiny_bundle.digest

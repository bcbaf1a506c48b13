"""What is written takes its place at once; what killed processes leave is swept, and nobody's work is."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgelm import files
from edgelm.bundle.reader import Bundle
from edgelm.bundle.writer import save_quality, writing
from edgelm.errors import ExportError

FROZEN = Path(__file__).parent / "frozen" / "format1"
CARD = json.loads((FROZEN / "quality.json").read_text())
HELD = """
import sys, time
from pathlib import Path
from edgelm.files import aside
with aside(Path(sys.argv[1])) as folder:
    print(folder, flush=True)
    time.sleep(60)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("purpose", files.PURPOSES)
def test_what_a_killed_process_left_is_swept(tmp_path: Path, purpose: str) -> None:
    (tmp_path / "b").mkdir()
    left = tmp_path / f".b.{purpose}-abcd_123"
    left.mkdir()
    (left / "model.onnx").write_bytes(b"half")
    others = [".b.partial-short", ".b2.partial-abcd_123", ".b.mine-abcd_123", "b.partial-abcd_123"]
    for name in others:
        (tmp_path / name).mkdir()
    files.sweep(tmp_path / "b")
    assert names(tmp_path) == sorted(["b", *others])


def test_what_a_living_process_holds_stays(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HELD, str(tmp_path / "b")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        files.sweep(tmp_path / "b")
        assert folder.is_dir()
        process.kill()
    assert folder.is_dir()
    files.sweep(tmp_path / "b")
    assert names(tmp_path) == []


def test_without_locks_age_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(descriptor: int, operation: int) -> None:
        raise OSError(95, "not supported")

    monkeypatch.setattr(fcntl, "flock", none)
    new, old = (tmp_path / f".b.partial-{age}" for age in ("newer_00", "older_00"))
    for folder in (new, old):
        folder.mkdir()
    os.utime(old, (time.time() - 90_000,) * 2)
    files.sweep(tmp_path / "b")
    assert names(tmp_path) == [new.name]
    with files.aside(tmp_path / "b") as folder:  # which is made without them, too
        assert folder.is_dir()


def test_a_new_folder_that_is_swept_before_it_is_held_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, swept = files._lock, list[Path]()

    def late(path: Path) -> tuple[int, bool | None]:
        if not swept:
            swept.append(path)
            shutil.rmtree(path)
        return lock(path)

    monkeypatch.setattr(files, "_lock", late)
    with files.aside(tmp_path / "b") as folder:
        assert folder.is_dir()
        assert folder != swept[0]


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_takes_the_place_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool) -> None:
    if not exchanges:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "old").touch()
    with files.aside(tmp_path / "b") as folder:
        (folder / "new").touch()
        files.put(folder, tmp_path / "b", overwrite=True)
        assert names(tmp_path / "b") == ["new"]
    assert names(tmp_path) == ["b"]


def test_linux_exchanges_in_one_step(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not files._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot exchange two names")
    assert (names(tmp_path / "a"), names(tmp_path / "b")) == (["b"], ["a"])


def test_a_bundle_that_had_stepped_aside_is_put_back_by_whoever_opens_it(tmp_path: Path) -> None:
    """Between the two renames of a file system without exchange."""
    shutil.copytree(FROZEN, tmp_path / ".b.old-0123abcd")
    (tmp_path / ".b.partial-0123abcd").mkdir()
    assert Bundle.open(tmp_path / "b").verify() == []
    files.sweep(tmp_path / "b")
    assert names(tmp_path) == ["b"]


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "cache.bin"
    path.write_bytes(b"old")
    (tmp_path / ".cache.bin.partial-0123abcd.bin").write_bytes(b"half")

    def fail() -> None:
        with files.replacing(path) as file:
            file.write(b"half of the new")
            assert len(names(tmp_path)) == 2, "the other was swept"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (names(tmp_path), path.read_bytes()) == (["cache.bin"], b"old")
    with files.replacing(path, 0o640) as file:
        file.write(b"new")
        files.sweep(path)  # as another process would
    assert (names(tmp_path), path.read_bytes(), path.stat().st_mode & 0o777) == (["cache.bin"], b"new", 0o640)


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("FIFO", "it is a FIFO"),
        ("socket", "it is a socket"),
        ("device", "it is a device"),
        ("folder", "Is a directory"),
        ("circle", "Too many levels of symbolic links"),
    ],
)
def test_what_is_no_file_is_not_replaced(tmp_path: Path, kind: str, said: str, link: bool) -> None:
    """As root, a report to /dev/null would make a file of it."""
    path = tmp_path / "report"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "circle":
        path.symlink_to(path.name)
    elif kind == "device" and os.geteuid():
        path = Path("/dev/null")
    elif kind == "device":  # not that one: a fault here would be the machine's
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    if link:
        (tmp_path / "link").symlink_to(path)
    before, content = names(tmp_path), path.lstat().st_mode
    with pytest.raises(OSError, match=said), files.replacing(tmp_path / "link" if link else path) as file:
        file.write(b"new")
    assert (names(tmp_path), path.lstat().st_mode) == (before, content)


def test_what_a_link_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    for name in ("there", "to come"):
        (tmp_path / name).symlink_to(Path("disk") / name)
    (tmp_path / "disk" / "there").write_bytes(b"old")
    for name in ("there", "to come"):
        with files.replacing(tmp_path / name) as file:
            file.write(b"new")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "disk" / name).read_bytes() == b"new"
    assert names(tmp_path) == ["disk", "there", "to come"]
    assert names(tmp_path / "disk") == ["there", "to come"]


def test_a_bundle_that_a_link_leads_to_is_written_there(tmp_path: Path) -> None:
    """As releases are kept: `current` leads to one of them."""
    (tmp_path / "releases").mkdir()
    shutil.copytree(FROZEN, tmp_path / "releases" / "3")
    current = tmp_path / "current"
    current.symlink_to(Path("releases") / "3")
    save_quality(Bundle.open(current), CARD | {"note": "new"})
    assert current.is_symlink()
    assert Bundle.open(tmp_path / "releases" / "3").quality == CARD | {"note": "new"}
    assert (names(tmp_path), names(tmp_path / "releases")) == (["current", "releases"], ["3"])
    with pytest.raises(ExportError, match="exists"), writing(current):
        pass
    current.unlink()
    current.symlink_to(Path("releases") / "4")
    with writing(current) as writer:
        for path in FROZEN.iterdir():
            shutil.copy(path, writer.path(path.name))
        writer.path("manifest.json").unlink()
        writer.commit(Bundle.open(FROZEN).manifest)
    assert Bundle.open(tmp_path / "releases" / "4").verify() == []
    assert (current.is_symlink(), names(tmp_path / "releases")) == (True, ["3", "4"])


def test_scratch_folders_of_killed_processes_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / f"{files.SCRATCH}abcdefgh"
    left.mkdir()
    (tmp_path / "edgelm-mine").mkdir()
    with files.scratch() as folder, files.scratch() as other:
        assert not left.exists()
        assert folder.is_dir()
        assert other.is_dir()
    assert names(tmp_path) == ["edgelm-mine"]

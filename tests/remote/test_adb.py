"""adb, by a stub that speaks as the program does: exit codes and messages of adb 1.0.41 with the shell protocol, version 2."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgelm.errors import RemoteError
from edgelm.remote.place import open_place
from edgelm.remote.session import Session

STUB = """#!/bin/sh
[ "$1" = -s ] || exit 64
serial=$2; shift 2
case $serial in
  phone) ;;
  locked) echo "error: device unauthorized." >&2; echo "This adb server's \\$ADB_VENDOR_KEYS is not set" >&2; exit 1 ;;
  gone) echo "error: device offline" >&2; exit 1 ;;
  bare) [ "$1 $2" = "shell -T" ] && exit 127 ;;
  *) echo "adb: device '$serial' not found" >&2; exit 1 ;;
esac
[ "$1" = shell ] && [ "$2" = -T ] || { echo "adb: unknown command $1" >&2; exit 1; }
exec sh -c "$3"
"""


@pytest.fixture(autouse=True)
def adb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/adb").write_text(STUB)
    (tmp_path / "bin/adb").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    return tmp_path


def test_a_phone(adb, capfd):
    with open_place("adb:phone") as place:
        object.__setattr__(place, "base", str(adb / "phone/edgelm"))
        session = Session.open(place)
        file = adb / "file"
        file.write_bytes(os.urandom(100_000))
        session.put({file: f"{session.base}/file"})
        assert session.get(f"{session.base}/file") == file.read_bytes()
        assert session.run([str(session.facts["executable"]), "-c", "print('on it')"], {}, f"{session.base}/run-1") == 0
    assert capfd.readouterr().out == "on it\n"


@pytest.mark.parametrize(
    ("serial", "said", "hint"),
    [
        ("locked", "locked does not trust this machine yet", "USB debugging"),
        ("gone", "the connection to gone was lost", "run it again"),
        ("other", "no device other", "adb devices"),
        ("bare", "bare has no Python that adb may run", "Termux"),
    ],
)
def test_what_goes_wrong(serial, said, hint):
    with open_place(f"adb:{serial}") as place, pytest.raises(RemoteError) as error:
        Session.open(place)
    assert said in str(error.value)
    assert hint in str(error.value.hint)


def test_without_the_program(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RemoteError, match="adb is not installed here"), open_place("adb:phone"):
        pass

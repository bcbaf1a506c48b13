"""Any file, however damaged: it is read, or it is an EdgeLMError of one line; no other exception, signal, hang or growth.

``EDGELM_FUZZ=10000 python -m pytest tests/fuzz`` tries as many inputs of each kind, other ones every time.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from readers import READERS

COUNT = int(os.environ.get("EDGELM_FUZZ", "0"))
WAITS = 60  # seconds for an input that computes nothing
PROFILE = settings(
    max_examples=COUNT or 40,
    derandomize=not COUNT,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
NUMBERS = [0, 1, 2, 127, 128, 255, 1 << 15, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]
ODD: list[Any] = [
    *(None, True, -1, 0, 1, 1.5, 1e308, 1 << 31, 1 << 63, 10**30, float("nan"), float("inf")),
    *("", "x", "\0", "\ud800", "é" * 70, "../x", "a\nb", "x" * 5000),
    *([], {}, [None], [1, 2, 3], {"type": "x"}, {"": 0}, [[[[[[]]]]]], ["x"] * 100),
    *(f"<{kind} of {depth}>" for kind in ("list", "object") for depth in (120, 900, 20_000)),
]
# Deeper than `json` can write, or so deep that it can read it just now and who walks it cannot: put in their places as text.
DEEP = {
    f'"<{kind} of {depth}>"'.encode(): opening * depth + b"0" + closing * depth
    for kind, opening, closing in (("list", b"[", b"]"), ("object", b'{"a":', b"}"))
    for depth in (120, 900, 20_000)
}


def edits(size: int) -> st.SearchStrategy[Any]:
    """One change of some bytes."""
    place, length = st.integers(0, size), st.integers(0, 16)
    number = st.sampled_from(NUMBERS).flatmap(
        lambda n: st.sampled_from([w for w in (1, 4, 8) if n < 1 << 8 * w]).map(lambda w: n.to_bytes(w, "little"))
    )
    return st.one_of(
        st.tuples(st.just("put"), place, st.binary(min_size=1, max_size=8) | number),
        st.tuples(st.just("insert"), place, st.binary(min_size=1, max_size=16) | number),
        st.tuples(st.just("delete"), place, length),
        st.tuples(st.just("repeat"), place, length),
        st.tuples(st.just("cut"), place, st.just(0)),
    )


def edited(data: bytes, changes: list[Any]) -> bytes:
    for kind, at, what in changes:
        if kind == "put":
            data = data[:at] + what + data[at + len(what) :]
        elif kind == "insert":
            data = data[:at] + what + data[at:]
        elif kind == "delete":
            data = data[:at] + data[at + what :]
        elif kind == "repeat":
            data = data[:at] + data[at : at + what] * 3 + data[at:]
        else:
            data = data[:at]
    return data


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is something in a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        yield from places(child, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    if not isinstance(value, dict | list) or (isinstance(value, dict) and path[0] not in value):
        return value  # what was there is gone with an earlier change
    if isinstance(value, list) and not (isinstance(path[0], int) and path[0] < len(value)):
        return value
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


def damaged(name: str, data: bytes) -> st.SearchStrategy[bytes]:
    """Bytes like `data`, but for a few changes; in JSON whole values, too, and nothing like it now and then."""
    plain = st.lists(edits(len(data)), min_size=1, max_size=4).map(lambda changes: edited(data, changes))
    if not READERS[name].json:
        return plain | st.binary(max_size=64)
    value = json.loads(data)
    change = st.tuples(st.sampled_from(list(places(value))[:2000]), st.sampled_from(ODD) | st.text(max_size=8))

    def dumped(changes: list[Any]) -> bytes:
        new = value
        for path, what in changes:
            new = replaced(new, path, what)
        text = json.dumps(new).encode()
        for name, deep in DEEP.items():
            text = text.replace(name, deep)
        return text

    return st.lists(change, min_size=1, max_size=3).map(dumped) | plain | st.binary(max_size=64)


class Worker:
    """The process that reads files of a kind; started anew where one ended it."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._folder = name, folder
        self._process: subprocess.Popen[bytes] | None = None

    def outcome(self, data: bytes) -> str:
        if self._process is None:
            begun = self.start()
            assert begun == "ok", begun
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(len(data).to_bytes(4, "little") + data)
        self._process.stdin.flush()
        return self._answer()

    def start(self) -> str:
        """Begins with the sound file, and says what came of it."""
        command = [sys.executable, str(Path(__file__).with_name("worker.py")), self._name, str(self._folder)]
        env = {**os.environ, "RUST_BACKTRACE": "0", "EDGELM_WEIGHT_CACHE": "off", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env
        )
        return self._answer()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _answer(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        # Not one wait of a minute: while this process is stopped, or has no core, none of these passes.
        for _ in range(WAITS):
            if select.select([self._process.stdout], [], [], 1.0)[0]:
                break
        else:
            self.close()
            return "ended by a wait of a minute"
        if line := self._process.stdout.readline():
            return line.decode().rstrip("\n")
        code = self._process.wait()
        self.close()
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


@pytest.mark.timeout(10_000 if COUNT else 300)
@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_an_error_of_one_line(name: str, tmp_path: Path) -> None:
    if name == "schema":
        pytest.importorskip("llguidance")
    folder = tmp_path / "folder"
    folder.mkdir()
    data = READERS[name].make(folder)
    path = folder / READERS[name].name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    worker = Worker(name, folder)

    @PROFILE
    @given(damaged(name, data))
    def every_input(content: bytes) -> None:
        found = worker.outcome(content)
        if found.startswith("ended"):  # the next one begins with the sound file
            path.write_bytes(data)
        assert found == "ok" or found.startswith("error: "), found

    try:
        every_input()
    finally:
        worker.close()

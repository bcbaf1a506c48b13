"""A board in use: calls of the agent, files sent and fetched, a program run."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from edgelm.bundle.json_table import COUNT, JsonTable
from edgelm.errors import RemoteError
from edgelm.json_text import json_value
from edgelm.remote.place import Place

_AGENT = Path(__file__).with_name("agent.py")
_BLOCK = 1 << 18
_SIGNALS = frozenset(signal.Signals)
_BEAT = 5.0  # seconds between two signs of life
OnBytes = Callable[[int], None]


@dataclass(frozen=True)
class Session:
    """A board and what it said of itself.

    Attributes:
        place: how it is reached.
        facts: of `probe`.
    """

    place: Place
    facts: Mapping[str, Any]

    @classmethod
    def open(cls, place: Place) -> Session:
        """Ask the board what it is.

        Raises:
            RemoteError: it cannot be reached, has no Python, or says what makes no sense.
        """
        table = _table(place, _call(place, "probe", {"base": place.base}))
        for key in ("arch", "libc", "libc_version", "base", "executable"):
            table.text(key)
        if len(table.integers("python", 0, 999)) != 2:
            table.wrong("python", "two whole numbers")
        table.flag("wide")
        table.integer("free", *COUNT)
        return cls(place, table.data)

    @property
    def base(self) -> str:
        """The folder there for all that is edgelm's."""
        return str(self.facts["base"])

    def call(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """Let the agent do something.

        Raises:
            RemoteError: the connection was lost, or it could not be done.
        """
        return _call(self.place, verb, arguments)

    def have(self, paths: Collection[str]) -> dict[str, tuple[int, int]]:
        """Bytes of each file there that is whole, and of the part of one that is not; -1 for none.

        Raises:
            RemoteError: the connection was lost, or the answer makes no sense.
        """
        table = _table(self.place, self.call("have", paths=list(paths)))
        found = {path: table.integers(path, -1, COUNT[1]) for path in paths}
        if odd := next((path for path, sizes in found.items() if len(sizes) != 2), None):
            table.wrong(odd, "two whole numbers")
        return {path: (whole, part) for path, (whole, part) in found.items()}

    def put(
        self,
        files: Mapping[Path, str],
        on_bytes: OnBytes = lambda count: None,
        hashes: Mapping[Path, str] | None = None,
    ) -> None:
        """Send files, from where an earlier transfer was cut off; those that are there with their size are not sent.

        Args:
            files: local path -> path there. A path there must be another one for another content.
            on_bytes: is called with the bytes that were sent, or were there.
            hashes: SHA-256 of files where it is known already.
        """
        there = self.have(files.values()) if files else {}
        for local, path in files.items():
            length = local.stat().st_size
            whole, part = there[path]
            if whole == length:
                on_bytes(length)
                continue
            offset = max(0, part) if part <= length else 0
            known = (hashes or {}).get(local)
            self._send(local, path, offset, length, known or _sha256(local), on_bytes)

    def _send(self, local: Path, path: str, offset: int, length: int, sha256: str, on_bytes: OnBytes) -> None:
        on_bytes(offset)
        arguments = {"path": path, "length": length, "sha256": sha256}
        with local.open("rb") as source:
            source.seek(offset)

            def feed(pipe: IO[bytes]) -> None:
                while data := source.read(_BLOCK):
                    pipe.write(data)
                    on_bytes(len(data))

            _call(self.place, "receive", arguments, feed)

    def get(self, path: str) -> bytes:
        """A file of the board.

        Raises:
            RemoteError: the connection was lost, or it is not there.
        """
        length, _ = self.have([path])[path]
        process = _start(self.place, "send", {"path": path}, stdin=subprocess.DEVNULL)
        data, said = process.communicate()
        if process.returncode:
            raise _failure(self.place, process.returncode, said.decode(errors="replace"))
        return data[max(0, len(data) - length) :]  # before it may stand what the board's shell greets with

    def run(self, argv: Sequence[str], environment: Mapping[str, str], folder: str) -> int:
        """Run a program of the board, its output on ours, and end it with us; its exit code.

        Raises:
            RemoteError: the connection was lost, or a signal ended it there.
        """
        arguments = {"argv": [*self.place.launcher, *argv], "environment": dict(environment), "folder": folder}
        sys.stdout.flush()
        process = _start(self.place, "run", arguments, stdin=subprocess.PIPE, stdout=None)
        said = list[str]()
        reader = threading.Thread(target=_relay, args=(process.stderr, said), daemon=True)
        reader.start()
        try:
            assert process.stdin is not None
            while True:
                try:
                    process.wait(_BEAT)
                    break
                except subprocess.TimeoutExpired:
                    with suppress(OSError):
                        process.stdin.write(b".")
                        process.stdin.flush()
        finally:
            with suppress(OSError):
                assert process.stdin is not None
                process.stdin.close()  # ends what runs there
            _end(process)
            reader.join(2)
        if process.returncode in (255, -9, -15) or (process.returncode == 143):
            raise self.place.explain(255, "".join(said))
        if process.returncode > 128:
            name = signal.Signals(number).name if (number := process.returncode - 128) in _SIGNALS else str(number)
            hint = "did memory run out there? dmesg tells, and edgelm estimate tells what a bundle takes"
            raise RemoteError(f"{self.place.name}: the system ended edgelm by signal {name}", hint=hint)
        return process.returncode


def _table(place: Place, answer: Mapping[str, Any]) -> JsonTable:
    """An answer of the board, whose values are checked as they are read."""
    return JsonTable(f"the answer of {place.name}", answer, error=RemoteError, hint="is its Python sound?")


def _relay(source: IO[bytes] | None, said: list[str]) -> None:
    """Show a program's messages as they come."""
    assert source is not None
    for line in source:
        text = line.decode(errors="replace")
        said.append(text)
        del said[:-20]
        if not text.startswith(("mux_client", "client_loop", "Connection to", "Shared connection", "Timeout, server")):
            sys.stderr.write(text)
            sys.stderr.flush()


def _start(place: Place, verb: str, arguments: Mapping[str, Any], **pipes: Any) -> subprocess.Popen[bytes]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | pipes
    return place.start(["-c", _AGENT.read_text(encoding="utf-8"), verb, json.dumps(arguments)], **pipes)


def _call(
    place: Place, verb: str, arguments: Mapping[str, Any], feed: Callable[[IO[bytes]], None] | None = None
) -> dict[str, Any]:
    """The agent's answer."""
    process = _start(place, verb, arguments, stdin=subprocess.PIPE if feed else subprocess.DEVNULL)
    try:
        if feed is not None:
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # its end says why
                feed(process.stdin)
        out, err = process.communicate()
    except (BrokenPipeError, ValueError):
        out, err = b"", process.stderr.read() if process.stderr else b""
    finally:
        _end(process)
    if process.returncode:
        raise _failure(place, process.returncode, err.decode(errors="replace"))
    try:
        answer = json_value(out.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise RemoteError(
            f"{place.name} answers with what is not understood", hint="does its shell print a greeting?"
        ) from None
    if not isinstance(answer, dict):
        raise RemoteError(f"{place.name} answers with what is not understood")
    return answer


def _failure(place: Place, code: int, said: str) -> RemoteError:
    """What the agent said, or what became of the connection."""
    own = [line.removeprefix("agent: ") for line in said.splitlines() if line.startswith("agent: ")]
    if not own:
        return place.explain(code, said)
    if "No space left" in own[-1]:
        return RemoteError(f"{place.name} is full: {own[-1]}", hint="make room there, then run it again: it goes on")
    if "in the place of a" in own[-1]:
        return RemoteError(f"{place.name}: {own[-1]}", hint="move it away there, then run it again")
    return RemoteError(f"{place.name}: {own[-1]}", hint="run it again: it goes on where it was")


def _end(process: subprocess.Popen[bytes]) -> None:
    """See that a program of ours has ended."""
    if process.poll() is None:
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

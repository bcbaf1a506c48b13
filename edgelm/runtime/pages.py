"""Which of a bundle's weights stand in memory, where it has two sets of them: those for prompts, or decode's.

Both are mapped from files. A pass of a prompt reads each of its matrices once, in order, so that what is behind it can be
let go of while it goes on: of that set some megabytes stand at any time. It costs next to nothing, because the pages
stay in the system's page cache for as long as nobody else wants the memory, and are mapped again from there. Linux alone
tells where files are mapped (``/proc/self/smaps``); elsewhere all stays as the system sees fit.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Range = tuple[int, int]

_SMAPS = Path("/proc/self/smaps")
_DONTNEED = 4  # of madvise(2)
_SECONDS = 0.01  # between two releases: of 0.5B parameters a pass reads 8 MB meanwhile
_opening = threading.Lock()


@dataclass(frozen=True)
class Pages:
    """Memory at which a session has mapped its weights, unchanged; to be used while that session lives.

    Attributes:
        ranges: first address, and the one after the last.
    """

    ranges: tuple[Range, ...] = ()

    def __len__(self) -> int:
        """Bytes of address space."""
        return sum(end - start for start, end in self.ranges)

    def release(self) -> None:
        """Let go of what stands in memory; what is read again comes from the file again."""
        for start, end in self.ranges:
            _madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _DONTNEED)

    @contextlib.contextmanager
    def passing(self) -> Iterator[None]:
        """While everything is read once, release what was read."""
        if not self.ranges:
            yield
            return
        done = threading.Event()
        thread = threading.Thread(target=self._follow, args=(done,), daemon=True)
        try:
            with contextlib.suppress(RuntimeError):  # no more threads: all stands until the end
                thread.start()
            yield
        finally:
            done.set()
            if thread.ident is not None:
                thread.join()
            self.release()

    def _follow(self, done: threading.Event) -> None:
        while not done.wait(_SECONDS):
            self.release()


NOWHERE = Pages()


class Opened:
    """What is mapped while sessions are opened, as `opening` gives it."""

    def __init__(self) -> None:
        self._before = _mapped(Path("/proc/self/maps"))  # all there is, and a tenth of the work

    def of(self, *groups: Iterable[Path]) -> list[Pages]:
        """Where the files of each group have been mapped since."""
        after = _mapped(_SMAPS)
        return [self._since(after, {os.path.realpath(file) for file in files}) for files in groups]

    def _since(self, after: Mapping[str, list[Range]], names: Collection[str]) -> Pages:
        old, new = ([span for name in names for span in spans.get(name, [])] for spans in (self._before, after))
        return Pages(tuple(_joined(without(new, old))))


@contextlib.contextmanager
def opening() -> Iterator[Opened]:
    """For as long as the sessions of one bundle are opened, and no others that could have the same files mapped.

    Addresses of another session, which may be closed at any time, must never be taken for those of this one: they
    could hold anything by then.
    """
    with _opening:
        yield Opened()


def without(spans: Iterable[Range], others: Iterable[Range]) -> list[Range]:
    """What of the ranges none of `others` covers."""
    left = sorted(spans)
    for low, high in others:
        left = [(a, b) for start, end in left for a, b in ((start, min(end, low)), (max(start, high), end)) if a < b]
    return left


def _joined(spans: Iterable[Range]) -> list[Range]:
    """Neighbours as one range, for fewer calls."""
    joined: list[Range] = []
    for start, end in sorted(spans):
        if joined and joined[-1][1] == start:
            joined[-1] = joined[-1][0], end
        else:
            joined.append((start, end))
    return joined


def _mapped(table: Path) -> dict[str, list[Range]]:
    """File → where it is mapped; by smaps but for where something was written, which would be lost."""
    found: dict[str, list[Range]] = {}
    if _madvise is None:
        return found
    name = ""
    try:
        lines = table.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return found
    for line in lines:
        first, _, rest = line.partition(" ")
        if "-" in first:
            name = "".join(rest.split(None, 4)[4:])
            if name.startswith("/"):
                start, end = (int(address, 16) for address in first.split("-"))
                found.setdefault(name, []).append((start, end))
        elif first == "Anonymous:" and name.startswith("/") and rest.split()[0] != "0":
            found[name].pop()
    return found


def _find_madvise() -> Any:
    try:
        return ctypes.CDLL(None).madvise if _SMAPS.exists() else None
    except (AttributeError, OSError, TypeError):  # no such function; on Windows no such library
        return None


_madvise = _find_madvise()

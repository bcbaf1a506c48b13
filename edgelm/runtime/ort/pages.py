"""Which of a bundle's weights are resident, where it has two sets of them: the prefill graph's, or decode's.

Both are mapped from files. A pass of a prompt reads each of its matrices once, in order, so that what is behind it can be
released while it goes on: of that set some megabytes are resident at any time. It costs next to nothing, because the pages
stay in the system's page cache for as long as nobody else wants the memory, and are mapped again from there. Linux alone
tells where files are mapped (``/proc/self/maps``); elsewhere all stays as the system sees fit.

Addresses of another session must never be taken for those of this one: once that is closed they may hold anything. So
sessions are made one at a time (`make`), and what was mapped meanwhile is theirs.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Range = tuple[int, int]

_MAPS, _SMAPS = Path("/proc/self/maps"), Path("/proc/self/smaps")
_DONTNEED = 4  # of madvise(2)
_SECONDS = 0.02  # between two releases: of 0.5B parameters a pass of 256 tokens reads 16 MB meanwhile
_lock = threading.RLock()  # held while a session is made
_here = threading.local()  # .watch: the Watch of this thread, if any


@dataclass(frozen=True)
class Pages:
    """Memory at which sessions have mapped their weights, unchanged.

    Attributes:
        ranges: first address, and the one after the last.
        sessions: whose they are; while these live the addresses are theirs.
    """

    ranges: tuple[Range, ...] = ()
    sessions: tuple[Any, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        """Bytes of address space."""
        return sum(end - start for start, end in self.ranges)

    def release(self) -> None:
        """Release what is resident; what is read again comes from the file again."""
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
            with contextlib.suppress(RuntimeError):  # no more threads: all stays resident until the end
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


class Watch:
    """Where the sessions that this thread makes have mapped files; see `watching`."""

    def __init__(self) -> None:
        self._seen: list[tuple[Any, dict[str, list[Range]]]] = []

    def record(self, session: Any, before: dict[str, list[Range]] | None) -> None:
        """A session was made, and before that `before` was mapped."""
        after = _mapped(_SMAPS)
        if before is not None and after is not None:
            new = {name: without(spans, before.get(name, [])) for name, spans in after.items()}
            self._seen.append((session, new))

    def pages(self, sessions: Iterable[Any], *files: Path) -> Pages:
        """Where those of the sessions have mapped those files."""
        names, wanted = {os.path.realpath(file) for file in files}, tuple(sessions)
        seen = [maps for session, maps in self._seen if any(session is one for one in wanted)]
        ranges = _joined(span for maps in seen for name in names for span in maps.get(name, []))
        return Pages(tuple(ranges), wanted) if ranges else NOWHERE


@contextlib.contextmanager
def watching() -> Iterator[Watch]:
    """For as long as this thread makes sessions of which somebody wants to know where they map files."""
    outer, _here.watch = getattr(_here, "watch", None), Watch()
    try:
        yield _here.watch
    finally:
        _here.watch = outer


def make(session: Callable[[], Any], *, watched: bool) -> Any:
    """Make a session, while no other one is made; the Watch of this thread records one that is `watched`."""
    with _lock:
        watch = getattr(_here, "watch", None) if watched else None
        if watch is None:
            return session()
        before = _mapped(_MAPS)
        made = session()
        watch.record(made, before)
        return made


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


def _mapped(table: Path) -> dict[str, list[Range]] | None:
    """File → where it is mapped; by smaps but for where something was written, which would be lost. None: not known."""
    if _madvise is None:
        return None
    found: dict[str, list[Range]] = {}
    spans: list[Range] = []
    try:
        for line in table.read_bytes().split(b"\n"):
            first, _, rest = line.partition(b" ")
            if b"-" in first:
                name = b"".join(rest.split(None, 4)[4:])
                spans = found.setdefault(os.fsdecode(name), []) if name.startswith(b"/") else []
                start, end = (int(address, 16) for address in first.split(b"-"))
                written = False
                spans.append((start, end))
            elif first in (b"Anonymous:", b"Swap:") and rest.split()[0] != b"0" and not written:
                written = True
                spans.pop()
    except (OSError, ValueError):
        return None
    return found


def _find_madvise() -> Any:
    try:
        return ctypes.CDLL(None).madvise if _SMAPS.exists() else None
    except (AttributeError, OSError, TypeError):  # no such function; on Windows no such library
        return None


def _renew() -> None:
    """In the child of a fork: the thread that held it is not there."""
    global _lock
    _lock = threading.RLock()


_madvise = _find_madvise()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)

"""Work on a stream of pieces with all cores, in order, holding only a few of them at a time.

Pieces are of one size whatever the machine, and inside `pieces_apart` a product of numpy takes the thread that calls it and
no other: so what is made does not depend on the number of cores, by no bit. (Threads of numpy's own wait spinning, too, in
the way of all others.)
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from types import TracebackType
from typing import Self, TypeVar

from threadpoolctl import threadpool_limits

from edgelm.machine.host import usable_cpus

_SLICE = 512  # rows that are worked on at once

A = TypeVar("A")
B = TypeVar("B")


class _Limits:
    """Of all contexts that are open, in any thread: the first sets them, the last puts back what was."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.open = 0
        self.set: threadpool_limits | None = None


_limits = _Limits()


@contextmanager
def pieces_apart() -> Iterator[None]:
    """Inside, products of numpy take one thread each: pieces are what cores share."""
    with _limits.lock:
        _limits.open += 1
        if _limits.set is None:
            _limits.set = threadpool_limits(1, user_api="blas")
    try:
        yield
    finally:
        with _limits.lock:
            _limits.open -= 1
            if not _limits.open and _limits.set is not None:
                _limits.set.restore_original_limits()
                _limits.set = None


@cache
def cores() -> int:
    """That this process may use; asked once."""
    return usable_cpus()


def ordered_map(work: Callable[[A], B], pieces: Iterable[A], workers: int | None = None) -> Iterator[B]:
    """``map(work, pieces)`` on threads (numpy releases the GIL while it computes).

    At most one piece more than there are workers is held at a time.
    """
    workers = workers or cores()
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[B]] = deque()
        try:
            for piece in pieces:
                waiting.append(pool.submit(work, piece))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class Stopped(Exception):
    """What is made beside other work is not wanted any more: that work has failed."""


def at_once(first: Callable[[], A], second: Callable[[], B], stop: threading.Event | None = None) -> tuple[A, B]:
    """What two pieces of work give that do not depend on each other. Where the first fails, the second is told by `stop`."""
    with ThreadPoolExecutor(1) as pool:
        later = pool.submit(second)
        try:
            return first(), later.result()
        except BaseException:
            if stop is not None:
                stop.set()
            raise


class Ahead(Iterator[A]):
    """The same items; the next one is made beside other work from when `start` is called, or else when it is asked for.

    A context: when it is left, nothing is made any more. What makes the items is told by `stop`.
    """

    def __init__(self, items: Iterator[A], stop: threading.Event | None = None) -> None:
        self._items, self._stop = items, stop
        self._pool = ThreadPoolExecutor(1)
        self._next: Future[A | None] | None = None

    def start(self) -> None:
        """Begin to make the next item."""
        if self._next is None:
            self._next = self._pool.submit(next, self._items, None)

    def __next__(self) -> A:
        self.start()
        assert self._next is not None
        item, self._next = self._next.result(), None
        if item is None:
            raise StopIteration
        return item

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self._stop is not None:
            self._stop.set()
        self._pool.shutdown(cancel_futures=True)


def slices(count: int, most: int = _SLICE) -> list[slice]:
    """Of so many rows, of about one size, `most` of them each; as many for one core of two as for the other."""
    number = 2 * -(-count // (2 * most))
    return blocks(count, max(1, -(-count // max(1, number))))


def blocks(count: int, size: int) -> list[slice]:
    """Of so many rows, `size` each; the last one may have fewer."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]

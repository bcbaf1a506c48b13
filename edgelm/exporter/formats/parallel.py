"""Work on a stream of pieces with all cores, in order, holding only a few of them at a time.

Pieces are of one size whatever the machine, so that what is made of them does not depend on it. numpy's own threads wait
spinning, in the way of all others: inside `pieces_apart` numpy keeps to the thread that calls it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from threadpoolctl import threadpool_limits

# Rows that are worked on at once; not a share of the cores', since a bundle must not depend on their number.
_SLICE = 512
_PIECES = 8  # at least, of much work; where there are more cores, each piece is given several

A = TypeVar("A")
B = TypeVar("B")


@contextmanager
def pieces_apart() -> Iterator[None]:
    """Inside, products of numpy take the thread they are called from, and with many cores a few more."""
    with threadpool_limits(max(1, cores() // _PIECES), user_api="blas"):
        yield


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


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


def at_once(first: Callable[[], A], second: Callable[[], B]) -> tuple[A, B]:
    """What two pieces of work give that do not depend on each other."""
    with ThreadPoolExecutor(1) as pool:
        later = pool.submit(second)
        return first(), later.result()


class Ahead(Iterator[A]):
    """The same items; the next one is made beside other work from when `start` is called, or else when it is asked for."""

    def __init__(self, items: Iterator[A]) -> None:
        self._items = items
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
            self._pool.shutdown()
            raise StopIteration
        return item


def slices(count: int, most: int = _SLICE) -> list[slice]:
    """Of so many rows, of about one size, `most` of them each; as many for one core of two as for the other."""
    number = 2 * -(-count // (2 * most))
    size = max(1, -(-count // max(1, number)))
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]

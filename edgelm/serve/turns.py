"""Whose turn it is: a queue in the order of arrival, with an end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from edgelm.serve.errors import ApiError


class Turns:
    """Places for so many at once; others wait, first come, first served.

    Args:
        places: how many work at once.
        queue: how many may wait.

    Attributes:
        running: how many work.
    """

    def __init__(self, places: int, queue: int) -> None:
        self._free, self._queue = asyncio.Semaphore(places), queue
        self.running = self.waiting = 0

    @contextlib.asynccontextmanager
    async def turn(self, seconds: float) -> AsyncIterator[None]:
        """A place for this block.

        Args:
            seconds: to wait for one.

        Raises:
            ApiError: too many wait (429), or none came free in time (503).
        """
        if self._free.locked() and self.waiting >= self._queue:
            raise ApiError(429, "too many requests are waiting", code="queue_full")
        self.waiting += 1
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._free.acquire()
        except TimeoutError:
            raise ApiError(503, "no place came free in time", code="timeout") from None
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._free.release()

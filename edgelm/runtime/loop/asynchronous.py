"""A generation for ``async for``: the model computes in a thread, the event loop stays free."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from edgelm.runtime.loop.request import Request
    from edgelm.runtime.loop.results import Chunk


async def each(request: Request, run: Callable[[Request], Generator[Chunk, None, None]]) -> AsyncGenerator[Chunk, None]:
    """The chunks of `run`, one by one; where the reader leaves, or its task is cancelled, the generation ends."""
    import asyncio  # which takes longer to import than a small model takes to answer

    chunks, loop = run(request), asyncio.get_running_loop()
    step: asyncio.Future[Chunk | None] | None = None
    try:
        while True:
            step = loop.run_in_executor(None, next, chunks, None)
            chunk = await asyncio.shield(step)
            if chunk is None:
                return
            yield chunk
    finally:
        request.cancelled.set()
        if step is not None and not step.done():
            # A thread cannot be stopped within a pass; the generator must not be closed before it is out of it.
            await asyncio.wait([step])
        chunks.close()

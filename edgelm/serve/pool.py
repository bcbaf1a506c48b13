"""The models of a server: loaded when they are asked for, unloaded when nobody does or memory is short."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from edgelm.bundle.reader import Bundle
from edgelm.errors import OptionError, near
from edgelm.files import real_path
from edgelm.machine.host import read_memory
from edgelm.runtime.lm import LM
from edgelm.serve.errors import LOG, ApiError

T = TypeVar("T")
Load = Callable[[Path, float | None], LM]
"""(folder, what it may take in 10^6 bytes or None) -> the model."""


@dataclass(eq=False)
class Served:
    """A model of the server.

    Attributes:
        name: by which clients ask for it.
        bundle: where it lies.
        lm: it, while it is loaded.
        users: requests that need it now.
        used: when it was last needed, by ``time.monotonic``.
        keep_seconds: after which it is unloaded, where a client said so; negative for never.
    """

    name: str
    bundle: Bundle
    lm: LM | None = None
    users: int = 0
    used: float = field(default_factory=time.monotonic)
    keep_seconds: float | None = None
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def bytes(self) -> int:
        """What it takes in memory, by its manifest."""
        return self.bundle.manifest.memory.total_bytes


class Pool:
    """Loads and unloads models.

    Args:
        models: those there are; names are unique.
        load: loads one.
        executor: where that is done.
        max_memory_mb: what all may take together, in 10^6 bytes; None for what the machine has.
        idle_seconds: after which a model that nobody needs is unloaded; None for never.
        leave: called with a model that is about to be unloaded, and with one that nobody needs just now.
    """

    def __init__(
        self,
        models: Sequence[Served],
        load: Load,
        executor: Executor,
        *,
        max_memory_mb: float | None = None,
        idle_seconds: float | None = None,
        leave: Callable[[Served, LM], None] = lambda model, lm: None,
    ) -> None:
        self.models = {model.name: model for model in models}
        if len(self.models) < len(models):
            names = [model.name for model in models]
            twice = next(name for name in names if names.count(name) > 1)
            raise OptionError(f"two bundles are called {twice!r}", hint="name them: --alias A --alias B")
        self._load, self._executor = load, executor
        self._max_mb, self._idle, self._leave = max_memory_mb, idle_seconds, leave
        self._room = asyncio.Lock()  # one decides at a time what has to go

    def find(self, name: str | None) -> Served:
        """The model of a name; the first one where no name is given. A tag ``:latest`` is passed over.

        Raises:
            ApiError: there is none.
        """
        if not name:
            return next(iter(self.models.values()))
        found = self.models.get(name) or self.models.get(name.removesuffix(":latest"))
        if found is None:
            hint = near(name[:200], self.models, listing="models")
            if not hint.startswith("did you"):  # an app that asks for a name of its own
                hint += f"; --alias {name[:200]} serves one by this name"
            raise ApiError(
                404,
                f"there is no model {name[:200]!r}; {hint}",
                param="model",
                code="model_not_found",
            )
        return found

    @contextlib.asynccontextmanager
    async def using(self, model: Served) -> AsyncIterator[LM]:
        """The model, loaded; it stays so within this block.

        Raises:
            ApiError: there is no memory for it while others are in use.
            EdgeLMError: it cannot be loaded.
        """
        model.users += 1
        try:
            async with model.loading:
                if model.lm is None:
                    await self._open(model)
            assert model.lm is not None
            yield model.lm
        finally:
            model.users -= 1
            model.used = time.monotonic()

    async def unload(self, model: Served) -> None:
        """Free a model that nobody needs; one that is needed stays."""
        async with model.loading:
            if model.lm is None or model.users:
                return
            lm, model.lm, model.keep_seconds = model.lm, None, None
            await self._run(lambda: self._end(model, lm))
            LOG.info("unloaded %s", model.name)

    async def unload_idle(self) -> None:
        """Free what nobody needed for long enough."""
        now = time.monotonic()
        for model in self.models.values():
            keep = self._idle if model.keep_seconds is None else model.keep_seconds
            if model.lm is not None and not model.users and keep is not None and 0 <= keep <= now - model.used:
                await self.unload(model)

    async def close(self) -> None:
        """Free all models, also those in use: their generations end."""
        for model in self.models.values():
            if model.lm is not None:
                lm, model.lm = model.lm, None
                await self._run(partial(self._end, model, lm))

    async def tidy(self, model: Served) -> None:
        """Call `leave` with a model that is loaded and that nobody needs just now."""
        async with model.loading:
            if (lm := model.lm) is not None and not model.users:
                await self._run(lambda: self._leave(model, lm))

    def _end(self, model: Served, lm: LM) -> None:
        self._leave(model, lm)
        lm.close()

    async def _open(self, model: Served) -> None:
        async with self._room:
            left = await self._make_room(model)
            started = time.perf_counter()
            model.lm = await self._run(lambda: self._load(model.bundle.path, left))
        LOG.info("loaded %s in %.1f s", model.name, time.perf_counter() - started)

    async def _make_room(self, wanted: Served) -> float | None:
        """Free idle models, least recently used first, until `wanted` fits.

        Returns:
            what it may take, in 10^6 bytes; None for no limit.
        """
        while True:
            loaded = [model for model in self.models.values() if model.lm is not None]
            left = self._left(loaded)
            if left is None or wanted.bytes <= left or not loaded:
                return None if self._max_mb is None else (left or 0) / 1e6
            idle = sorted((model for model in loaded if not model.users), key=lambda model: model.used)
            if not idle:
                if self._max_mb is None:
                    return None  # the machine may have more than it says: swap, caches
                raise ApiError(503, "other models are in use and leave no memory for this one", code="out_of_memory")
            LOG.info("memory is short: %s makes room for %s", idle[0].name, wanted.name)
            await self.unload(idle[0])

    def _left(self, loaded: Sequence[Served]) -> int | None:
        """Bytes that another model may take; None where that is not known."""
        if self._max_mb is not None:
            return int(self._max_mb * 1e6) - sum(model.bytes for model in loaded)
        return read_memory().usable

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)


def open_models(paths: Sequence[Path], aliases: Sequence[str]) -> list[Served]:
    """The bundles in some folders, checked and named.

    Raises:
        BundleError: one cannot be used.
    """
    names = [*aliases, *(real_path(path).name for path in paths[len(aliases) :])]
    return [Served(name, Bundle.open(path)) for name, path in zip(names, paths, strict=True)]

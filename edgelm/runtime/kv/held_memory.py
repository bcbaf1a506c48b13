"""The memory that the texts of a model hold together, and what is left of its limit."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol
from weakref import WeakSet

from edgelm.errors import DeviceError
from edgelm.runtime.kv.cache import Cache
from edgelm.runtime.lora_adapter import RuntimeAdapter


class Holder(Protocol):
    """A text: what of it takes memory.

    Attributes:
        cache: of its keys and values; None once the model is closed.
    """

    cache: Cache | None

    @property
    def adapter(self) -> RuntimeAdapter | None:
        """With which it computes."""


class HeldMemory:
    """What all texts of a model hold; each counts for as long as it lives.

    Args:
        limit: bytes that keys, values and adapters may take; None for any number.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._holders: WeakSet[Holder] = WeakSet()

    def add(self, holder: Holder) -> None:
        """One more text."""
        self._holders.add(holder)

    def release(self) -> None:
        """Let the caches of all texts go."""
        for holder in self._holders:
            holder.cache = None

    @property
    def kv_bytes(self) -> int:
        """Bytes that keys and values of all texts take."""
        return _cached(holder.cache for holder in tuple(self._holders))

    def room(self, own: Collection[Holder]) -> int | None:
        """Bytes of the memory allowed that are left for `own` texts, all that they hold included; None for no limit."""
        others = self._held(h.cache for h in self._holders if h not in own)
        return None if self._limit is None else self._limit - others

    def expect(self, cache: Cache, total: int) -> None:
        """DeviceError where `total` tokens in `cache`, and what other texts hold, are more than the memory allowed."""
        if self._limit is None:
            return
        others = self._held(h.cache for h in self._holders if h.cache is not cache)
        if others + cache.needs(total) > self._limit:
            raise DeviceError(
                f"{total:,} tokens, beside {others / 1e6:,.1f} MB of other sessions and adapters, need more than "
                "max_memory_mb allows",
                hint="close a session, or allow for more memory",
            )

    def _held(self, caches: Iterable[Cache | None]) -> int:
        """Bytes of some texts' caches, and of all adapters, each counted once."""
        adapters = {h.adapter.digest: h.adapter.nbytes for h in self._holders if h.adapter is not None}
        return _cached(caches) + sum(adapters.values())


def _cached(caches: Iterable[Cache | None]) -> int:
    return sum(cache.nbytes for cache in caches if cache is not None)

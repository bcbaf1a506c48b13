"""A limit on memory: how long a context fits in it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from edgelm.bundle.json_table import shown
from edgelm.bundle.manifest import Manifest
from edgelm.errors import DeviceError, OptionError
from edgelm.runtime.kv.windows import windows_bytes

_MOST_MB = 1e12
SHORTEST = 64  # tokens of a context that is still of use


@dataclass(frozen=True)
class Room:
    """What a model may take of a memory limit.

    Attributes:
        context: tokens.
        kv_bytes: of keys and values, in all sessions together.
    """

    context: int
    kv_bytes: int


def fit(manifest: Manifest, max_memory_mb: float) -> Room:
    """What fits of a bundle.

    Weights, runtime, activations and one row of logits come first, by the manifest's figures (see `edgelm inspect`);
    what is left is for keys and values.

    Args:
        manifest: of the bundle.
        max_memory_mb: the limit, in 10^6 bytes.

    Raises:
        OptionError: the limit is no number above 0.
        DeviceError: it leaves room for fewer than `SHORTEST` tokens, or fewer than the whole of a shorter context.
    """
    needs = _Needs.of(manifest)
    return _fit("this bundle", needs, max_memory_mb)


def fit_both(manifest: Manifest, draft: Manifest, max_memory_mb: float) -> tuple[Room, Room]:
    """What fits of a bundle and of a draft bundle beside it, in one process; the arguments and errors are those of `fit`."""
    large, small = _Needs.of(manifest), _Needs.of(draft)
    per_token, windows = large.per_token + small.per_token, (*large.windows, *small.windows)
    both = _Needs(large.context, large.fixed + small.fixed - small.runtime, per_token, 0, windows)
    room = _fit("this bundle with its draft", both, max_memory_mb)
    share = room.kv_bytes * small.taken(room.context) // max(1, both.taken(room.context))
    return Room(room.context, room.kv_bytes - share), Room(min(small.context, room.context), share)


@dataclass(frozen=True)
class _Needs:
    """The context a bundle was exported for in tokens; what it takes without one, and for each token, in bytes; and the
    windows of its layers, by model: (room for tokens, bytes of a token) each.
    """

    context: int
    fixed: int
    per_token: int
    runtime: int  # of `fixed`, what a process takes once
    windows: tuple[Sequence[tuple[int, int]], ...] = ()

    @classmethod
    def of(cls, manifest: Manifest) -> _Needs:
        memory, graph = manifest.memory, manifest.graph
        copies = 1 if graph.cache == "shared" else 2  # a step that returns a longer copy holds both
        fixed = memory.total_bytes - copies * memory.kv_bytes - memory.window_bytes
        windows = [(w.capacity, w.bytes_per_token) for w in (graph.windows or {}).values()]
        return cls(manifest.context, fixed, copies * memory.kv_bytes_per_token, memory.runtime_bytes, (windows,))

    def taken(self, tokens: int) -> int:
        """Bytes of keys and values, windows and their copies included, in a context of so many tokens."""
        return self.per_token * tokens + sum(windows_bytes(sizes, tokens) for sizes in self.windows)


def _fit(what: str, needs: _Needs, max_memory_mb: float) -> Room:
    if (
        isinstance(max_memory_mb, bool)
        or not isinstance(max_memory_mb, int | float)
        or not 0 < max_memory_mb <= _MOST_MB
    ):
        raise OptionError(f"max_memory_mb must be a number above 0, not {shown(max_memory_mb)}")
    room = int(max_memory_mb * 1e6) - needs.fixed
    fits, least = bisect_right(range(1, needs.context + 1), room, key=needs.taken), min(needs.context, SHORTEST)
    if fits < least:
        raise DeviceError(
            f"{max_memory_mb:,.0f} MB are too little: {what} needs {(needs.fixed + needs.taken(least)) / 1e6:,.0f} MB "
            f"with a context of {least} tokens",
            hint="allow for more memory, or export a smaller model or fewer bits",
        )
    return Room(fits, room)

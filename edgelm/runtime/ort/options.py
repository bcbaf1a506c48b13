"""How a bundle is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from edgelm.bundle.json_table import shown
from edgelm.errors import OptionError, expect_type
from edgelm.profile.settings import Settings
from edgelm.runtime.ort.packing import OnBytes
from edgelm.runtime.ort.weightcache import WeightCache

_MOST_THREADS = 1024


@dataclass(frozen=True)
class LoadOptions:
    """How a bundle is loaded.

    Attributes:
        threads: for decode; None for the target's number, capped by this machine's cores.
        prefill_threads: for prefill, in its own session where that is another number; None for the target's number,
            or `threads` where that is given, or where it would take the memory of the weights twice.
        max_memory_mb: what the process may take, in 10^6 bytes, by the manifest's figures: the context shrinks to what
            fits, and all sequences share it. None for no limit.
        weight_cache: True for the user's cache of prepacked weights, if the environment leaves it on; False for none;
            or another one.
        on_bytes: called with (bytes done, bytes in all) while weights are packed for the cache.
        disable_spinning: whether the threads of a session sleep between its runs: those of another model, which runs in
            turn on the same cores, must not be kept waiting.
        settings: of this machine's profile, for what is not given here; None for the target's figures.

    Raises:
        OptionError: a number of threads below 1.
    """

    threads: int | None = None
    prefill_threads: int | None = None
    max_memory_mb: float | None = None
    weight_cache: WeightCache | bool = True
    on_bytes: OnBytes | None = None
    disable_spinning: bool = False
    settings: Settings | None = None

    def __post_init__(self) -> None:
        for name in ("threads", "prefill_threads"):
            number = getattr(self, name)
            if number is None:
                continue
            if not isinstance(number, int) or isinstance(number, bool):
                raise OptionError(f"{name} must be a whole number, not {shown(number)}")
            if not 1 <= number <= _MOST_THREADS:
                raise OptionError(f"{name} must be at least 1, and at most {_MOST_THREADS}, not {number}")
        if self.weight_cache is not None:
            expect_type("weight_cache", self.weight_cache, (bool, WeightCache), "a WeightCache, True or False")
        if self.on_bytes is not None and not callable(self.on_bytes):
            raise TypeError(f"on_bytes must be a function, not {type(self.on_bytes).__name__}")

    def cache(self) -> WeightCache | None:
        """The cache to use.

        Raises:
            OptionError: the environment sets a limit for it that is no number.
        """
        return WeightCache.default() if self.weight_cache is True else self.weight_cache or None


DEFAULTS = LoadOptions()

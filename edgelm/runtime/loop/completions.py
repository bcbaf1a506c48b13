"""Several completions of one prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgelm.errors import OptionError
from edgelm.runtime.loop.results import Completion
from edgelm.runtime.sample.config import GenerationConfig


def variants(config: GenerationConfig, n: int, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The options of each of `n` completions: they differ in the seed, where there is one.

    Raises:
        OptionError: `n` is not an integer of 1 or more.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise OptionError(f"n must be an integer, 1 or more, not {n!r}")
    seed = config.replace(seed=options.get("seed")).seed
    return [{**options} if seed is None else {**options, "seed": seed + index} for index in range(n)]


def interrupted(completion: Completion) -> bool:
    """Whether it was cancelled, or met its deadline: those of the same prompt after it are left out."""
    return completion.finish_reason in ("cancelled", "deadline")

"""Several completions of one prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgelm.bundle.json_table import shown
from edgelm.errors import OptionError
from edgelm.runtime.loop.results import Completion
from edgelm.runtime.sample.config import GenerationConfig

MOST = 1024  # completions of one prompt; all are held until the last is there


def variants(config: GenerationConfig, n: int, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The options of each of `n` completions: they differ in the seed, where there is one.

    Raises:
        OptionError: `n` is not an integer from 1 to `MOST`.
    """
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MOST:
        raise OptionError(f"n must be an integer, 1 or more and at most {MOST:,}, not {shown(n)}")
    seed = config.replace(seed=options.get("seed")).seed
    return [{**options} if seed is None else {**options, "seed": seed + index} for index in range(n)]


def interrupted(completion: Completion) -> bool:
    """Whether it was cancelled, or met its deadline: those of the same prompt after it are left out."""
    return completion.finish_reason in ("cancelled", "deadline")

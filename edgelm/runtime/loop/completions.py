"""Several completions of one prompt."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any

from edgelm.errors import OptionError
from edgelm.runtime.loop.results import Chunk, Completion
from edgelm.runtime.sample.config import GenerationConfig
from edgelm.runtime.text.prompt import Prompt


def complete(
    stream: Callable[..., Generator[Chunk, None, None]],
    config: GenerationConfig,
    prompt: Prompt,
    n: int | None,
    options: Mapping[str, Any],
) -> Completion | list[Completion]:
    """A completion, or a list of `n`.

    Args:
        stream: makes one; see `LM.stream`.
        config: the model's own options.
        prompt: see `LM.encode_prompt`.
        n: how many; None for a single one, not in a list.
        options: see `Options`.

    Raises:
        OptionError: `n` is not an integer of 1 or more.
    """
    if n is None:
        return Completion.join(stream(prompt, **options))
    done = list[Completion]()
    for own in variants(config, n, options):
        done.append(Completion.join(stream(prompt, **own)))
        if done[-1].finish_reason in ("cancelled", "deadline"):
            break
    return done


def variants(config: GenerationConfig, n: int, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The options of each of `n` completions: they differ in the seed, where there is one.

    Raises:
        OptionError: `n` is not an integer of 1 or more.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise OptionError(f"n must be an integer, 1 or more, not {n!r}")
    seed = config.replace(seed=options.get("seed")).seed
    return [{**options} if seed is None else {**options, "seed": seed + index} for index in range(n)]

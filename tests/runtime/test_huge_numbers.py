"""Numbers of more digits than Python prints, and values whose own repr fails, are told in one short line."""

from __future__ import annotations

from typing import Any

import pytest

from edgelm.bundle.json_table import shown
from edgelm.errors import OptionError
from edgelm.runtime.loop.completions import MOST, variants
from edgelm.runtime.sample.config import GenerationConfig

HUGE = 10**5000


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "name", ["max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "stop", "logit_bias"]
)
def test_options(name: str) -> None:
    values: list[Any] = [-HUGE, [HUGE], (HUGE,), {HUGE: "x"}, Odd()]
    for value in [*values, *([] if name == "stop" else ["x" * 100_000])]:
        if name == "seed" and isinstance(value, int):
            continue
        with pytest.raises((OptionError, TypeError)) as caught:
            GenerationConfig().replace(**{name: value})
        assert len(str(caught.value)) < 200
        assert str(caught.value).isprintable()


def test_completions_of_one_prompt_are_bounded() -> None:
    for n in (0, MOST + 1, 10**30, HUGE, -HUGE, True, 1.5, "2", Odd()):
        with pytest.raises(OptionError, match=rf"n must be an integer, 1 or more and at most {MOST:,}, not "):
            variants(GenerationConfig(), n, {})  # type: ignore[arg-type]
    assert len(variants(GenerationConfig(), 3, {})) == 3


def test_what_is_shown() -> None:
    assert shown(HUGE) == "a number of 16610 bits"
    assert shown((HUGE,)) == "a tuple"
    assert shown(Odd()) == "an Odd"
    assert shown("a\nb") == r"'a\nb'"

"""What a caller of the Python interface gives wrong: an EdgeLMError, or a TypeError that names the argument."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import edgelm
from edgelm.errors import EdgeLMError, OptionError
from edgelm.runtime.lm import LM

FROZEN = Path(__file__).parent / "frozen" / "format1"
NO_PATHS = [5, b"x", 1.5, [], {}, True, object()]


@pytest.fixture(scope="module")
def lm() -> LM:
    return edgelm.load(FROZEN, threads=1, weight_cache=False)


@pytest.mark.parametrize("value", [None, *NO_PATHS])
def test_what_is_no_path_is_named(lm: LM, value: Any) -> None:
    with pytest.raises(TypeError, match="path must be a path, a str"):
        edgelm.load(value)
    with lm.session() as session:
        for use in (session.save, session.load):
            with pytest.raises(TypeError, match="path must be a path, a str"):
                use(value)


@pytest.mark.parametrize("value", NO_PATHS)
def test_an_adapter_and_a_draft_are_paths(lm: LM, value: Any) -> None:
    with pytest.raises(TypeError, match="adapter must be a path"):
        lm.generate("hi", adapter=value)
    with pytest.raises(TypeError, match="draft must be a path"):
        edgelm.load(FROZEN, draft=value)


@pytest.mark.parametrize("value", NO_PATHS)
@pytest.mark.parametrize("name", ["model", "target", "adapter", "output", "calibrate", "card", "recipe"])
def test_the_paths_of_an_export(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be a path"):
        edgelm.export(**{name: value})


@pytest.mark.parametrize("name", ["threads", "prefill_threads"])
@pytest.mark.parametrize("value", ["x", b"1", [], 1.5, True, 0, -1, 10**30, math.inf, math.nan])
def test_numbers_of_threads(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=f"{name} must be"):
        edgelm.load(FROZEN, **{name: value})


@pytest.mark.parametrize("value", ["x", b"1", [], True, 0, -1, math.inf, math.nan])
def test_a_limit_of_memory(value: Any) -> None:
    with pytest.raises(EdgeLMError, match="max_memory_mb must be a number above 0"):
        edgelm.load(FROZEN, max_memory_mb=value)

"""The loop: prefill, sample, feed back, and not one pass more than needed."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import pytest
from fake_engine import FakeEngine, greedy, logits_of

from edgelm.errors import EdgeLMError, PromptError
from edgelm.runtime.loop.generate import Limits, generate_step
from edgelm.runtime.sample.config import GenerationConfig
from edgelm.runtime.sample.sampling import make_sampler

PROMPT = [5, 6, 7, 8, 9]


def run(engine: FakeEngine, prompt: Sequence[int] = PROMPT, **options: Any) -> tuple[list[int], str]:
    limits = {"max_tokens": 6} | {
        name: options.pop(name) for name in ("max_tokens", "eos", "interrupt") if name in options
    }
    sampler = options.pop("sampler", None) or make_sampler(GenerationConfig())
    return drain(generate_step(engine, prompt, sampler, Limits(**limits), **options))  # type: ignore[arg-type]


def drain(steps: Generator[int, None, str]) -> tuple[list[int], str]:
    ids = []
    while True:
        try:
            ids.append(next(steps))
        except StopIteration as end:
            return ids, end.value


def test_tokens_are_those_of_computing_each_from_scratch() -> None:
    engine = FakeEngine()
    assert run(engine) == (greedy(PROMPT, 6), "length")


@pytest.mark.parametrize("count", [1, 2, 6])
def test_no_pass_runs_whose_logits_nobody_needs(count: int) -> None:
    engine = FakeEngine()
    run(engine, max_tokens=count)
    assert engine.passes == [5] + [1] * (count - 1)


def test_nothing_runs_before_it_is_asked_for() -> None:
    engine = FakeEngine()
    steps = generate_step(engine, PROMPT, make_sampler(GenerationConfig()), Limits(5))  # type: ignore[arg-type]
    assert engine.passes == []
    next(steps)
    assert engine.passes == [5]
    next(steps)
    assert engine.passes == [5, 1]
    steps.close()
    assert engine.ids == [*PROMPT, *greedy(PROMPT, 1)]


def test_an_eos_token_ends_the_text_and_is_not_part_of_it() -> None:
    expected = greedy(PROMPT, 6)
    engine = FakeEngine()
    assert run(engine, eos={expected[3], 999}) == (expected[:3], "stop")
    assert engine.passes == [5, 1, 1, 1]
    assert run(FakeEngine(), eos={expected[0]}) == ([], "stop")


def test_a_full_context_ends_the_text() -> None:
    # 5 of the prompt and 3 more fit; the 4th is sampled from the full context and never fed back.
    engine = FakeEngine(context=8)
    assert run(engine, max_tokens=100) == (greedy(PROMPT, 4), "length")
    assert engine.position == 8


def test_a_prompt_may_fill_the_context() -> None:
    engine = FakeEngine(context=5)
    assert run(engine) == (greedy(PROMPT, 1), "length")


def test_a_prompt_too_long_or_empty_is_an_error_before_any_work() -> None:
    engine = FakeEngine(context=4)
    with pytest.raises(PromptError, match="the prompt has 5 tokens, the context is 4"):
        run(engine)
    with pytest.raises(PromptError, match="empty"):
        run(engine, [])
    assert engine.passes == []


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 100])
def test_a_prompt_is_prefilled_in_chunks(chunk: int) -> None:
    engine, seen = FakeEngine(), list[tuple[int, int]]()
    ids, _ = run(engine, prefill_chunk=chunk, max_tokens=1, progress=lambda *at: seen.append(at))
    assert ids == greedy(PROMPT, 1)
    assert max(engine.passes) <= chunk
    assert sum(engine.passes) == 5
    assert seen == [(sum(engine.passes[: i + 1]), 5) for i in range(len(engine.passes))]


def test_only_what_the_cache_lacks_is_prefilled() -> None:
    engine = FakeEngine()
    engine.forward(PROMPT[:3])
    assert run(engine) == (greedy(PROMPT, 6), "length")
    assert engine.passes[:2] == [3, 2]


def test_a_cache_that_holds_the_whole_prompt_is_an_error() -> None:
    engine = FakeEngine()
    engine.forward(PROMPT)
    with pytest.raises(PromptError, match="nothing new"):
        run(engine)


@pytest.mark.parametrize("reason", ["cancelled", "deadline"])
@pytest.mark.parametrize("after", range(8))
def test_an_interrupt_ends_it_before_the_next_pass(reason: Any, after: int) -> None:
    engine = FakeEngine()
    ids, ended = run(engine, interrupt=lambda: reason if len(engine.passes) == after else None, prefill_chunk=2)
    assert ended == (reason if after < 8 else "length")
    assert len(engine.passes) == after
    assert ids == greedy(PROMPT, 6)[: max(0, after - 2)]  # three passes for the prompt, the third gives a token


def test_the_sampler_sees_the_prompt_and_every_token() -> None:
    histories = []

    def sampler(logits: np.ndarray, history: Sequence[int]) -> int:
        histories.append(list(history))
        np.testing.assert_array_equal(logits, logits_of(history))
        return int(logits.argmax())

    ids, _ = run(FakeEngine(), sampler=sampler, max_tokens=3)
    assert histories == [[*PROMPT, *ids[:n]] for n in range(3)]


def test_the_prompt_given_is_left_alone() -> None:
    prompt = list(PROMPT)
    run(FakeEngine(), prompt)
    assert prompt == PROMPT
    assert run(FakeEngine(), np.array(PROMPT))[0] == greedy(PROMPT, 6)  # type: ignore[arg-type]


def test_errors_of_the_engine_come_through() -> None:
    engine = FakeEngine(logits=lambda ids: np.full(260, np.nan, np.float32))
    with pytest.raises(EdgeLMError, match="NaN"):
        run(engine)

"""How fast a bundle runs here: prefill, decode, time to first token.

The tests and figures are llama-bench's (llama.cpp, tools/llama-bench), so that they compare:

* ``pp512``: 512 random ids on an empty cache, in passes of `PREFILL_CHUNK` as any prompt is read; BOS first where the
  vocabulary uses it.
* ``tg128``: 128 passes of one random id each; no sampling, no tokenising.
* ``@ d1024``: the same on top of 1,024 tokens, which are not timed.

Before each test one untimed run warms up: the prompt, or one token. A rate is the mean of the repetitions' rates,
with their sample standard deviation (n - 1).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgelm.errors import OptionError
from edgelm.runtime.sample.config import GenerationConfig
from edgelm.runtime.sample.sampling import make_sampler

PROMPT, GENERATION = 512, 128  # tokens of the tests that are run unless others are asked for
Clock = Callable[[], float]
OnStep = Callable[[int, int, str], None]
"""Called with (runs done, runs in all, name of the test) before each run."""


class Runs(Protocol):
    """What is asked of an Engine."""

    context: int
    vocab_size: int

    def forward(self, ids: Sequence[int] | np.ndarray, num_logits: int = 1) -> np.ndarray:
        """Append tokens and compute logits."""

    def prefill(self, ids: Sequence[int]) -> np.ndarray:
        """Append the tokens of a prompt; the logits after the last one, [1, V]."""

    def reset(self) -> None:
        """Forget all tokens."""


@dataclass(frozen=True)
class SpeedTest:
    """What is timed: a prompt of `prompt` tokens or `generation` single steps, one of them 0, after `depth` tokens."""

    prompt: int
    generation: int
    depth: int = 0
    kind: str = ""  # what makes it another test than llama-bench's, with a blank before it

    @property
    def name(self) -> str:
        """As llama-bench writes it: ``pp512``, ``tg128 @ d1024``."""
        kind = f"pp{self.prompt}" if self.prompt else f"tg{self.generation}"
        return kind + (f" @ d{self.depth}" if self.depth else "") + self.kind

    @property
    def tokens(self) -> int:
        """Tokens timed."""
        return self.prompt or self.generation


@dataclass(frozen=True)
class Rates:
    """The outcome of a test.

    Attributes:
        test: the test.
        rates: tokens per second of each repetition.
        ttft_seconds: of each repetition the time to the first token, prefill and greedy sample; empty for decode.
        spans: when each repetition began and ended, in seconds of the clock that timed it.
        joules_per_token: idle power taken off; None where the machine does not tell.
        gross_joules_per_token: idle power included.
    """

    test: SpeedTest
    rates: tuple[float, ...]
    ttft_seconds: tuple[float, ...] = ()
    spans: tuple[tuple[float, float], ...] = ()
    joules_per_token: float | None = None
    gross_joules_per_token: float | None = None

    @property
    def mean(self) -> float:
        """Tokens per second."""
        return statistics.fmean(self.rates)

    @property
    def stddev(self) -> float:
        """Sample standard deviation of the rates; 0 for one repetition."""
        return statistics.stdev(self.rates) if len(self.rates) > 1 else 0.0

    @property
    def ttft(self) -> float | None:
        """Mean time to first token in seconds."""
        return statistics.fmean(self.ttft_seconds) if self.ttft_seconds else None


def plan(
    context: int,
    prompts: Sequence[int] | None = None,
    generations: Sequence[int] | None = None,
    depths: Sequence[int] = (0,),
) -> tuple[list[SpeedTest], list[str]]:
    """The tests to run: every prompt and every generation at every depth.

    Args:
        context: of the bundle, in tokens.
        prompts, generations: lengths, 0 for none; None is `PROMPT` and `GENERATION`, or what fits.
        depths: tokens in the cache beforehand.

    Returns:
        the tests, and notes on defaults that were cut to fit.

    Raises:
        OptionError: a length or depth is negative or does not fit in the context; or nothing is left to measure.
    """
    for name, values in (("-p", prompts), ("-n", generations), ("-d", depths)):
        if negative := [value for value in values or () if value < 0]:
            raise OptionError(f"{name} must not be negative: {negative[0]}")
    room = context - max(depths)
    if room < 1:
        raise OptionError(f"-d {max(depths)} leaves no room in the context of {context:,} tokens")
    notes = []
    if prompts is None:
        prompts = [min(PROMPT, room)]
        if prompts[0] < PROMPT:
            notes.append(f"pp{PROMPT} became pp{prompts[0]} to fit in the context of {context:,} tokens")
    if generations is None:
        generations = [min(GENERATION, room)]
        if generations[0] < GENERATION:
            notes.append(f"tg{GENERATION} became tg{generations[0]} to fit in the context of {context:,} tokens")
    tests = [SpeedTest(p, 0, d) for d in depths for p in prompts if p] + [
        SpeedTest(0, n, d) for d in depths for n in generations if n
    ]
    if not tests:
        raise OptionError("nothing to measure: -p and -n are both 0")
    for test in tests:
        if test.tokens + test.depth > context:
            raise OptionError(
                f"{test.name} needs {test.tokens + test.depth:,} tokens, the context is {context:,}",
                hint=f"use {context - test.depth} or less, or export with a larger --context",
            )
    return tests, notes


def measure(
    engine: Runs,
    tests: Sequence[SpeedTest],
    *,
    repetitions: int = 5,
    bos: int | None = None,
    seed: int = 0,
    clock: Clock = time.perf_counter,
    on_step: OnStep = lambda done, total, name: None,
    warm_up: bool = True,
) -> list[Rates]:
    """Run the tests.

    Args:
        engine: is left empty.
        tests: from `plan`.
        repetitions: timed runs of each test.
        bos: the id that a prompt begins with, or None where the vocabulary uses none.
        seed: of the random ids.
        clock: seconds.
        on_step: is called with every run.
        warm_up: whether each test is run once untimed first.

    Raises:
        OptionError: repetitions below 1.
    """
    if repetitions < 1:
        raise OptionError(f"repetitions must be at least 1, not {repetitions}")
    ids = _Ids(engine.vocab_size, bos, seed)
    runs_each = range(0 if warm_up else 1, repetitions + 1)
    total, done = len(tests) * len(runs_each), 0
    results = []
    for test in tests:
        runs: list[tuple[float, float]] = []
        spans: list[tuple[float, float]] = []
        for repetition in runs_each:
            on_step(done, total, test.name)
            engine.reset()
            engine.prefill(ids.text(test.depth).tolist())
            began = clock()
            if test.prompt:
                seconds = _prefill(engine, ids.text(test.prompt), clock)
            else:
                seconds = _decode(engine, ids.text(test.generation if repetition else 1), clock)
            if repetition:  # the first was the warm-up
                runs.append(seconds)
                spans.append((began, began + seconds[0]))
            done += 1
        rates = tuple(test.tokens / computing for computing, _ in runs)
        first = tuple(first for _, first in runs) if test.prompt else ()
        results.append(Rates(test, rates, first, tuple(spans)))
    engine.reset()
    return results


class _Ids:
    """Seeded random ids."""

    def __init__(self, vocab: int, bos: int | None, seed: int) -> None:
        self._vocab, self._bos = vocab, bos
        self._random = np.random.default_rng(seed)

    def text(self, count: int) -> np.ndarray:
        """`count` ids, BOS the first where there is one."""
        ids = self._random.integers(0, self._vocab, count)
        if self._bos is not None and count:
            ids[0] = self._bos
        return ids


def _prefill(engine: Runs, ids: np.ndarray, clock: Clock) -> tuple[float, float]:
    """Seconds of the prompt, and of the prompt and the first sample."""
    sample = make_sampler(GenerationConfig(temperature=0))
    history = ids.tolist()
    start = clock()
    logits = engine.prefill(history)
    computed = clock()
    sample(logits[-1], history)
    return computed - start, clock() - start


def _decode(engine: Runs, ids: np.ndarray, clock: Clock) -> tuple[float, float]:
    steps = [int(token) for token in ids]
    start = clock()
    for token in steps:
        engine.forward([token])
    return clock() - start, 0.0

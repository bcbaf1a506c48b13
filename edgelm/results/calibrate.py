"""A board's `[rates]` from what was measured on it.

The constants are moved, each by a factor, until the forecasts of the measured tests come as near as they can: least squares
of the logarithms, by Gauss-Newton. A constant on which no measurement depends stays where it was, as every factor is held
to 1 by a weak spring. How good the outcome is, is told by bundles that it was not fitted to: each is left out once, and
forecast from the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgelm.bundle.manifest import Manifest
from edgelm.errors import BundleError, ResultsError
from edgelm.forecast.cost_model import Clock, Workload, from_manifest, rates_of
from edgelm.results.row import Row
from edgelm.target.rates import Product, Rates
from edgelm.target.target import Target

_SPRING = 0.03  # of a factor's logarithm, beside errors of forecasts' logarithms
_STEPS = 25
_MOST_ERROR = 1000.0  # percent that a target's file may tell
_FARTHEST = math.log(100.0)  # beyond a hundredfold the board is another one


@dataclass(frozen=True)
class Measured:
    """A test of a bundle: what it asked for, and what it took.

    Attributes:
        bundle: the digest.
        work: the bundle's.
        prompt, generation, depth: tokens, of the test.
        threads: with which it was computed.
        rate: tokens a second.
    """

    bundle: str
    work: Workload
    prompt: int
    generation: int
    depth: int
    threads: int
    rate: float

    @property
    def kind(self) -> str:
        """``prefill`` or ``decode``."""
        return "prefill" if self.prompt else "decode"


@dataclass(frozen=True)
class Calibrated:
    """The outcome.

    Attributes:
        target: the board with its new rates and bandwidth.
        tests, bundles: how many were measured.
        held_out: whether errors are of bundles that were left out; with one bundle alone there is none to leave out.
        errors: percent, of each test (kind, forecast, measured).
    """

    target: Target
    tests: int
    bundles: int
    held_out: bool
    errors: tuple[tuple[str, float, float], ...]


def measured(
    rows: Sequence[Row], manifests: Mapping[str, Mapping[str, Any]], *, emulated: bool = False
) -> list[Measured]:
    """The tests of the rows whose bundle's manifest is there; those on emulated boards only if asked for.

    Tests with a draft or an adapter, those that were throttled, those whose repetitions vary widely or are one alone, and
    those with more threads than the machine has cores are left out.
    """
    work = dict[str, Workload]()
    for digest, data in manifests.items():
        try:
            work[digest] = from_manifest(Manifest.from_dict(data, Path("results.sqlite3")))
        except BundleError:
            continue  # of an edgelm that wrote it otherwise
    found = []
    for row in rows:
        usual = row.test.replace(" ", "") == row.test or (" @ d" in row.test and row.test.count(" ") == 2)
        threads = (row.prefill_threads or row.threads) if row.n_prompt else row.threads
        doubtful = row.unreliable or (row.throttled_share or 0.0) > 0.05 or row.repetitions < 2
        doubtful = doubtful or threads > (row.cores or threads)
        if row.bundle in work and usual and not doubtful and row.adapter is None and row.emulated is emulated:
            found.append(
                Measured(row.bundle, work[row.bundle], row.n_prompt, row.n_gen, row.n_depth, threads, row.avg_ts)
            )
    return found


def calibrate(target: Target, tests: Sequence[Measured], source: str) -> Calibrated:
    """A target with the rates that the tests ask for.

    Args:
        target: the board; where its constants begin.
        tests: measured on it.
        source: where they come from, for the file.

    Raises:
        ResultsError: there are none.
    """
    if not tests:
        raise ResultsError(
            f"nothing was measured that {target.name} could be calibrated by: results that vary widely, or were "
            "taken while other programs computed, do not count",
            hint="run edgelm bench on the board, while nothing else runs there, with two bundles or more",
        )
    start = _Constants(target, rates_of(target)[0])
    bundles = list(dict.fromkeys(test.bundle for test in tests))
    errors = list[tuple[str, float, float]]()
    held_out = len(bundles) > 1
    for bundle in bundles if held_out else [None]:
        own = [test for test in tests if test.bundle == bundle or bundle is None]
        fitted = _fit(start, [test for test in tests if test.bundle != bundle])
        errors += [(test.kind, fitted.forecast(test), test.rate) for test in own]
    best = _fit(start, tests)
    worst = {
        kind: max(100 * abs(told / real - 1) for k, told, real in errors if k == kind)
        for kind in dict.fromkeys(k for k, _, _ in errors)
    }
    _expect_likely(worst, target)
    rates = replace(best.rates, measured=True, error_percent=worst, spread={}, source=source)
    cores = range(1, target.cpu.cores + 1)
    rates = replace(
        rates, thread_gbs=tuple(best.gbs(threads) for threads in cores) if best.bandwidths else rates.thread_gbs
    )
    memory = replace(target.memory, bandwidth_gbs=max(best.gbs(n) for n in cores), source=source)
    return Calibrated(replace(target, rates=rates, memory=memory), len(tests), len(bundles), held_out, tuple(errors))


def _expect_likely(worst: Mapping[str, float], target: Target) -> None:
    """ResultsError where a forecast is so far off that what was measured cannot be of this board alone."""
    for kind, percent in worst.items():
        if percent > _MOST_ERROR:
            raise ResultsError(
                f"a forecast of {kind} is {percent:,.0f} % off what was measured: some of it is not of {target.name}, or was "
                "disturbed",
                hint="see what was measured: edgelm results list; to take a wrong run away: edgelm results rm --help",
            )


@dataclass(frozen=True)
class _Constants:
    """A target's constants, and the bandwidth of each number of threads that was measured with."""

    target: Target
    rates: Rates
    bandwidths: Mapping[int, float] | None = None

    def gbs(self, threads: int) -> float:
        """GB/s of so many threads: as measured, else as before times what the nearest measured number changed by."""
        before = self.rates.gbs(threads, self.target.memory.bandwidth_gbs)
        if not self.bandwidths:
            return before
        nearest = min(self.bandwidths, key=lambda n: (abs(n - threads), n))
        return before * self.bandwidths[nearest] / self.rates.gbs(nearest, self.target.memory.bandwidth_gbs)

    def forecast(self, test: Measured) -> float:
        """Tokens a second of a test."""
        rates = replace(self.rates, thread_gbs=tuple(self.gbs(n) for n in range(1, max(test.threads, 1) + 1)))
        clock = Clock(self.target, rates, test.threads)
        if test.prompt:
            whole = clock.prompt(test.work, test.prompt + test.depth).seconds
            before = clock.prompt(test.work, test.depth).seconds if test.depth else 0.0
            return test.prompt / (whole - before)
        first, last = (clock.step(test.work, 1, test.depth + n).seconds for n in (0, test.generation - 1))
        return 2 / (first + last)  # the mean step


_Knob = Callable[[_Constants, float], _Constants]


def _knobs(start: _Constants, tests: Sequence[Measured]) -> list[_Knob]:
    """What may be moved: each takes constants and a factor."""
    names = ("node_us", "activation_gbs", "attention_prefill", "attention_decode")
    knobs = [_scaled(name) for name in names]
    knobs += [_scaled_threads(threads) for threads in sorted({test.threads for test in tests})]
    used = dict.fromkeys(
        start.rates.product(matrices.spec)[1] or matrices.spec.kernel
        for test in tests
        for matrices in (*test.work.body, test.work.head, *test.work.prefill)
    )
    return knobs + [_scaled_product(name, kind) for name in used for kind in ("prefill", "decode")]


def _scaled(name: str) -> _Knob:
    return lambda c, factor: replace(c, rates=replace(c.rates, **{name: getattr(c.rates, name) * factor}))


def _scaled_threads(threads: int) -> _Knob:
    def turn(constants: _Constants, factor: float) -> _Constants:
        before = constants.rates.gbs(threads, constants.target.memory.bandwidth_gbs)
        return replace(constants, bandwidths={**(constants.bandwidths or {}), threads: before * factor})

    return turn


def _scaled_product(name: str, kind: str) -> _Knob:
    def turn(constants: _Constants, factor: float) -> _Constants:
        product: Product = constants.rates.products[name]
        changed = replace(product, **{kind: getattr(product, kind) * factor})
        return replace(constants, rates=replace(constants.rates, products={**constants.rates.products, name: changed}))

    return turn


def _fit(start: _Constants, tests: Sequence[Measured]) -> _Constants:
    """The constants that the tests ask for."""
    knobs = _knobs(start, tests)

    def turned(logs: np.ndarray) -> _Constants:
        constants = start
        for knob, log in zip(knobs, logs, strict=True):
            constants = knob(constants, math.exp(log))
        return constants

    def errors(logs: np.ndarray) -> np.ndarray:
        constants = turned(logs)
        return np.array([math.log(constants.forecast(test) / test.rate) for test in tests] + [*(_SPRING * logs)])

    logs, small = np.zeros(len(knobs)), 1e-4
    best = errors(logs)
    for _ in range(_STEPS):
        slopes = np.stack([(errors(logs + small * unit) - best) / small for unit in np.eye(len(knobs))], axis=1)
        step = np.clip(-np.linalg.lstsq(slopes, best, rcond=None)[0], -1.0, 1.0)
        for _ in range(8):  # the larger of two terms binds: the slope may be another one behind the step
            moved = np.clip(logs + step, -_FARTHEST, _FARTHEST)
            found = errors(moved)
            if found @ found < best @ best:
                break
            step = step / 2
        else:
            break
        gained = best @ best - found @ found
        logs, best = moved, found
        if gained < 1e-9:
            break
    return turned(logs)

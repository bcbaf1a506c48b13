"""The search, on machines that are made up: what it finds, how long it takes, and what it does about heat and energy."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from manifests import manifest

from edgelm.errors import DeviceError
from edgelm.machine.host import Core, CpuInfo, MemoryInfo
from edgelm.profile.profile import Goal
from edgelm.profile.settings import Settings
from edgelm.target.target import load_target
from edgelm.tuning import candidates
from edgelm.tuning.candidates import Place
from edgelm.tuning.rig import PHASES, Phase, Reading, Turn
from edgelm.tuning.search import BUDGETS, Search
from edgelm.tuning.tune import _share

DEFAULT = Settings(4, 4, prefill_chunk=256)
SIZES = (64, 128, 256, 512)
Speed = Callable[[Phase, Settings], float]


def machine(*clusters: tuple[int, int], allowed: set[int] | None = None, quota: float | None = None) -> CpuInfo:
    """Clusters as (cores, clock in kHz)."""
    cores = [Core(0, None, khz // 1000, khz, frozenset()) for count, khz in clusters for _ in range(count)]
    numbered = tuple(replace(core, index=i, siblings=frozenset({i})) for i, core in enumerate(cores))
    return CpuInfo("aarch64", "made up", None, numbered, frozenset(allowed or range(len(cores))), quota)


PI5 = machine((4, 2_400_000))


def pi5(phase: Phase, settings: Settings) -> float:
    """Llama 1B there (docs/notes/targets.md): decode peaks at 2 threads, prefill wants all, and likes long passes."""
    if phase == "decode":
        return {1: 10.3, 2: 14.4, 3: 12.8, 4: 11.4}[settings.threads] * (1.0 if settings.spinning else 0.93)
    return 8.0 * settings.prefill_threads * {64: 0.8, 128: 0.95, 256: 1.0, 512: 1.01}[settings.prefill_chunk or 256]


class MadeUp:
    """A machine of a speed, whose turns take their time on a clock of its own."""

    def __init__(self, speed: Speed, noise: float = 0.01, *, seed: int = 0, apart: bool = True) -> None:
        self.speed, self.noise, self.apart = speed, noise, apart
        self.chance, self.now, self.turns = random.Random(seed), 0.0, 0
        self.watts: Callable[[Settings], float] | None = None
        self.hot: Speed | None = None
        self.seconds: Callable[[Phase, Settings, Turn], float] = lambda phase, settings, how: how.seconds

    def clock(self) -> float:
        return self.now

    def possible(self, settings: Settings) -> bool:
        return self.apart

    def turn(self, phase: Phase, settings: Settings, how: Turn) -> Reading:
        self.turns += 1
        self.now += self.seconds(phase, settings, how)
        speed = self.hot if how.skip and self.hot else self.speed
        rate = speed(phase, settings) * self.chance.lognormvariate(0, self.noise)
        if self.watts is None:
            return Reading(rate)
        return Reading(rate, self.watts(settings) / rate, celsius=60.0)


def search(
    rig: MadeUp, goal: Goal = "speed", default: Settings = DEFAULT, cpu: CpuInfo = PI5
) -> tuple[Settings, Search]:
    running = Search(rig, goal, default, BUDGETS[goal], clock=rig.clock)
    return running.run(cpu, SIZES), running


@pytest.mark.parametrize("seed", range(5))
def test_a_pi_5_decodes_with_two_threads(seed: int) -> None:
    rig = MadeUp(pi5, seed=seed)
    best, running = search(rig)
    assert (best.threads, best.spinning, best.prefill_threads) == (2, True, 4)
    assert best.prefill_chunk in (256, 512)
    gain = running.gains["decode"]
    assert gain.ratio == pytest.approx(14.4 / 11.4, rel=0.02)
    assert gain.low is not None
    assert gain.high is not None
    assert 1 < gain.low < gain.ratio < gain.high
    assert rig.now < BUDGETS["speed"].seconds / 3


def test_where_nothing_is_better_the_default_stays() -> None:
    best, running = search(MadeUp(lambda phase, settings: 50.0, noise=0.03))
    assert best == DEFAULT
    assert {gain.ratio for gain in running.gains.values()} == {1.0}


def test_of_those_that_are_as_good_the_fewest_threads_win() -> None:
    best, _ = search(MadeUp(lambda phase, s: 30.0 if s.threads > 1 and s.threads != 4 else 20.0, noise=0.001))
    assert best.threads == 2


def test_big_and_little() -> None:
    """A phone: 1 + 3 + 4 cores; threads that may run on LITTLE ones wait for them."""

    def speed(phase: Phase, settings: Settings) -> float:
        threads, cpus = (
            (settings.threads, settings.cpus)
            if phase == "decode"
            else (settings.prefill_threads, settings.prefill_cpus)
        )
        strength = [1000, 800, 800, 800, 300, 300, 300, 300]
        cores = sorted((strength[i] for i in (cpus or range(8))), reverse=True)[:threads]
        spill = 0.8 if cpus is None else 1.0  # the kernel moves them
        return spill * min(cores) * len(cores) / (1 + 0.02 * len(cores) ** 2)

    phone = machine((1, 3_000_000), (3, 2_500_000), (4, 1_800_000))
    best, running = search(MadeUp(speed), default=Settings(4, 4, prefill_chunk=256), cpu=phone)
    assert (best.threads, best.cpus) == (4, (0, 1, 2, 3))
    assert (best.prefill_threads, best.prefill_cpus) == (4, (0, 1, 2, 3))
    assert running.gains["decode"].ratio > 1.15


def test_prefill_without_threads_of_its_own_takes_those_of_decode() -> None:
    best, running = search(MadeUp(pi5, apart=False))
    assert best.threads == best.prefill_threads == 2
    assert not [t for t in running.tried if t.phase == "prefill" and t.settings.prefill_threads != 2]


def test_energy_takes_what_uses_least_and_not_what_is_fastest() -> None:
    rig = MadeUp(pi5)
    rig.watts = lambda settings: {1: 2.0, 2: 4.0, 3: 5.5, 4: 7.0}[settings.threads] * (1 if settings.spinning else 0.8)
    best, running = search(rig, "energy")
    assert (best.threads, best.spinning) == (1, False)  # 2 W * 0.8 at 9.6 t/s
    gain = running.gains["decode"]
    assert gain.joules is not None
    assert gain.joules_before is not None
    assert gain.joules < gain.joules_before
    assert gain.ratio == pytest.approx((7 / 11.4) / (1.6 / (10.3 * 0.93)), rel=0.05)


def test_energy_without_readings_is_an_error_of_one_line() -> None:
    with pytest.raises(DeviceError, match="power was read too seldom"):
        search(MadeUp(pi5), "energy")
    rig = MadeUp(pi5)
    rig.watts = lambda settings: -0.1
    with pytest.raises(DeviceError, match="power does not rise"):
        search(rig, "energy")


def test_sustained_takes_what_is_fastest_once_it_is_hot() -> None:
    """Four threads throttle, so that three are faster in the end."""
    cold: Speed = lambda phase, s: 10.0 * (s.threads if phase == "decode" else s.prefill_threads)  # noqa: E731
    rig = MadeUp(cold)
    rig.hot = lambda phase, s: (
        cold(phase, s) * (0.6 if (s.threads if phase == "decode" else s.prefill_threads) == 4 else 0.95)
    )
    best, running = search(rig, "sustained")
    assert (best.threads, best.prefill_threads) == (3, 3)
    assert running.gains["decode"].ratio == pytest.approx(3 * 0.95 / (4 * 0.6), rel=0.05)


def test_a_slow_machine_ends_in_its_time() -> None:
    rig = MadeUp(pi5, noise=0.05)
    running = Search(rig, "speed", DEFAULT, replace(BUDGETS["speed"], seconds=60.0, turn=5.0), clock=rig.clock)
    best = running.run(PI5, SIZES)
    assert best.threads in (1, 2, 3, 4)
    assert rig.now < 60 + 2 * 2 * 3 * 5 + 3 * 20  # the last pairs of both phases, and stages that had begun a round


def test_what_was_tried_is_json() -> None:
    _, running = search(MadeUp(pi5))
    told = [each.to_dict() for each in running.tried]
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert {"decode", "prefill"} == {each["phase"] for each in told}


def test_places() -> None:
    assert candidates.places(PI5) == [Place(n) for n in (1, 2, 3, 4)]
    assert candidates.places(machine((4, 1), quota=2.0)) == [Place(1), Place(2)]
    assert candidates.places(machine((4, 1), allowed={1, 3})) == [Place(1), Place(2)]
    assert candidates.places(machine((1, 1))) == [Place(1)]
    many = [place.threads for place in candidates.places(machine((64, 1)))]
    assert many == [1, 2, 3, 4, 6, 9, 13, 19, 28, 42, 63, 64]
    phone = machine((1, 3_000_000), (3, 2_500_000), (4, 1_000_000))
    groups = {place.cpus for place in candidates.places(phone)}
    assert groups == {None, (0,), (0, 1, 2, 3), (1, 2, 3)}
    assert {place.cpus for place in candidates.places(phone, saving=True)} == groups | {(4, 5, 6, 7)}
    fenced = replace(phone, allowed=frozenset({1, 2, 5}))
    assert {place.cpus for place in candidates.places(fenced)} == {None, (1, 2)}


def test_long_passes_only_where_there_is_memory_for_them() -> None:
    bundle, none = manifest(), MemoryInfo(None, None, None, None, None, None, None)
    total = bundle.memory.total_bytes
    assert candidates.chunks(bundle, none, 512) == [64, 128, 256, 512]
    assert candidates.chunks(bundle, replace(none, available=total), 512) == [64, 128, 256]
    assert candidates.chunks(bundle, none, 128) == [64, 128, 256]
    assert candidates.chunks(bundle, none, 20) == [256]


def test_without_a_profile_threads_are_those_of_the_bundle() -> None:
    """As rpi5 has them for a model of 1 billion parameters, and what is loaded runs with the same."""
    bundle = manifest(threads={"decode": 2, "prefill": 4})
    assert candidates.default_settings(bundle, PI5) == Settings(2, 4, prefill_chunk=256)
    assert candidates.default_settings(bundle, machine((4, 1), allowed={0})) == Settings(1, 1, prefill_chunk=256)
    assert candidates.default_settings(manifest(threads={}), PI5) == Settings(4, 4, prefill_chunk=256)


@pytest.mark.parametrize(("size", "threads"), [(350, 3), (599, 3), (700, 2), (1500, 2)])
def test_a_pi_5_decodes_large_models_with_fewer_threads(size: int, threads: int) -> None:
    assert load_target("rpi5").cpu.decode_threads(size * 1_000_000) == threads


@pytest.mark.parametrize("seed", range(10))
def test_what_is_not_surely_better_is_not_taken(seed: int) -> None:
    """Turns that vary by a third: what is taken all the same is better beyond that."""
    best, running = search(MadeUp(lambda phase, s: 100.0 + s.threads, noise=0.3, seed=seed))
    for phase, changed in (
        ("decode", (best.threads, best.spinning) != (4, True)),
        ("prefill", (best.prefill_threads, best.prefill_chunk) != (4, 256)),
    ):
        gain = running.gains[phase]
        assert gain.low is not None
        assert (gain.low > 1) == changed


def two_cores(phase: Phase, settings: Settings) -> float:
    """SmolLM2-135M in int4 on two cores of a server, about."""
    if phase == "decode":
        return {1: 75.0, 2: 118.0}[settings.threads] * (1.0 if settings.spinning or settings.threads == 1 else 0.7)
    chunk = {64: 0.8, 128: 1.06, 256: 1.0, 512: 0.97}[settings.prefill_chunk or 256]
    return {1: 250.0, 2: 460.0}[settings.prefill_threads] * chunk


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("speed", "cores", "default"),
    [
        (pi5, 4, DEFAULT),
        (two_cores, 2, Settings(2, 2, prefill_chunk=256)),
        (two_cores, 2, Settings(1, 2, prefill_chunk=64)),
    ],
)
def test_within_three_percent_of_the_best_of_a_grid_in_a_tenth_of_its_time(
    speed: Speed, cores: int, default: Settings, seed: int
) -> None:
    """Of a grid of all threads, spinning and passes, each loaded and measured as `edgelm bench` does: a warm-up, five runs."""
    counts, loaded = range(1, cores + 1), set[Settings]()
    grid = [
        Settings(decode, prefill, spinning=spinning, prefill_chunk=size)
        for decode, prefill, spinning, size in itertools.product(counts, counts, (True, False), SIZES)
    ]
    whole = sum(0.5 + 6 * 512 / speed("prefill", each) + 5 * 128 / speed("decode", each) for each in grid)

    def seconds(phase: Phase, settings: Settings, how: Turn) -> float:
        """Those of the runs that fit, of loading, and of the moment that each turn begins with."""
        length = min(how.prompt or 512, 512) if phase == "prefill" else max(8, 0.25 * speed(phase, default))
        once, key = length / speed(phase, settings), replace(settings, prefill_chunk=None)
        load = 0.0 if key in loaded else 0.5
        loaded.add(key)
        return load + 0.05 + once * math.ceil(how.seconds / once)

    rig = MadeUp(speed, noise=0.02, seed=seed)
    rig.seconds = seconds
    rates = {phase: speed(phase, default) for phase in PHASES}
    cpu = machine((cores, 2_400_000))
    told = candidates.grid_seconds(rates["decode"], rates["prefill"], candidates.places(cpu), SIZES)
    budget = _share(BUDGETS["speed"], told)
    best = Search(rig, "speed", default, budget, clock=rig.clock).run(cpu, SIZES)
    assert rig.now <= whole / 10
    assert 0.3 * whole < told < 3 * whole
    for phase in PHASES:
        assert speed(phase, best) >= 0.97 * max(speed(phase, settings) for settings in grid)

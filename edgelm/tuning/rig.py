"""What measures settings on this machine: a bundle loaded with them, and turns of decode or prefill."""

from __future__ import annotations

import math
import statistics
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from edgelm.bench.energy import Log
from edgelm.bundle.reader import Bundle
from edgelm.machine.host import read_memory
from edgelm.machine.sensors.heat import hottest
from edgelm.machine.sensors.summary import throttled_share
from edgelm.profile.settings import Settings
from edgelm.runtime.engine import Engine
from edgelm.runtime.ort.options import LoadOptions
from edgelm.runtime.text.prompt import open_tokenizer

Phase = Literal["decode", "prefill"]
PHASES: tuple[Phase, ...] = ("decode", "prefill")
PROMPT = 512  # tokens of the prompt that is read
_DECODED = (8, 256)  # tokens of a turn of decode, the fewest and the most
_SHORTEST_PROMPT = 128
_LONGEST_TURN = 5.0  # seconds that one prompt may take, for which it is shortened
_WARM = 0.03  # seconds for which each turn begins unmeasured: threads of the one before it go to sleep
_WARM_PROMPT = 32  # tokens
_MOST_LOADED = 16
_SHARE = 0.6  # of the free memory that loaded bundles may take
_SMALL = 64 << 20  # bytes that one takes whose weights are mapped, beside its caches


@dataclass(frozen=True)
class Turn:
    """How settings are measured once.

    Attributes:
        seconds: that it takes, about; one run at least.
        skip: share of these that goes by before anything counts, while the machine takes on the heat of it.
        prompt: tokens of a prompt that is read, at most; None for `PROMPT`, or what there is time for.
    """

    seconds: float
    skip: float = 0.0
    prompt: int | None = None


@dataclass(frozen=True)
class Reading:
    """What a turn has told.

    Attributes:
        rate: tokens a second, the median of its runs.
        joules: a token, idle power taken off; None where it was not measured.
        celsius: of the hottest zone at its end; `throttled` the share of the time. None where these were not read.
    """

    rate: float
    joules: float | None = None
    celsius: float | None = None
    throttled: float | None = None


class Rig:
    """Measures settings of a bundle. Use it as a context manager.

    Bundles stay loaded, those used last, as many as memory has room for, so that turns of candidates may alternate.

    Args:
        bundle: the bundle.
        default: the settings without a profile.
        weight_cache: whether prepacked weights are cached.
        log: readings of the sensors, from which each turn takes its energy and heat; None for none.
        clock: seconds, the sensors' clock.
    """

    def __init__(
        self,
        bundle: Bundle,
        default: Settings,
        *,
        weight_cache: bool = True,
        log: Log | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._bundle, self._cache, self._log, self._clock = bundle, weight_cache, log, clock
        self._engines: OrderedDict[Settings, Engine] = OrderedDict()
        self._ids = np.random.default_rng(0).integers(0, bundle.manifest.graph.vocab, bundle.context).tolist()
        tokenizer = open_tokenizer(bundle)
        if tokenizer.encode("")[:1] == [tokenizer.bos]:
            self._ids[0] = tokenizer.bos
        self.most = 1  # of bundles that are loaded at once
        engine = self._engine(default)
        self.packed = engine.packed is not None
        self.most = self._room(engine)
        self.rates: dict[Phase, float] = {}
        self._lengths = self._measured(default)

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        while self._engines:
            self._engines.popitem()[1].close()

    @property
    def prompt(self) -> int:
        """Tokens of the prompt that is read."""
        return self._lengths["prefill"]

    def possible(self, settings: Settings) -> bool:
        """Whether prefill gets threads of its own: not where its weights would be in memory a second time."""
        return self._engine(settings).prefill_threads == settings.prefill_threads

    def turn(self, phase: Phase, settings: Settings, how: Turn) -> Reading:
        """Measure once.

        Args:
            phase: decode or prefill.
            settings: with which.
            how: how long.

        Raises:
            DeviceError: not enough memory, or onnxruntime fails.
        """
        engine, once = self._engine(settings), self._once(phase)
        length = self._lengths[phase]
        if phase == "prefill" and how.prompt is not None:
            length = min(length, how.prompt)
        self._warm(engine, phase)
        runs: list[tuple[float, float]] = []
        start = self._clock()
        while not runs or self._clock() - start < how.seconds:
            began = self._clock()
            once(engine, settings, length)
            runs.append((began, self._clock()))
        counted = [run for run in runs if run[0] - start >= how.skip * how.seconds] or runs[-1:]
        rate = statistics.median(length / max(end - began, 1e-9) for began, end in counted)
        if self._log is None:
            return Reading(rate)
        trace, idle = self._log.trace(), self._log.idle_watts() or 0.0
        energy, inside = trace.energy(*counted), trace.within((counted[0][0], self._clock()))
        if energy is not None:
            energy -= idle * sum(end - began for began, end in counted)
        heats = [heat for sample in inside if (heat := hottest(sample.celsius)) is not None]
        joules = None if energy is None else energy / (length * len(counted))
        return Reading(rate, joules, heats[-1] if heats else None, throttled_share(inside))

    def _once(self, phase: Phase) -> Callable[[Engine, Settings, int], None]:
        return self._decode if phase == "decode" else self._prefill

    def _decode(self, engine: Engine, settings: Settings, length: int) -> None:
        engine.reset()
        for token in self._ids[:length]:
            engine.forward([token])

    def _prefill(self, engine: Engine, settings: Settings, length: int) -> None:
        engine.reset()
        for _ in engine.prefill_passes(self._ids[:length], settings.prefill_chunk):
            pass

    def _warm(self, engine: Engine, phase: Phase) -> None:
        """Let this one's threads wake up, and those of the one before go to sleep."""
        start, piece = self._clock(), self._ids[: min(_WARM_PROMPT, self.prompt)]
        while True:
            engine.reset()
            if phase == "prefill":
                engine.prefill(piece)
            else:
                engine.forward(self._ids[:1])
            if self._clock() - start >= _WARM:
                return

    def _measured(self, default: Settings) -> dict[Phase, int]:
        """How many tokens a run of each phase has, by what they take with the default settings."""
        context, engine = self._bundle.context, self._engine(default)
        some: dict[Phase, int] = {"decode": min(8, context - 1), "prefill": min(32, context - 1)}
        for phase in PHASES:
            self._once(phase)(engine, default, some[phase])
            start = self._clock()
            self._once(phase)(engine, default, some[phase])
            self.rates[phase] = some[phase] / max(self._clock() - start, 1e-9)
        decoded = min(max(int(self.rates["decode"] * 0.25), _DECODED[0]), _DECODED[1], context - 1)
        prompt = min(max(int(self.rates["prefill"] * _LONGEST_TURN), _SHORTEST_PROMPT), PROMPT, context - 1)
        return {"decode": max(1, decoded), "prefill": max(1, prompt)}

    def _engine(self, settings: Settings) -> Engine:
        """The bundle loaded with settings; those of a pass over a prompt are given with each."""
        key = replace(settings, prefill_chunk=None)
        if (engine := self._engines.get(key)) is not None:
            self._engines.move_to_end(key)
            return engine
        while len(self._engines) >= self.most:
            self._engines.popitem(last=False)[1].close()
        options = LoadOptions(settings=key, weight_cache=self._cache)
        self._engines[key] = engine = Engine.load(self._bundle, options)
        return engine

    def _room(self, engine: Engine) -> int:
        """How many may be loaded at once."""
        memory = self._bundle.manifest.memory
        each = _SMALL + memory.kv_bytes_per_token * min(self._bundle.context, 2 * PROMPT)
        each += 0 if engine.packed is not None else memory.packed_bytes + memory.prefill_bytes
        usable = read_memory().usable
        if usable is None:
            return 2
        return 1 + min(_MOST_LOADED, math.floor(_SHARE * usable / max(1, each)))

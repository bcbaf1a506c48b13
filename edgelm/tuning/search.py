"""The search: decode first, then prefill; of each the threads and their cores, then what is left to choose.

Each stage is a race (`edgelm.tuning.race`) in which the settings without a profile take part. What wins a phase is measured
against these once more, in pairs, and is taken only where it is better beyond the spread.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from edgelm.bench.sustained import spread
from edgelm.errors import DeviceError
from edgelm.machine.host import CpuInfo
from edgelm.profile.profile import Gain, Goal
from edgelm.profile.settings import Settings
from edgelm.runtime.kv.prefill import PREFILL_CHUNK
from edgelm.tuning import candidates
from edgelm.tuning.candidates import Place, described
from edgelm.tuning.race import EQUAL, Ratio, Rules, Standing, race
from edgelm.tuning.rig import Phase, Reading, Turn

STAGES = ("threads", "spinning", "passes", "long passes", "against before")
_FINALISTS = 3
_WITHIN = 0.75  # of the best, from which others are tried with what is chosen next
_FEWEST = 3  # rounds of a last comparison
_MORE = 3  # times as many where these do not tell


class Measures(Protocol):
    """What is asked of a `Rig`."""

    def possible(self, settings: Settings) -> bool:
        """Whether settings can be had."""

    def turn(self, phase: Phase, settings: Settings, how: Turn) -> Reading:
        """Measure once."""


@dataclass(frozen=True)
class Budget:
    """How long things take.

    Attributes:
        seconds: of the whole search, about.
        turn: seconds of a turn.
        rounds: of a race at most.
        final: of the last comparison.
        hot: seconds of a turn there, where it is of a machine that has taken on the heat of it; 0 for `turn`.
    """

    seconds: float
    turn: float = 0.25
    rounds: int = 9
    final: int = 7
    hot: float = 0.0


BUDGETS: dict[Goal, Budget] = {
    "speed": Budget(300.0),
    "energy": Budget(900.0, turn=4.0, rounds=5, final=5),
    "sustained": Budget(900.0, turn=1.0, rounds=5, final=3, hot=40.0),
}
_HOT_SKIP = 0.5  # of a hot turn, before anything counts


@dataclass(frozen=True)
class Tried:
    """Settings that were measured.

    Attributes:
        phase, stage: where.
        settings: of the phase; what concerns the other one is as it was then.
        readings: of each turn.
        ratio: of what was tuned for, against the best of the stage.
        left: the round after which it was surely worse; None where it stayed to the end.
    """

    phase: Phase
    stage: str
    settings: Settings
    readings: tuple[Reading, ...]
    ratio: Ratio
    left: int | None

    @property
    def what(self) -> str:
        """The settings in a few words."""
        return described(self.settings, self.phase)

    @property
    def rate(self) -> float:
        """Tokens a second, the median of the turns."""
        return statistics.median(reading.rate for reading in self.readings)

    @property
    def spread(self) -> float | None:
        """The range of the middle half of the turns over their median; None for fewer than three."""
        return spread([reading.rate for reading in self.readings])

    @property
    def joules(self) -> float | None:
        """A token, the median of the turns; None where it was not measured."""
        told = [reading.joules for reading in self.readings if reading.joules is not None]
        return statistics.median(told) if told else None

    @property
    def celsius(self) -> float | None:
        """At the end of the last turn; None where it was not read."""
        return self.readings[-1].celsius

    @property
    def throttled(self) -> float | None:
        """The largest share of a turn that was throttled; None where it was not read."""
        return max((r.throttled for r in self.readings if r.throttled is not None), default=None)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        high = None if math.isinf(self.ratio.high) else self.ratio.high
        return {
            "phase": self.phase,
            "stage": self.stage,
            "what": self.what,
            "settings": self.settings.to_dict(),
            "rates": [reading.rate for reading in self.readings],
            "tokens_per_second": self.rate,
            "spread": self.spread,
            "joules_per_token": self.joules,
            "celsius": self.celsius,
            "throttled": self.throttled,
            "against_best": {"ratio": self.ratio.middle, "low": self.ratio.low, "high": high},
            "left_after_round": self.left,
        }


@dataclass(frozen=True)
class Hooks:
    """What is told meanwhile.

    Attributes:
        start: called with a stage's name, and how many turns it has at most.
        turn: with the candidate in words and its reading, after each turn.
        end: with what a stage has tried, the best first.
    """

    start: Callable[[str, int], None] = lambda stage, turns: None
    turn: Callable[[str, Reading], None] = lambda what, reading: None
    end: Callable[[Sequence[Tried]], None] = lambda tried: None


@dataclass
class Search:
    """A search that runs.

    Args:
        rig: measures.
        goal: what is wanted.
        default: the settings without a profile.
        budget: how long it takes.
        hooks: what is told.
        clock: seconds.

    Attributes:
        tried: all that was measured.
        gains: of both phases, in the end.
    """

    rig: Measures
    goal: Goal
    default: Settings
    budget: Budget
    hooks: Hooks = Hooks()
    clock: Callable[[], float] = time.perf_counter
    tried: list[Tried] = field(default_factory=list)
    gains: dict[Phase, Gain] = field(default_factory=dict)
    _until: float = 0.0
    _took: float = 0.0  # the last turn

    def run(self, cpu: CpuInfo, sizes: Sequence[int]) -> Settings:
        """Search.

        Args:
            cpu: the machine.
            sizes: tokens of a pass over a prompt that are tried.

        Returns:
            the best settings; the default ones where nothing is better.

        Raises:
            DeviceError: a phase cannot be run, or, for energy, power is not told.
        """
        self._until = self.clock() + self.budget.seconds
        places = candidates.places(cpu, saving=self.goal == "energy")
        return self._prefill(self._decode(self.default, places), places, sizes)

    def _decode(self, before: Settings, places: Sequence[Place]) -> Settings:
        options = [candidates.decoding(before, place) for place in places]
        standings = self._stage("decode", STAGES[0], [before, *options], share=0.35)
        chosen, others = _preferred(standings, before), self._finalists(standings)
        quiet = [replace(each, spinning=False) for each in (chosen, *others)]
        chosen = _preferred(self._stage("decode", STAGES[1], [chosen, *quiet], share=0.3), before)
        others = [replace(each, spinning=chosen.spinning) for each in others]
        return self._confirmed("decode", chosen, before, others)

    def _prefill(self, before: Settings, places: Sequence[Place], sizes: Sequence[int]) -> Settings:
        options = [candidates.prefilling(before, place) for place in places]
        apart = [each for each in options if each.prefill_threads != each.threads]
        if apart and not self.rig.possible(apart[0]):  # the weights would be in memory twice
            before, options = candidates.prefilling(before, Place(before.threads, before.cpus)), []
        standings = self._stage("prefill", STAGES[0], [before, *options], share=0.35, prompt=PREFILL_CHUNK)
        chosen, others = _preferred(standings, before), self._finalists(standings)
        chosen = self._passes(chosen, before, sizes)
        others = [replace(each, prefill_chunk=chosen.prefill_chunk) for each in others]
        return self._confirmed("prefill", chosen, before, others)

    def _passes(self, chosen: Settings, before: Settings, sizes: Sequence[int]) -> Settings:
        """With the best size of a pass; those larger than usual want long prompts, and are tried where the usual one wins."""
        usual = [replace(chosen, prefill_chunk=size) for size in sizes if size <= PREFILL_CHUNK]
        larger = [replace(chosen, prefill_chunk=size) for size in sizes if size > PREFILL_CHUNK]
        stage = self._stage("prefill", STAGES[2], [chosen, *usual], share=0.4, prompt=PREFILL_CHUNK)
        chosen = _preferred(stage, before)
        if not larger or chosen.prefill_chunk != PREFILL_CHUNK:
            return chosen
        return _preferred(self._stage("prefill", STAGES[3], [chosen, *larger], share=0.5), before)

    def _finalists(self, standings: Sequence[Standing[Settings]]) -> list[Settings]:
        """The best, and those that what is chosen next, or heat, may bring to the front."""
        least = 0.0 if self.budget.hot else _WITHIN * standings[0].median
        return [each.candidate for each in standings[:_FINALISTS] if each.median >= least]

    def _stage(
        self, phase: Phase, stage: str, options: Sequence[Settings], share: float, prompt: int | None = None
    ) -> list[Standing[Settings]]:
        """A race, which takes a share of the time that is left at most."""
        until = self.clock() + share * max(0.0, self._until - self.clock())
        rules = Rules(rounds=self.budget.rounds)
        turn = Turn(self.budget.turn, prompt=prompt)
        return self._race(phase, stage, options, rules, turn, over=lambda: self.clock() >= until)

    def _confirmed(self, phase: Phase, chosen: Settings, before: Settings, others: Sequence[Settings]) -> Settings:
        """What is better than `before` in pairs that are measured for this, else `before`; its gain is kept.

        Where heat counts, `others` take part: what is fastest while it is cool may not be so in the end.
        """
        hot = self.budget.hot
        options = list(dict.fromkeys([before, chosen, *(others if hot else ())]))
        if len(options) == 1:
            last = next(each for each in reversed(self.tried) if each.phase == phase and each.settings == before)
            self.gains[phase] = _gain(last, last, Ratio(1.0, 1.0, 1.0))
            return before
        short = None if (chosen.prefill_chunk or 0) > PREFILL_CHUNK else PREFILL_CHUNK
        turn = Turn(hot, skip=_HOT_SKIP) if hot else Turn(self.budget.turn, prompt=short)
        share = 1 / 3 if phase == "decode" else 1.0  # nothing comes after prefill
        most = self.budget.final * (1 if hot else _MORE)
        rounds = self._rounds(most, share, len(options) * max(turn.seconds, self._took))
        rules = Rules(rounds=rounds, least=min(self.budget.final, rounds), strict=True)
        standings = self._race(phase, STAGES[4], options, rules, turn)
        of = {each.candidate: each for each in standings}
        tried = {each.settings: each for each in self.tried[-len(options) :]}
        chosen = _preferred(standings, before) if hot else chosen
        ratio = of[chosen].against(of[before])
        if chosen == before or ratio.low <= 1:
            self.gains[phase] = _gain(tried[before], tried[before], Ratio(1.0, 1.0, 1.0))
            return before
        self.gains[phase] = _gain(tried[chosen], tried[before], ratio)
        return chosen

    def _rounds(self, most: int, share: float, each: float) -> int:
        """Of a last comparison whose rounds take `each` seconds, in a share of the time that is left; a few at least."""
        return max(min(_FEWEST, most), min(most, int((self._until - self.clock()) * share / each)))

    def _race(
        self,
        phase: Phase,
        stage: str,
        options: Sequence[Settings],
        rules: Rules,
        how: Turn,
        *,
        over: Callable[[], bool] = lambda: False,
    ) -> list[Standing[Settings]]:
        """A race of the options that differ."""
        options = list(dict.fromkeys(options))
        readings: dict[Settings, list[Reading]] = {each: [] for each in options}

        def turn(settings: Settings) -> float:
            began = self.clock()
            reading = self.rig.turn(phase, settings, how)
            self._took = self.clock() - began
            readings[settings].append(reading)
            self.hooks.turn(described(settings, phase), reading)
            return self._score(reading)

        self.hooks.start(f"{phase}: {stage}", rules.rounds * len(options))
        standings = race(options, turn, rules, over=over)
        best = standings[0]
        found = [
            Tried(phase, stage, one.candidate, tuple(readings[one.candidate]), one.against(best), one.left)
            for one in standings
        ]
        self.tried += found
        self.hooks.end(found)
        return standings

    def _score(self, reading: Reading) -> float:
        """More is better."""
        if self.goal != "energy":
            return reading.rate
        if reading.joules is None:
            raise DeviceError("power was read too seldom to tell the energy of a turn", hint="see: edgelm doctor")
        if reading.joules <= 0:
            raise DeviceError(
                "power does not rise above that of idling while the model computes",
                hint="is nothing else running, and is the meter that of this machine?",
            )
        return 1 / reading.joules


def _preferred(standings: Sequence[Standing[Settings]], before: Settings) -> Settings:
    """The best; of those that are as good `before`, or those with the fewest threads."""
    best = standings[0]
    equal = [s.candidate for s in standings if s.left is None and s.median >= best.median * (1 - EQUAL)]

    def cost(settings: Settings) -> tuple[bool, int, bool, bool]:
        pinned = settings.cpus is not None or settings.prefill_cpus is not None
        return settings != before, settings.threads + settings.prefill_threads, pinned, settings.spinning

    return min(equal, key=cost)


def _gain(new: Tried, old: Tried, ratio: Ratio) -> Gain:
    return Gain(new.rate, old.rate, ratio.middle, ratio.low, ratio.high, new.joules, old.joules)

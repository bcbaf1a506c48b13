"""`edgelm.tune`: find how a bundle runs best on this machine, and keep it as its device profile."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgelm.bench.energy import Log, Meters, reading
from edgelm.bundle.json_table import shown
from edgelm.bundle.reader import Bundle
from edgelm.by_name import folder_of
from edgelm.errors import DeviceError, OptionError, names_keywords
from edgelm.machine.host import CpuInfo, read_cpu, read_memory
from edgelm.machine.sensors import SensorSummary
from edgelm.machine.sensors.source import Missing
from edgelm.profile.profile import GOALS, Goal, Profile, machine_key, shape_key
from edgelm.profile.settings import Settings
from edgelm.profile.store import Profiles
from edgelm.runtime.ort.session import version as onnxruntime_version
from edgelm.tuning import candidates
from edgelm.tuning.advice import advice
from edgelm.tuning.rig import Rig
from edgelm.tuning.search import BUDGETS, Budget, Hooks, Search, Tried
from edgelm.version import __version__

SILENT = Hooks()
_SHORTEST, _LONGEST = 5.0, 24 * 3600.0
_OF_A_GRID, _SHORT = 0.065, 20.0  # of the time of all combinations a search for speed takes this share, or the seconds
_HOT = 0.05  # of the time throttled, from which figures tell of heat
_WIDE = 0.10  # of a median, from which the range of the middle half is too wide to rely on


@dataclass(frozen=True)
class Tuning:
    """What a search came to.

    Attributes:
        profile: the settings, and what they gain.
        path: where the profile was written; None where it was not to be.
        tried: all that was measured, in the order of the stages, the best of each first.
        notes: what there is to know about the figures.
        advice: what may be set by hand.
    """

    profile: Profile
    path: Path | None
    tried: tuple[Tried, ...]
    notes: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "profile": self.profile.to_dict(),
            "path": None if self.path is None else str(self.path),
            "tried": [each.to_dict() for each in self.tried],
            "notes": list(self.notes),
            "advice": list(self.advice),
        }


@names_keywords
def tune(
    path: str | os.PathLike[str],
    goal: Goal = "speed",
    *,
    seconds: float | None = None,
    power_meter: str | None = None,
    weight_cache: bool = True,
    save: bool = True,
    hooks: Hooks = SILENT,
) -> Tuning:
    """Find how a bundle, the folder `path` or that of a name, runs best on this machine, and keep it as a device profile.

    Threads, the cores on which they run, spinning, and the tokens of a pass over a prompt are measured in turn, for decode
    and for prefill. Nothing else should run meanwhile.

    Args:
        path: the folder, or a name, as `edgelm.load` takes it.
        goal: ``speed``; ``energy``, for which there must be a power sensor; or ``sustained``, speed with the heat of it.
        seconds: after which the search hurries to its end; None for minutes, by the goal, and for speed no more than a
            tenth of what all combinations would take.
        power_meter: a program that prints watts, in place of the machine's own sensor.
        weight_cache: whether prepacked weights are cached, as `edgelm.load` takes it.
        save: whether the profile is written.
        hooks: what is told meanwhile.

    Raises:
        BundleError, TaskError: no bundle there, it is damaged, or it embeds texts.
        OptionError: an argument is out of range.
        DeviceError: it cannot run here, or, for energy, power is not told.
        ProfileError: the profile cannot be written.
    """
    budget = _budget(goal, seconds)
    bundle = Bundle.open(folder_of("path", path))
    bundle.expect_generator()
    if (profiles := Profiles.default() if save else None) is not None:
        profiles.make()
    cpu, started = read_cpu(), time.perf_counter()
    default = candidates.default_settings(bundle.manifest, cpu)
    with reading(Meters(power_meter, idle_seconds=5.0 if goal == "energy" else 0.0)) as log:
        assert log is not None
        if goal == "energy":
            _expect_power(log)
        with Rig(bundle, default, weight_cache=weight_cache, log=None if goal == "speed" else log) as rig:
            sizes = candidates.chunks(bundle.manifest, read_memory(), rig.prompt)
            if goal == "speed" and seconds is None:
                rates, places = rig.rates, candidates.places(cpu)
                grid = candidates.grid_seconds(rates["decode"], rates["prefill"], places, sizes)
                budget = _share(budget, grid)
            search = Search(rig, goal, default, budget, hooks)
            best = search.run(cpu, sizes)
            packed = rig.packed
        summary = log.summary()
    profile = _profile(bundle, cpu, search, best, time.perf_counter() - started)
    where = None if profiles is None else profiles.save(profile)
    shared = not packed and len(candidates.places(cpu)) > 1
    notes = tuple(_notes(goal, search.tried, summary, shared=shared))
    return Tuning(profile, where, tuple(search.tried), notes, tuple(advice(goal)))


def _budget(goal: object, seconds: object) -> Budget:
    """The budget of a goal, in the time that is asked for."""
    if not isinstance(goal, str) or goal not in GOALS:
        raise OptionError(f"goal must be one of {', '.join(GOALS)}, not {shown(goal)}")
    budget = BUDGETS[goal]
    if seconds is None:
        return budget
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not _SHORTEST <= seconds <= _LONGEST:
        raise OptionError(f"seconds must be from {_SHORTEST:g} to {_LONGEST:g}, not {shown(seconds)}")
    return replace(budget, seconds=float(seconds))


def _share(budget: Budget, grid: float) -> Budget:
    """Less time, where a grid of all combinations would not take long either."""
    return replace(budget, seconds=max(_SHORT, min(budget.seconds, _OF_A_GRID * grid)))


def _expect_power(log: Log) -> None:
    if isinstance(log.sensors.power, Missing):
        raise DeviceError(
            f"tuning for energy needs watts: {log.sensors.power.reason}",
            hint="--for speed and --for sustained need none",
        )


def _profile(bundle: Bundle, cpu: CpuInfo, search: Search, best: Settings, seconds: float) -> Profile:
    manifest = bundle.manifest
    return Profile(
        goal=search.goal,
        machine=machine_key(cpu),
        shape=shape_key(manifest),
        board=cpu.model,
        model=manifest.model.id,
        quant=manifest.quant,
        bundle=bundle.digest,
        edgelm=__version__,
        onnxruntime=onnxruntime_version(),
        at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        settings=best,
        before=search.default,
        gains={str(phase): gain for phase, gain in search.gains.items()},
        seconds=round(seconds, 1),
        tried=len({(each.phase, each.settings) for each in search.tried}),
    )


def _notes(goal: Goal, tried: Sequence[Tried], summary: SensorSummary, *, shared: bool) -> list[str]:
    """What there is to know about the figures; `shared`: both phases had to have the same threads."""
    found = []
    if summary.throttled_share is not None and summary.throttled_share > _HOT and goal == "speed":
        found.append(
            f"the board was throttled for {summary.throttled_share:.0%} of the time: cool it, or tune --for sustained"
        )
    if wide := [each for each in tried if each.left is None and each.spread is not None and each.spread > _WIDE]:
        found.append(
            f"{len(wide)} of {len(tried)} figures vary by more than {_WIDE:.0%}: does something else run? then tune again"
        )
    if shared and not any(each.settings.prefill_threads != each.settings.threads for each in tried):
        found.append(
            "prefill runs on the threads of decode: for others the weights would be in memory twice, as they are not in the "
            "cache of prepacked weights, which small models do without"
        )
    if goal == "sustained" and all(each.celsius is None for each in tried):
        found.append("this machine tells no temperature: the windows were long, but how hot it was is not known")
    return found

"""Which settings are tried: threads and the cores that they run on, spinning, and passes over a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from edgelm.bench.speed import GENERATION, PROMPT
from edgelm.bundle.manifest import Manifest
from edgelm.machine.host import Cluster, CpuInfo, MemoryInfo, recommended_threads, usable_cpus
from edgelm.profile.settings import Settings, shown
from edgelm.runtime.kv.prefill import PREFILL_CHUNK

CHUNKS = (64, 128, 256, 512)
_ROOM = 1.5  # times a bundle's memory that must be free for passes larger than its figures count
_REPETITIONS, _LOAD = 5, 0.5  # of a benchmark, and the seconds until a bundle is loaded, at least
_EACH_UP_TO = 4  # threads, from which not every number is tried


@dataclass(frozen=True)
class Place:
    """Threads, and the CPUs on which they run, or None for any."""

    threads: int
    cpus: tuple[int, ...] | None = None


def default_settings(manifest: Manifest, cpu: CpuInfo) -> Settings:
    """What a bundle runs with where there is no profile: the target's figures, as far as this machine has cores."""
    decode, prefill = (recommended_threads(n, cpu) for n in (manifest.threads.decode, manifest.threads.prefill))
    return Settings(decode, prefill, prefill_chunk=PREFILL_CHUNK)


def places(cpu: CpuInfo, *, saving: bool = False) -> list[Place]:
    """Numbers of threads on any cores, on the fastest clusters, and on single ones.

    Args:
        cpu: the machine.
        saving: whether LITTLE cores alone are of interest, as they are for energy.
    """
    usable, found = usable_cpus(cpu), list[Place]()
    physical = len({min(core.siblings) for core in cpu.cores if core.index in cpu.allowed})
    found += [Place(count) for count in dict.fromkeys([*_counts(min(physical, usable)), usable])]
    clusters = [cluster for cluster in cpu.clusters if _allowed([cluster], cpu)]
    groups = [clusters[:count] for count in range(1, len(clusters))]
    groups += [[cluster] for cluster in clusters[1:] if saving or not cluster.little]
    for cpus in dict.fromkeys(_allowed(group, cpu) for group in groups):
        found += [Place(count, cpus) for count in _counts(min(len(cpus), usable))]
    return list(dict.fromkeys(found))


def _allowed(clusters: Iterable[Cluster], cpu: CpuInfo) -> tuple[int, ...]:
    """The CPUs of clusters that this process may use."""
    return tuple(sorted({core.index for cluster in clusters for core in cluster.cores} & cpu.allowed))


def _counts(most: int) -> list[int]:
    """Each number up to a few, then in steps that grow, and `most`."""
    found, count = [], 1
    while count < most:
        found.append(count)
        count += 1 if count < _EACH_UP_TO else count // 2
    return [*found, most]


def chunks(manifest: Manifest, memory: MemoryInfo, prompt: int) -> list[int]:
    """Tokens of a pass over a prompt of `prompt` tokens; larger ones than usual only where their memory is there."""
    roomy = memory.usable is None or memory.usable > _ROOM * manifest.memory.total_bytes
    return [size for size in CHUNKS if size == PREFILL_CHUNK or (size <= prompt and (size < PREFILL_CHUNK or roomy))]


def grid_seconds(decode: float, prefill: float, options: Sequence[Place], sizes: Sequence[int]) -> float:
    """What it would take to run every combination by `edgelm bench`, each with its usual tests and repetitions.

    Args:
        decode, prefill: tokens a second, about.
        options: places of each phase.
        sizes: tokens of a pass.
    """
    each = _LOAD + PROMPT * (_REPETITIONS + 1) / prefill + GENERATION * _REPETITIONS / decode
    return len(options) ** 2 * 2 * len(sizes) * each


def decoding(settings: Settings, place: Place) -> Settings:
    """The settings with another place of decode."""
    return replace(settings, threads=place.threads, cpus=place.cpus)


def prefilling(settings: Settings, place: Place) -> Settings:
    """The settings with another place of prefill."""
    return replace(settings, prefill_threads=place.threads, prefill_cpus=place.cpus)


def described(settings: Settings, phase: str) -> str:
    """The part of the settings that matters to a phase, in a few words."""
    threads, cpus = settings.threads, settings.cpus
    if phase == "prefill":
        threads, cpus = settings.prefill_threads, settings.prefill_cpus
    text = f"{threads} thread{'s' if threads > 1 else ''}" + ("" if cpus is None else f" on CPUs {shown(cpus)}")
    if phase == "prefill":
        return f"{text}, {settings.prefill_chunk or PREFILL_CHUNK} tokens a pass"
    return f"{text}, spinning {'on' if settings.spinning else 'off'}"

"""What this machine is: its cores and their features, how many threads are worth using, how much memory there is.

Reads /proc and /sys of Linux and Android. Nothing here raises on what it finds there: a file that is missing or
makes no sense gives None. Every reader takes a `root`, so that another machine's files can be examined.
"""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edgelm.machine.arm_cores import LITTLE, core_name
from edgelm.machine.hwcap import arm_features

ROOT = Path("/")
EMULATED = "EDGELM_EMULATED"  # set by `edgelm emulate`, whose boards show files of their own
_MAX_CPUS = 8192  # the kernel's own limit; keeps a nonsensical range from filling the memory


@dataclass(frozen=True)
class Core:
    """One logical CPU.

    Attributes:
        index: its number.
        name: the kind of core (``cortex-a76``), or None.
        capacity: the kernel's measure of its speed, 1024 for the fastest, or None.
        max_khz: its highest clock, or None.
        siblings: all logical CPUs of the same physical core, itself included.
    """

    index: int
    name: str | None
    capacity: int | None
    max_khz: int | None
    siblings: frozenset[int]


@dataclass(frozen=True)
class Cluster:
    """Cores of one kind: one side of a big.LITTLE processor, or all cores of another."""

    cores: tuple[Core, ...]
    little: bool

    @property
    def name(self) -> str | None:
        """The kind of core."""
        return self.cores[0].name

    @property
    def max_khz(self) -> int | None:
        """Their highest clock."""
        return self.cores[0].max_khz


@dataclass(frozen=True)
class CpuInfo:
    """The processor as this process may use it.

    Attributes:
        arch: as platform.machine() says it.
        model: the processor's or the board's name, or None.
        features: the flags that every core has, or None where they are not known.
        cores: the logical CPUs that are online.
        allowed: the numbers of those on which this process may run (affinity, cpusets).
        quota: how many CPUs' time its control group may use, or None for no limit.
        emulated: the kernel runs on a processor of another architecture.
    """

    arch: str
    model: str | None
    features: frozenset[str] | None
    cores: tuple[Core, ...]
    allowed: frozenset[int]
    quota: float | None
    emulated: bool = False

    @cached_property
    def clusters(self) -> tuple[Cluster, ...]:
        """The cores by kind, the fastest first."""
        kinds: dict[tuple[int, int, str], list[Core]] = {}
        for core in self.cores:
            kinds.setdefault((core.capacity or 0, core.max_khz or 0, core.name or ""), []).append(core)
        groups = [tuple(kinds[kind]) for kind in sorted(kinds, reverse=True)]
        some_big = any(core.name not in LITTLE for core in self.cores)
        return tuple(Cluster(group, _is_little(group[0], groups[0][0], some_big)) for group in groups)

    @property
    def core(self) -> str | None:
        """The kind of the big cores."""
        big = [cluster.name for cluster in self.clusters if not cluster.little and cluster.name]
        return big[0] if big else None

    @property
    def big(self) -> tuple[Core, ...]:
        """The cores worth computing on: all but the LITTLE ones beside bigger ones."""
        return tuple(core for cluster in self.clusters if not cluster.little for core in cluster.cores)

    @property
    def has_dotprod(self) -> bool | None:
        """ARM int8 dot products; None where the features are not known."""
        return None if self.features is None else "asimddp" in self.features

    @property
    def has_i8mm(self) -> bool | None:
        """ARM int8 matrix products; None where the features are not known."""
        return None if self.features is None else "i8mm" in self.features


def _is_little(core: Core, fastest: Core, some_big: bool) -> bool:
    """Is `core` one that would hold the fastest up? By its name; else the kernel's capacity; else the clock."""
    if core.name is not None:
        return some_big and core.name in LITTLE
    if core.capacity is not None and fastest.capacity is not None:
        return core.capacity * 2 < fastest.capacity
    if core.max_khz is not None and fastest.max_khz is not None:
        return core.max_khz * 10 < fastest.max_khz * 8
    return False


def read_cpu(root: Path = ROOT, *, affinity: Iterable[int] | None = None, arch: str | None = None) -> CpuInfo:
    """The processor of this machine, or of the one whose /proc and /sys lie under `root`.

    `affinity` are the CPUs this process may use; None asks the system (or means all, under another root). `arch` is
    the architecture; None asks the system (or guesses, under another root).
    """
    common, blocks = _cpuinfo(read_text(root / "proc/cpuinfo") or "")
    here = root == ROOT
    online = sorted(blocks) or sorted(_cpu_list(read_text(root / "sys/devices/system/cpu/online"))) or [0]
    cores = tuple(_core(root, index, common | blocks.get(index, {})) for index in online)
    if affinity is None:
        affinity = os.sched_getaffinity(0) if here and hasattr(os, "sched_getaffinity") else online
    arch = arch or (platform.machine() if here else _guess_arch(common, blocks))
    arch = {"arm64": "aarch64", "amd64": "x86_64", "AMD64": "x86_64"}.get(arch, arch)
    # An emulated process, and some containers, see the /proc/cpuinfo of another machine: x86 has "flags".
    foreign = arch == "aarch64" and _first("flags", common, blocks) is not None
    told = None if foreign else _features(common, blocks)
    model = None if foreign else _first("model name", common, blocks) or _first("hardware", common, blocks)
    return CpuInfo(
        arch=arch,
        model=_board(root) or model,
        features=(arm_features(root) if arch == "aarch64" else None) or told,
        cores=cores,
        allowed=frozenset(affinity) & frozenset(online) or frozenset(online),
        quota=_quota(root),
        emulated=foreign or (here and EMULATED in os.environ),
    )


def usable_cpus(cpu: CpuInfo | None = None) -> int:
    """How many CPUs' worth of time this process has: its affinity, capped by its control group's quota. At least 1."""
    cpu = cpu or read_cpu()
    return max(1, len(cpu.allowed) if cpu.quota is None else min(len(cpu.allowed), math.floor(cpu.quota)))


def recommended_threads(target_threads: int | None = None, cpu: CpuInfo | None = None) -> int:
    """How many threads to compute with: one per big physical core which this process may use. At least 1.

    LITTLE cores and second hyperthreads make decode slower, not faster; threads beyond a quota make the kernel
    stop the whole process for the rest of each period. `target_threads`, a target's figure, is an upper limit.
    """
    cpu = cpu or read_cpu()
    allowed = [core for core in cpu.big if core.index in cpu.allowed]
    allowed = allowed or [core for core in cpu.cores if core.index in cpu.allowed]
    physical = len({min(core.siblings) for core in allowed})
    limits = [physical, usable_cpus(cpu), *([target_threads] if target_threads is not None else [])]
    return max(1, min(limits))


@dataclass(frozen=True)
class MemoryInfo:
    """Memory in bytes; None where it is not known.

    Attributes:
        total, available: of the machine (MemTotal, MemAvailable).
        swap_total, swap_free: all swap; `zram` is the part of it that is compressed memory.
        limit, used: of this process's control group, where it has a limit.
    """

    total: int | None
    available: int | None
    swap_total: int | None
    swap_free: int | None
    zram: int | None
    limit: int | None
    used: int | None

    @property
    def capacity(self) -> int | None:
        """The most this process could ever have: the machine's memory or the control group's limit."""
        return min((value for value in (self.total, self.limit) if value is not None), default=None)

    @property
    def usable(self) -> int | None:
        """What this process can still take now, without swap."""
        room = None if self.limit is None else max(0, self.limit - (self.used or 0))
        return min((value for value in (self.available, room) if value is not None), default=None)


def read_memory(root: Path = ROOT) -> MemoryInfo:
    """The memory of this machine, or of the one whose /proc and /sys lie under `root`."""
    fields = dict(
        re.findall(r"^(\w+):\s+(\d{1,15}) kB$", read_text(root / "proc/meminfo") or "", re.MULTILINE | re.ASCII)
    )
    kib = {name: int(value) * 1024 for name, value in fields.items()}
    swaps = re.findall(
        r"^\S*zram\d+\s+\S+\s+(\d{1,15})\s", read_text(root / "proc/swaps") or "", re.MULTILINE | re.ASCII
    )
    limit, used = _memory_limit(root, kib.get("MemTotal"))
    return MemoryInfo(
        total=kib.get("MemTotal"),
        available=kib.get("MemAvailable", kib.get("MemFree")),
        swap_total=kib.get("SwapTotal"),
        swap_free=kib.get("SwapFree"),
        zram=sum(int(size) * 1024 for size in swaps) if swaps else None,
        limit=limit,
        used=used,
    )


def read_text(path: Path) -> str | None:
    """A small file of /proc or /sys, or None where it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8", errors="replace").replace("\0", "").strip()
    except (OSError, ValueError):
        return None


def read_int(path: Path) -> int | None:
    """A file holding one whole number, or None."""
    return _int(read_text(path))


def _int(text: str | None, base: int = 10) -> int | None:
    try:
        value = int(text or "", base)
    except ValueError:
        return None
    return value if abs(value) < 2**63 else None  # the kernel's numbers are no longer than that


def _lines(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.MULTILINE | re.ASCII)


def _cpuinfo(text: str) -> tuple[dict[str, str], dict[int, dict[str, str]]]:
    """/proc/cpuinfo: what stands outside any processor's block (old ARM kernels), and the blocks by number."""
    common: dict[str, str] = {}
    blocks: dict[int, dict[str, str]] = {}
    for paragraph in re.split(r"\n\s*\n", text):
        pairs = (line.partition(":") for line in paragraph.splitlines() if ":" in line)
        fields = {key.strip().lower(): value.strip() for key, _, value in pairs}
        index = _int(fields.get("processor"))
        if index is not None and 0 <= index < _MAX_CPUS:
            blocks[index] = fields
        else:
            common |= fields
    return common, blocks


def _first(key: str, common: dict[str, str], blocks: dict[int, dict[str, str]]) -> str | None:
    return next((fields[key] for fields in (*blocks.values(), common) if fields.get(key)), None)


def _features(common: dict[str, str], blocks: dict[int, dict[str, str]]) -> frozenset[str] | None:
    """The flags common to all cores: a thread may be moved to any of them."""
    found = [
        frozenset(line.split())
        for fields in (*blocks.values(), common)
        if (line := fields.get("features") or fields.get("flags"))
    ]
    return frozenset.intersection(*found) if found else None


def _guess_arch(common: dict[str, str], blocks: dict[int, dict[str, str]]) -> str:
    if _first("cpu part", common, blocks):
        return "aarch64"
    return "x86_64" if _first("flags", common, blocks) else "unknown"


def _core(root: Path, index: int, fields: dict[str, str]) -> Core:
    folder = root / f"sys/devices/system/cpu/cpu{index}"
    implementer, part = _int(fields.get("cpu implementer"), 0), _int(fields.get("cpu part"), 0)
    return Core(
        index=index,
        name=None if implementer is None or part is None else core_name(implementer, part),
        capacity=read_int(folder / "cpu_capacity"),
        max_khz=read_int(folder / "cpufreq/cpuinfo_max_freq"),
        siblings=_cpu_list(read_text(folder / "topology/thread_siblings_list")) | {index},
    )


def _cpu_list(text: str | None) -> frozenset[int]:
    """The kernel's notation ``0-3,6``; what makes no sense is left out."""
    numbers: set[int] = set()
    for part in (text or "").split(","):
        if match := re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part, re.ASCII):
            first, last = int(match[1]), int(match[2] or match[1])
            numbers.update(range(first, min(last, _MAX_CPUS) + 1))
    return frozenset(numbers)


def _board(root: Path) -> str | None:
    """What the device tree calls the board ("Raspberry Pi 5 Model B Rev 1.0")."""
    return read_text(root / "proc/device-tree/model") or read_text(root / "sys/firmware/devicetree/base/model") or None


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control group and of all groups around it: version 2, then version 1.

    In a container the path names a folder of the host, which is not there; the top one then is the container's.
    """
    mounts = root / "sys/fs/cgroup"
    for line in (read_text(root / "proc/self/cgroup") or "0::/").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        if names and controller not in names.split(","):
            continue
        for mount in (mounts / names, mounts / controller) if names else (mounts, mounts / "unified"):
            for depth in range(len(parts), -1, -1):
                yield mount.joinpath(*parts[:depth])


def _quota(root: Path) -> float | None:
    """The tightest CPU quota, in CPUs."""
    quotas = []
    for folder in _cgroups(root, "cpu"):
        words = (read_text(folder / "cpu.max") or "").split()
        quota, period = (_int(word) for word in words) if len(words) == 2 else (None, None)
        if quota is None:
            quota, period = read_int(folder / "cpu.cfs_quota_us"), read_int(folder / "cpu.cfs_period_us")
        if quota is not None and period is not None and quota > 0 and period > 0:
            quotas.append(quota / period)
    return min(quotas, default=None)


def _memory_limit(root: Path, total: int | None) -> tuple[int | None, int | None]:
    """The tightest memory limit and what its group uses of it, in bytes, page cache that can be dropped not counted."""
    best: tuple[int | None, int | None] = (None, None)
    for folder in _cgroups(root, "memory"):
        for limit_file, used_file, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit = read_int(folder / limit_file)
            # Version 1 says "no limit" by a number near 2**63.
            if limit is None or limit <= 0 or limit >= (total or 2**60) or (best[0] is not None and limit >= best[0]):
                continue
            used = read_int(folder / used_file)
            stat = re.search(
                rf"^{cache} (\d{{1,18}})$", read_text(folder / "memory.stat") or "", re.MULTILINE | re.ASCII
            )
            best = limit, None if used is None else max(0, used - (int(stat[1]) if stat else 0))
    return best

"""`edgelm doctor`: is this machine ready, how fast can it be, and what stands in the way?

One small function a subject; each gives findings and raises nothing on what it finds.
"""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

from edgelm.device import profile_check, sensors
from edgelm.device.bandwidth import read_bandwidth
from edgelm.device.bundle_check import answer_findings, bundle_findings
from edgelm.device.finding import Finding, gigabytes
from edgelm.errors import EdgeLMError
from edgelm.machine.host import ROOT, CpuInfo, MemoryInfo, read_cpu, read_memory, read_text, recommended_threads
from edgelm.machine.others import Others
from edgelm.machine.wheels import lacking, obstacles
from edgelm.target.match import best_target, is_android
from edgelm.target.target import Target

# The dependencies of pyproject.toml, with the other names under which the same package is sold.
REQUIRED: Mapping[str, str] = MappingProxyType(
    {"onnxruntime": "1.32", "numpy": "1.26", "tokenizers": "0.21", "click": "8.1", "jinja2": "3.1.6"}
)
_ALSO = {"onnxruntime": ("onnxruntime-gpu",)}
_GLIBC = (2, 28)  # of the onnxruntime wheels (manylinux_2_28)
_HOT = 80.0  # °C; a Raspberry Pi begins to slow down here
_BUSY = 0.4  # CPUs that other programs take
_FULL = 1 << 30  # less free disk than this is worth a word: an int4 model of 1B takes about as much


@dataclass(frozen=True)
class Examination:
    """What was found: the machine, the target that fits it, GB/s read (None: not measured), the findings."""

    cpu: CpuInfo
    memory: MemoryInfo
    target: Target | None
    bandwidth: float | None
    findings: tuple[Finding, ...]


def diagnose(root: Path = ROOT, *, bundle: Path | None = None, measure: bool = True) -> list[Finding]:
    """The findings of `examine`."""
    return list(examine(root, bundle=bundle, measure=measure).findings)


def examine(
    root: Path = ROOT,
    *,
    bundle: Path | None = None,
    measure: bool = True,
    tell: Callable[[Finding], None] = lambda finding: None,
) -> Examination:
    """Everything worth knowing about this machine, and about running `bundle` on it.

    `measure` reads memory for about two seconds to find its bandwidth. `root` is for examining another machine's files.
    `tell` is called with each finding once it is known.
    """
    found: list[Finding] = []

    def add(findings: Iterable[Finding]) -> None:
        for finding in findings:
            found.append(finding)
            tell(finding)

    android, others = is_android(root), Others.watch(root)
    add(software_findings(android=android))
    add(package_findings())
    add([Finding("ok", "telemetry", "off: edgelm sets ORT_DISABLE_TELEMETRY=1 before it loads onnxruntime")])
    cpu, memory = read_cpu(root), read_memory(root)
    target = best_target(cpu, memory, android=android)
    add(cpu_findings(cpu, target))
    add(clock_findings(root))
    add(heat_findings(root))
    add(memory_findings(memory))
    threads = recommended_threads(target.cpu.threads if target else None, cpu)
    bandwidth = read_bandwidth(threads, memory.usable) if measure else None
    add(bandwidth_findings(bandwidth, threads, target, emulated=cpu.emulated) if measure else [])
    add(busy_findings(others.cpus(), cpu) if measure else [])
    add(target_findings(cpu, target))
    add(jetson_findings(root, target))
    add(disk_findings(bundle or Path.cwd()))
    add(_open_bundle(bundle, cpu, memory) if bundle else profile_check.machine_findings(cpu))
    return Examination(cpu, memory, target, None if cpu.emulated else bandwidth, tuple(found))


def software_findings(*, android: bool = False) -> list[Finding]:
    """Python, and the C library that the wheels need."""
    name = f"{platform.python_implementation()} {platform.python_version()}"
    wrong = obstacles(platform.machine())
    detail = f"{name}, {platform.machine()}" + "".join(f"; {one.problem}" for one in wrong)
    findings = [Finding("fail" if wrong else "ok", "python", detail, wrong[0].todo if wrong else None)]
    library, version = platform.libc_ver()
    if library == "glibc" and _version(version) >= _GLIBC:
        findings.append(Finding("ok", "libc", f"glibc {version}"))
    else:
        where = (
            "proot-distro install debian (in Termux)" if android else "use a Debian- or Ubuntu-based system or image"
        )
        have = f"{library} {version}".strip() or "not glibc"
        findings.append(Finding("warn", "libc", f"{have}: onnxruntime's wheels need glibc 2.28 or later", where))
    return findings


def package_findings(required: Mapping[str, str] = REQUIRED) -> list[Finding]:
    """The packages that the runtime needs, in the versions it needs."""
    findings = []
    for name, least in required.items():
        installed = next(filter(None, map(_installed, (name, *_ALSO.get(name, ())))), None)
        todo = f"pip install '{name}>={least}'"
        if installed is None:
            findings.append(Finding("fail", name, "not installed", todo))
        elif _version(installed) < _version(least):
            findings.append(Finding("fail", name, f"{installed} is too old", todo))
        else:
            findings.append(Finding("ok", name, installed))
    return findings


def cpu_findings(cpu: CpuInfo, target: Target | None = None) -> list[Finding]:
    """The cores, the instructions that matter for quantised products, and the number of threads edgelm takes."""
    kinds = ", ".join(
        f"{len(cluster.cores)} x {cluster.name or cpu.model or cpu.arch}"
        + (f" {cluster.max_khz / 1e6:.1f} GHz" if cluster.max_khz else "")
        + (" (LITTLE)" if cluster.little else "")
        for cluster in cpu.clusters
    )
    findings = [Finding("ok", "cpu", kinds + (" (emulated)" if cpu.emulated else "")), _instructions(cpu)]
    threads = recommended_threads(target.cpu.threads if target else None, cpu)
    limits = [f"{len(cpu.allowed)} of {len(cpu.cores)} CPUs allowed"] if len(cpu.allowed) < len(cpu.cores) else []
    limits += [f"quota of {cpu.quota:g} CPUs"] if cpu.quota is not None else []
    findings.append(Finding("ok", "threads", " · ".join([str(threads), *limits])))
    return findings


def _instructions(cpu: CpuInfo) -> Finding:
    if cpu.features is None:
        seen = "in a container: let it see /proc/cpuinfo"
        return Finding("warn", "instructions", "not known: /proc/cpuinfo cannot be read", seen)
    if without := lacking(cpu):
        other = "the wheels may end in an illegal instruction: use another machine, or build onnxruntime for this one"
        return Finding("warn", "instructions", f"without {without}", other)
    if cpu.arch == "aarch64":
        shown = {"asimddp": "dotprod", "i8mm": "i8mm", "sve": "sve", "sve2": "sve2", "asimdhp": "fp16", "bf16": "bf16"}
        todo = None if cpu.has_dotprod else "int4 falls back to dequantising here: export with --quant int8"
        good = bool(cpu.has_dotprod)
    else:
        shown = {"avx2": "avx2", "avx512f": "avx512", "avx512_vnni": "avx512-vnni", "avx_vnni": "avx-vnni"}
        good = "avx2" in cpu.features
        todo = None if good else "without avx2 products of small integers are several times slower"
    have = [name for flag, name in shown.items() if flag in cpu.features]
    missing = [name for flag, name in shown.items() if flag not in cpu.features]
    detail = (" ".join(have) or "none that help") + (f" (without {' '.join(missing)})" if missing else "")
    return Finding("ok" if good else "warn", "instructions", detail, todo)


def clock_findings(root: Path = ROOT) -> list[Finding]:
    """The governor, and a clock held below what the processor can do."""
    names = sensors.governors(root)
    findings = []
    if "powersave" in names and not sensors.scales_by_hardware(root):
        todo = "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        findings.append(Finding("warn", "governor", "powersave holds the clock at its lowest", todo))
    elif names:
        findings.append(Finding("ok", "governor", ", ".join(sorted(names))))
    if cap := sensors.capped_clock(root):
        detail = f"limited to {cap[0] / 1e6:.2f} of {cap[1] / 1e6:.2f} GHz"
        todo = "see scaling_max_freq under /sys/devices/system/cpu/cpu*/cpufreq"
        findings.append(Finding("warn", "clock", detail, todo))
    return findings


def heat_findings(root: Path = ROOT) -> list[Finding]:
    """Temperature and throttling."""
    findings = []
    degrees = sensors.temperature(root)
    if sensors.cooled_by_slowing(root) or (degrees is not None and degrees >= _HOT):
        shown = f"{degrees:.0f} °C" if degrees is not None else "hot"
        findings.append(Finding("warn", "temperature", f"{shown}: the clock goes down", "add a heat sink or a fan"))
    elif degrees is not None:
        findings.append(Finding("ok", "temperature", f"{degrees:.0f} °C"))
    state = sensors.throttling(root)
    if state is None:
        return findings
    now, earlier = state
    todo = (
        "use the board's own power supply and a short cable" if "under-voltage" in now + earlier else "cool the board"
    )
    if now:
        findings.append(Finding("warn", "throttling", f"now: {', '.join(now)}", todo))
    elif earlier:
        findings.append(Finding("warn", "throttling", f"earlier since boot: {', '.join(earlier)}", todo))
    else:
        findings.append(Finding("ok", "throttling", "none since boot"))
    return findings


def memory_findings(memory: MemoryInfo) -> list[Finding]:
    """Memory that is free, the control group's limit, swap."""
    if memory.usable is None:
        seen = "in a container: let it see /proc/meminfo"
        return [Finding("warn", "memory", "not known: /proc/meminfo cannot be read", seen)]
    detail = f"{gigabytes(memory.usable)} free" + (f" of {gigabytes(memory.total)}" if memory.total else "")
    if memory.limit is not None:
        detail += f" · limit of this container: {gigabytes(memory.limit)}"
    scarce = memory.usable < 200 << 20
    todo = "stop other programs, or run without a desktop" if scarce else None
    findings = [Finding("warn" if scarce else "ok", "memory", detail, todo)]
    if memory.swap_total:
        used = memory.swap_total - (memory.swap_free if memory.swap_free is not None else memory.swap_total)
        detail = f"{gigabytes(used)} of {gigabytes(memory.swap_total)} used"
        detail += f"; {gigabytes(memory.zram)} of it all is zram (compressed memory)" if memory.zram else ""
        heavy = used * 4 > (memory.total or memory.swap_total * 4)
        todo = "weights in swap are read anew at every token: free some memory" if heavy else None
        findings.append(Finding("warn" if heavy else "ok", "swap", detail, todo))
    return findings


def bandwidth_findings(
    measured: float | None, threads: int, target: Target | None = None, *, emulated: bool = False
) -> list[Finding]:
    """Measured read bandwidth in GB/s, beside what the target's decode gets out of its memory; emulated cores have none."""
    if measured is None:
        return [Finding("warn", "bandwidth", "not measured: too little free memory", "stop other programs")]
    detail = f"{measured:.1f} GB/s read with {threads} thread{'s' if threads > 1 else ''}"
    if emulated:
        return [Finding("ok", "bandwidth", f"{detail} (emulated: it says nothing of a board)")]
    if target is None or not target.board:  # other targets stand for many machines
        return [Finding("ok", "bandwidth", detail)]
    expected = target.memory.bandwidth_gbs
    detail += f" ({target.name}: {expected:g} in decode)"
    slow = measured < 0.7 * expected
    todo = "something else uses the memory, or the clock is held down" if slow else None
    return [Finding("warn" if slow else "ok", "bandwidth", detail, todo)]


def busy_findings(others: float | None, cpu: CpuInfo) -> list[Finding]:
    """Whether other programs compute just now, `others` being how many CPUs' time they take."""
    if others is None:
        return []
    if others > _BUSY:
        todo = "what edgelm bench measures meanwhile is too slow: see what runs (top), and wait or stop it"
        return [Finding("warn", "load", f"other programs take {others:.1f} of {len(cpu.cores)} CPUs", todo)]
    return [Finding("ok", "load", "nothing else computes")]


def target_findings(cpu: CpuInfo, target: Target | None) -> list[Finding]:
    """The target to export for."""
    if target is None:
        todo = "make one: edgelm doctor --save myboard.toml, then edgelm export MODEL --target ./myboard.toml"
        return [Finding("warn", "target", f"no target fits this {cpu.arch} machine", todo)]
    return [Finding("ok", "target", f"{target.name}: edgelm export MODEL --target {target.name}")]


def jetson_findings(root: Path, target: Target | None) -> list[Finding]:
    """A target with a GPU: is an onnxruntime with its provider installed?"""
    if target is None or target.runtime.provider != "cuda":
        return []
    release = re.search(r"R(\d+)", read_text(root / "etc/nv_tegra_release") or "")
    jetpack = {35: "JetPack 5", 36: "JetPack 6", 38: "JetPack 7"}.get(int(release[1])) if release else None
    on = f" on {jetpack}" if jetpack else ""
    if found := _installed("onnxruntime-gpu"):
        return [Finding("ok", "cuda", f"onnxruntime-gpu {found}{on}; edgelm says so when it falls back to the CPU")]
    todo = "install an onnxruntime-gpu built for this JetPack and Python 3.11 or later: see README, Jetson"
    return [Finding("warn", "cuda", f"no onnxruntime-gpu{on}: models run on the CPU", todo)]


def disk_findings(folder: Path) -> list[Finding]:
    """Space beside the bundle, or in the current folder."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return []
    todo = "an int4 bundle takes about 0.6 GB per billion weights" if free < _FULL else None
    return [Finding("warn" if free < _FULL else "ok", "disk", f"{gigabytes(free)} free", todo)]


def _open_bundle(path: Path, cpu: CpuInfo, memory: MemoryInfo) -> list[Finding]:
    from edgelm.bundle.reader import Bundle

    try:
        bundle = Bundle.open(path)
        manifest, answers = bundle.manifest, answer_findings(bundle.answer_grammar)
    except EdgeLMError as error:
        return [Finding("fail", "bundle", str(error), error.hint)]
    installed = next(filter(None, map(_installed, ("onnxruntime", *_ALSO["onnxruntime"]))), None)
    return [*bundle_findings(manifest, cpu, memory), *answers, *profile_check.bundle_findings(manifest, cpu, installed)]


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _version(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: ``1.32.0rc1`` is (1, 32, 0)."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()

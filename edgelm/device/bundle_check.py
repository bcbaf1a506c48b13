"""Does a bundle suit this machine: its operators, its architecture, its memory?"""

from __future__ import annotations

from edgelm.bundle.answer_grammar import EXTRA, PACKAGE, AnswerGrammar, installed
from edgelm.bundle.manifest import Manifest
from edgelm.device.finding import Finding, gigabytes
from edgelm.errors import TargetError
from edgelm.machine.host import CpuInfo, MemoryInfo
from edgelm.target.fallback import export_line, find_fallback
from edgelm.target.match import best_target
from edgelm.target.target import load_target


def bundle_findings(manifest: Manifest, cpu: CpuInfo, memory: MemoryInfo) -> list[Finding]:
    """What to know before running the bundle with this `manifest` on this machine."""
    findings = [
        *_target_findings(manifest, cpu, memory),
        *_recipe_findings(manifest, cpu, memory),
        *_memory_findings(manifest.memory.total_bytes, memory),
    ]
    return findings or [Finding("ok", "bundle", "nothing speaks against it on this machine")]


def answer_findings(answers: AnswerGrammar | None) -> list[Finding]:
    """Whether a bundle's answers are held to the grammar that it names for them."""
    if answers is None:
        return []
    if installed():
        return [Finding("ok", "answers", f"held to {answers}")]
    detail = f"free: without {PACKAGE} nothing holds them to {answers}"
    return [Finding("warn", "answers", detail, f"pip install '{EXTRA}'")]


def _recipe_findings(manifest: Manifest, cpu: CpuInfo, memory: MemoryInfo) -> list[Finding]:
    """Operators that this core runs by a slow route."""
    if slow := find_fallback(manifest, cpu, memory):
        return [Finding("warn", "recipe", slow.detail, slow.todo)]
    return [Finding("ok", "recipe", f"{', '.join(sorted(manifest.recipe.operators))} suit this core")]


def _target_findings(manifest: Manifest, cpu: CpuInfo, memory: MemoryInfo) -> list[Finding]:
    name = manifest.target
    best = best_target(cpu, memory)
    todo = export_line(manifest, cpu, memory, manifest.quant) if best else None
    if manifest.provider == "cuda" and (best is None or best.runtime.provider != "cuda"):
        return [Finding("warn", "made for", f"{name}, a CUDA device; this machine is not known as one", todo)]
    try:
        arch = load_target(name).cpu.arch
    except TargetError:  # made with the user's own target file
        arch = cpu.arch
    if arch != cpu.arch:
        detail = f"{name} ({arch}); this machine is {cpu.arch}: it runs, but not at its best"
        return [Finding("warn", "made for", detail, todo)]
    return [Finding("ok", "made for", name)]


def _memory_findings(need: int, memory: MemoryInfo) -> list[Finding]:
    if memory.capacity is not None and need > memory.capacity:
        detail = f"needs {gigabytes(need)}, this machine has {gigabytes(memory.capacity)} for it"
        return [Finding("fail", "fits", detail, "export a smaller model, fewer bits or a shorter --context")]
    if memory.usable is not None and need > memory.usable:
        detail = f"needs {gigabytes(need)}, only {gigabytes(memory.usable)} are free"
        return [Finding("warn", "fits", detail, "stop other programs, or export with a shorter --context")]
    return [Finding("ok", "fits", f"needs {gigabytes(need)}")] if memory.usable is not None else []

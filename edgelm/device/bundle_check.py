"""Does a bundle suit this machine: its operators, its architecture, its memory?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgelm.device.finding import Finding, gigabytes
from edgelm.device.match import best_target
from edgelm.errors import TargetError
from edgelm.machine import CpuInfo, MemoryInfo
from edgelm.target import load_target


def bundle_findings(manifest: Mapping[str, Any], cpu: CpuInfo, memory: MemoryInfo) -> list[Finding]:
    """What to know before running the bundle with this `manifest` on this machine; keys not there are not judged."""
    findings = [
        *_target_findings(manifest, cpu, memory),
        *_recipe_findings(manifest, cpu, memory),
        *_memory_findings(manifest, memory),
    ]
    return findings or [Finding("ok", "bundle", "nothing speaks against it on this machine")]


def _recipe_findings(manifest: Mapping[str, Any], cpu: CpuInfo, memory: MemoryInfo) -> list[Finding]:
    """Operators that this core runs by a slow road. The factors are measured, for one token (see targets/*.toml)."""
    specs = [spec for spec in _table(manifest, "recipe").values() if isinstance(spec, Mapping)]
    used = {op for spec in specs if (op := _text(spec, "op")) not in (None, "none")}
    best = best_target(cpu, memory)
    name = best.name if best else "TARGET"
    core = f"{cpu.core} has" if cpu.core else "this core has"
    if cpu.arch == "aarch64" and "MatMulNBits" in used and cpu.has_dotprod is False:
        detail = f"MatMulNBits weights, but {core} no dotprod: about 17x slower than int8"
        return [Finding("warn", "recipe", detail, _export(manifest, name, "int8"))]
    if cpu.arch == "aarch64" and "DynamicQuantizeMatMul" in used and cpu.has_i8mm:
        detail = f"DynamicQuantizeMatMul weights, but {core} i8mm: about 8x slower than MatMulNBits"
        return [Finding("warn", "recipe", detail, _export(manifest, name, _text(manifest, "quant") or "int8"))]
    if used:
        return [Finding("ok", "recipe", f"{', '.join(sorted(map(str, used)))} suit this core")]
    return []


def _target_findings(manifest: Mapping[str, Any], cpu: CpuInfo, memory: MemoryInfo) -> list[Finding]:
    target = manifest.get("target")
    name = target if isinstance(target, str) else _text(_table(manifest, "target"), "name")
    if not name:
        return []
    best = best_target(cpu, memory)
    todo = _export(manifest, best.name, _text(manifest, "quant") or best.default) if best else None
    if _text(manifest, "provider") == "cuda" and (best is None or best.runtime.provider != "cuda"):
        return [Finding("warn", "made for", f"{name}, a CUDA device; this machine is not known as one", todo)]
    try:
        arch = load_target(name).cpu.arch
    except TargetError:  # made with the user's own target file
        arch = cpu.arch
    if arch != cpu.arch:
        detail = f"{name} ({arch}); this machine is {cpu.arch}: it runs, but not at its best"
        return [Finding("warn", "made for", detail, todo)]
    return [Finding("ok", "made for", name)]


def _memory_findings(manifest: Mapping[str, Any], memory: MemoryInfo) -> list[Finding]:
    need = _table(manifest, "memory").get("total_bytes")
    if not isinstance(need, int) or isinstance(need, bool):
        return []
    if memory.capacity is not None and need > memory.capacity:
        detail = f"needs {gigabytes(need)}, this machine has {gigabytes(memory.capacity)} for it"
        return [Finding("fail", "fits", detail, "export a smaller model, fewer bits or a shorter --context")]
    if memory.usable is not None and need > memory.usable:
        detail = f"needs {gigabytes(need)}, only {gigabytes(memory.usable)} are free"
        return [Finding("warn", "fits", detail, "stop other programs, or export with a shorter --context")]
    return [Finding("ok", "fits", f"needs {gigabytes(need)}")] if memory.usable is not None else []


def _export(manifest: Mapping[str, Any], target: str, quant: str) -> str:
    model = manifest.get("model")
    name = model if isinstance(model, str) else _text(_table(manifest, "model"), "id")
    return f"edgelm export {name or 'MODEL'} --target {target} --quant {quant}"


def _table(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key)
    return value if isinstance(value, Mapping) else {}


def _text(data: Mapping[str, Any], key: str) -> str | None:
    value = data.get(key)
    return value if isinstance(value, str) else None

"""A bundle on a core where its operators fall back to slow kernels: by how much, and what to export instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgelm.machine.host import CpuInfo, MemoryInfo, read_memory
from edgelm.target.match import best_target
from edgelm.target.operators import OPERATORS


@dataclass(frozen=True)
class Fallback:
    """What is slow (`detail`, with the factor), and the command that makes a better bundle (`todo`)."""

    detail: str
    todo: str


def find_fallback(manifest: Mapping[str, Any], cpu: CpuInfo, memory: MemoryInfo | None = None) -> Fallback | None:
    """How a bundle's recipe falls back on this core; None where it does not, or that cannot be told.

    The factors are instructions executed for one token, counted on emulated cores (docs/targets.md).
    """
    if cpu.arch != "aarch64" or manifest.get("provider", "cpu") != "cpu":
        return None
    core = f"{cpu.core} has" if cpu.core else "this core has"
    for name in sorted(operators(manifest) & OPERATORS.keys()):
        operator = OPERATORS[name]
        if operator.falls_back(cpu.arch, "cpu", cpu.has_dotprod):
            factor = operator.work(bits(manifest, name))
            detail = f"{name} weights, but {core} no dotprod: {factor}x the work of int8 by DynamicQuantizeMatMul"
            return Fallback(detail, export_line(manifest, cpu, memory, "int8"))
    return None


def exact_int8(cpu: CpuInfo) -> bool:
    """Whether int8 products are exact on this core, so that int8 prefill may be used.

    On x86-64 without VNNI onnxruntime adds pairs of products in 16 bits, which large values overflow (VPMADDUBSW
    saturates); what features a core has is not known everywhere, and then it is taken to be one of those.
    """
    return cpu.arch != "x86_64" or bool((cpu.features or frozenset()) & {"avx512_vnni", "avx_vnni"})


def bits(manifest: Mapping[str, Any], op: str) -> int | None:
    """Bits a weight of the layers' matrices, where they are `op`'s."""
    body = table(table(manifest, "recipe"), "body")
    value = body.get("bits")
    return value if text(body, "op") == op and isinstance(value, int) else None


def operators(manifest: Mapping[str, Any]) -> set[str]:
    """The operators of a manifest's recipe."""
    recipe = table(manifest, "recipe")
    parts = [*recipe.values(), *table(recipe, "matrices").values()]
    specs = [spec for spec in parts if isinstance(spec, Mapping)]
    return {op for spec in specs if (op := text(spec, "op")) not in (None, "none") and op is not None}


def export_line(manifest: Mapping[str, Any], cpu: CpuInfo, memory: MemoryInfo | None, quant: str) -> str:
    """The command that exports a bundle's model for this machine."""
    best = best_target(cpu, memory or read_memory())
    model = manifest.get("model")
    name = model if isinstance(model, str) else text(table(manifest, "model"), "id")
    return f"edgelm export {name or 'MODEL'} --target {best.name if best else 'TARGET'} --quant {quant}"


def table(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A table inside `data`; empty where there is none."""
    value = data.get(key)
    return value if isinstance(value, Mapping) else {}


def text(data: Mapping[str, Any], key: str) -> str | None:
    """A string inside `data`, or None."""
    value = data.get(key)
    return value if isinstance(value, str) else None

"""A bundle on a core where its operators fall back to slow kernels: by how much, and what to export instead."""

from __future__ import annotations

from dataclasses import dataclass

from edgelm import demo
from edgelm.bundle.manifest import Manifest
from edgelm.errors import suggest
from edgelm.machine.host import CpuInfo, MemoryInfo, read_memory
from edgelm.target.operators import OPERATORS


@dataclass(frozen=True)
class Fallback:
    """What is slow (`detail`, with the factor), and the command that makes a better bundle (`todo`)."""

    detail: str
    todo: str


def find_fallback(manifest: Manifest, cpu: CpuInfo, memory: MemoryInfo | None = None) -> Fallback | None:
    """How a bundle's recipe falls back on this core; None where it does not, or that cannot be told.

    The factors are instructions executed for one token, counted on emulated cores (docs/notes/targets.md).
    """
    if cpu.arch != "aarch64" or manifest.provider != "cpu":
        return None
    body, core = manifest.recipe.body.spec, f"{cpu.core} has" if cpu.core else "this core has"
    for name in sorted(manifest.recipe.operators & OPERATORS.keys()):
        operator = OPERATORS[name]
        if operator.falls_back(cpu.arch, "cpu", cpu.has_dotprod):
            factor = operator.work(body.bits if body.op == name else None)
            detail = f"{name} weights, but {core} no dotprod: {factor}x the work of int8 by DynamicQuantizeMatMul"
            return Fallback(detail, export_line(manifest, cpu, memory, "int8"))
    return None


def exact_int8(cpu: CpuInfo) -> bool:
    """Whether int8 products are exact on this core, so that int8 prefill may be used.

    On x86-64 without VNNI onnxruntime adds pairs of products in 16 bits, which large values overflow (VPMADDUBSW
    saturates); what features a core has is not known everywhere, and then it is taken to be one of those.
    """
    return cpu.arch != "x86_64" or bool((cpu.features or frozenset()) & {"avx512_vnni", "avx_vnni"})


def export_line(manifest: Manifest, cpu: CpuInfo, memory: MemoryInfo | None, quant: str) -> str:
    """The command that exports a bundle's model for this machine."""
    from edgelm.target.match import best_target  # here: every load asks for a fallback, and few find one

    best, id = best_target(cpu, memory or read_memory()), manifest.model.id
    known = "/" in id or id == demo.NAME
    line = suggest("export", id if known else "MODEL", "--target", best.name if best else "TARGET", "--quant", quant)
    return line if known else f"{line}  (MODEL: the folder or file that {id} was exported from)"

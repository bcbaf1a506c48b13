"""How the commands tell which formats a mixed recipe gives to the matrices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgelm.cli.show import fact, size, table
from edgelm.target.format_spec import FormatSpec


def mixed_lines(manifest: Mapping[str, Any]) -> Iterator[str]:
    """A table of the formats of the layers' matrices, and what they were chosen for; nothing for a recipe of roles."""
    matrices = manifest["recipe"].get("matrices")
    if not matrices:
        return
    count: dict[str, int] = {}
    weights: dict[str, int] = {}
    nbytes: dict[str, int] = {}
    scale = 2 if manifest["graph"].get("activations") == "float16" else 4  # bytes of one
    for facts in matrices.values():
        name, (n, k) = str(_spec(facts)), facts["shape"]
        count[name] = count.get(name, 0) + 1
        weights[name] = weights.get(name, 0) + n * k
        nbytes[name] = nbytes.get(name, 0) + _stored(facts, n, k, scale)
    total = sum(weights.values())
    order = sorted(count, key=lambda name: nbytes[name] / weights[name])
    rows = [(name, str(count[name]), f"{weights[name] / total:.0%}", size(nbytes[name])) for name in order]
    yield from table([("layers' matrices", "matrices", "weights", "size"), *rows], indent="    ")
    if chosen := manifest.get("mixed"):
        yield fact("chosen for", _budget(chosen["budget"]))
        text = chosen["text"]
        yield fact("measured on", f"{chosen['tokens']:,} tokens of {text['name']} (SHA-256 {text['sha256'][:12]})")


def mixed_body(matrices: Mapping[str, Mapping[str, Any]]) -> str:
    """The layers' matrices in a line."""
    formats = {str(_spec(facts)) for facts in matrices.values()}
    return f"mixed: {len(matrices)} matrices in {len(formats)} formats"


def _budget(limits: Mapping[str, Any]) -> str:
    told = []
    if "max_size" in limits:
        told.append(f"at most {size(limits['max_size'])}")
    if "max_kld" in limits:
        told.append(f"a KLD of at most {limits['max_kld']:g}")
    return ", ".join(told) or "the size of the target's default recipe"


def _spec(facts: Mapping[str, Any]) -> FormatSpec:
    return FormatSpec(facts["op"], facts["bits"], facts.get("block"))


def _stored(facts: Mapping[str, Any], n: int, k: int, scale: int) -> int:
    if facts["op"] == "MatMul":
        return n * k * int(facts["bits"]) // 8
    block = int(facts.get("block") or k)
    blocks = -(-k // block)
    return n * blocks * (block * int(facts["bits"]) // 8 + scale)

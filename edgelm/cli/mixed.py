"""How the commands tell which formats a mixed recipe gives to the matrices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from edgelm.cli.show import fact, size, table

if TYPE_CHECKING:
    from edgelm.bundle.format_spec import StoredFormat
    from edgelm.bundle.manifest import Manifest
    from edgelm.bundle.origins import Budget


def mixed_lines(manifest: Manifest) -> Iterator[str]:
    """A table of the formats of the layers' matrices, and what they were chosen for; nothing for a recipe of roles."""
    matrices = manifest.recipe.matrices
    if not matrices:
        return
    count: dict[str, int] = {}
    weights: dict[str, int] = {}
    nbytes: dict[str, int] = {}
    scale = 2 if manifest.graph.activations == "float16" else 4  # bytes of one
    for format in matrices.values():
        name, (n, k) = str(format.spec), format.shape or (0, 0)
        count[name] = count.get(name, 0) + 1
        weights[name] = weights.get(name, 0) + n * k
        nbytes[name] = nbytes.get(name, 0) + format.spec.nbytes(n, k, scale)
    total = sum(weights.values())
    order = sorted(count, key=lambda name: nbytes[name] / weights[name])
    rows = [(name, str(count[name]), f"{weights[name] / total:.0%}", size(nbytes[name])) for name in order]
    yield from table([("layers' matrices", "matrices", "weights", "size"), *rows], indent="    ")
    if chosen := manifest.mixed:
        yield fact("chosen for", _budget(chosen.budget))
        text = chosen.text
        yield fact("measured on", f"{chosen.tokens:,} tokens of {text.name} (SHA-256 {text.sha256[:12]})")


def mixed_body(matrices: Mapping[str, StoredFormat]) -> str:
    """The layers' matrices in a line."""
    return f"mixed: {len(matrices)} matrices in {len({format.spec for format in matrices.values()})} formats"


def _budget(limits: Budget) -> str:
    told = []
    if limits.max_size is not None:
        told.append(f"at most {size(limits.max_size)}")
    if limits.max_kld is not None:
        told.append(f"a KLD of at most {limits.max_kld:g}")
    return ", ".join(told) or "the size of the target's default recipe"

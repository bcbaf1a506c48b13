"""What to expect of a model on a board: speed, time to first token, load, memory, and whether it fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgelm.bundle.reader import Bundle
from edgelm.forecast.cost_model import Forecast, forecast, from_manifest
from edgelm.target.target import Target, load_target


@dataclass(frozen=True)
class Estimate:
    """A model on a board.

    Attributes:
        model, target, quant, context: which.
        memory: bytes with the context full, as in a manifest.
        usable_bytes: what the board has for a model.
        bundle_bytes: on disk.
        misfit: why it does not fit and what would, or None.
        forecast: its speed.
    """

    model: str
    target: str
    quant: str
    context: int
    memory: Mapping[str, int]
    usable_bytes: int
    bundle_bytes: int
    misfit: tuple[str, str] | None
    forecast: Forecast

    @property
    def fits(self) -> bool:
        """Whether the board has the memory."""
        return self.memory["total_bytes"] <= self.usable_bytes

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model": self.model,
            "target": self.target,
            "quant": self.quant,
            "context": self.context,
            "fits": self.fits,
            "misfit": None if self.misfit is None else {"why": self.misfit[0], "todo": self.misfit[1]},
            "memory": dict(self.memory),
            "usable_bytes": self.usable_bytes,
            "bundle_bytes": self.bundle_bytes,
            **self.forecast.to_dict(),
        }


def of_bundle(bundle: Bundle, target: Target | None = None, *, threads: int | None = None) -> Estimate:
    """The estimate for a bundle, from its manifest alone.

    Args:
        bundle: the bundle; its context and recipe are what they are.
        target: the board; None is the one it was made for.
        threads: None takes the board's.

    Raises:
        TargetError: it was made for a target that is not known here.
        BundleError: the manifest does not say enough.
        OptionError: the board has not so many cores.
    """
    manifest = bundle.manifest
    board = target or load_target(manifest.target)
    work, memory = from_manifest(manifest), manifest.memory
    total, name, quant = memory.total_bytes, manifest.model.id, manifest.quant
    usable = board.memory.usable_mb << 20
    misfit = None
    if total > usable:
        why = f"{name} as {quant} needs {total / 1e6:,.0f} MB, {board.name} has {usable / 1e6:,.0f} MB for a model"
        misfit = (why, "export it again with a shorter --context or fewer bits: edgelm inspect MODEL shows what fits")
    expected = forecast(work, board, context=bundle.context, threads=threads)
    return Estimate(name, board.name, quant, bundle.context, memory.to_dict(), usable, bundle.size, misfit, expected)

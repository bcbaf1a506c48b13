"""Before any work: will the bundle fit the device, and is there the memory and the disk to make it?"""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgelm.bundle.manifest import Memory
from edgelm.errors import ExportError
from edgelm.exporter.recipe import AS_IT_IS, Choices
from edgelm.exporter.sizing.footprint import GRAPH, Footprint
from edgelm.machine.host import read_memory
from edgelm.target.target import RecipeSpec, Target

_STEP = 256  # contexts are suggested in multiples of it, and the powers of two below
_SHORTEST = 64  # a context that is worth suggesting


@dataclass(frozen=True)
class Need:
    """What one way to export a model takes.

    Attributes:
        quant, context: the way.
        footprint: the model in this form.
        device: what the device needs with the context full.
        usable: bytes the target has for a model.
    """

    quant: str
    context: int
    footprint: Footprint
    device: Memory
    usable: int

    @property
    def fits(self) -> bool:
        """Whether the device has enough memory."""
        return self.device.total_bytes <= self.usable

    def to_dict(self) -> dict[str, Any]:
        """For JSON, in bytes."""
        taken = self.footprint
        return {
            "bundle_bytes": taken.bundle,
            "disk_bytes": taken.disk,
            "host_bytes": taken.host,
            "memory": self.device.to_dict(),
            "fits": self.fits,
        }


@dataclass(frozen=True)
class Sizes:
    """What a model takes on a target, recipe by recipe.

    Attributes:
        name: the model's.
        target: the board.
        footprint: what the model takes in a recipe.
        choices: made whatever the recipe.
        weigh: (recipe, context) → the bytes of its bundle but for quality.json; None where only its export tells.
        text: bytes of the tokenizer and what belongs to it, where nothing can `weigh`.
    """

    name: str
    target: Target
    footprint: Callable[[RecipeSpec], Footprint]
    choices: Choices = AS_IT_IS
    weigh: Callable[[RecipeSpec, int], int] | None = None
    text: int = 0

    def need(self, quant: str, context: int) -> Need:
        """What this recipe of the target takes.

        Raises:
            ExportError: the choices do not go with it.
        """
        taken = self.footprint(self._spec(quant))
        return Need(quant, context, taken, taken.device(context), self.target.memory.usable_mb << 20)

    def weighed(self, quant: str, context: int) -> Need:
        """The same with the bundle's bytes, exactly where they can be known; this takes tenths of a second."""
        need = self.need(quant, context)
        taken = need.footprint
        exact = None if self.weigh is None else self.weigh(self._spec(quant), context)
        files = GRAPH + self.text if exact is None else exact - taken.stored - taken.prefill
        return replace(need, footprint=replace(taken, files=files))

    def least(self, quant: str, context: int) -> int:
        """Bytes that a bundle takes at least."""
        taken = self.weighed(quant, context).footprint
        return taken.bundle if self.weigh is not None else taken.bundle - GRAPH

    @property
    def quants(self) -> tuple[str, ...]:
        """The target's recipes with which the choices go, its default first.

        Raises:
            ExportError: there are none.
        """
        found = tuple(quant for quant in self.target.quants if self._goes(quant))
        if not found:
            self._spec(self.target.default)  # which says why
        return found

    def needs(self, context: int) -> list[Need]:
        """What every recipe of the target takes with which the choices go, its default first."""
        return [self.need(quant, context) for quant in self.quants]

    def _spec(self, quant: str) -> RecipeSpec:
        return self.choices.of(self.target.recipe(quant), self.target)

    def _goes(self, quant: str) -> bool:
        try:
            self._spec(quant)
        except ExportError:
            return False
        return True


def check(sizes: Sizes, quant: str, context: int, output: Path, *, force: bool = False) -> Footprint:
    """Refuse an export for which there is not enough memory on the device, or memory or disk here.

    Args:
        sizes: of the model on the target.
        quant, context: how it is to be exported.
        output: folder of the bundle.
        force: warn instead.

    Returns:
        what the model takes.

    Raises:
        ExportError: with the figures, and what would fit.
    """
    need = sizes.need(quant, context)
    for message, hint in _problems(sizes, need, output):
        if not force:
            raise ExportError(message, hint=f"{hint}; --force exports it anyway")
        warnings.warn(message, UserWarning, stacklevel=3)
    return need.footprint


def misfit(sizes: Sizes, need: Need) -> tuple[str, str] | None:
    """(why the device has not enough memory, what would fit), or None where it has."""
    return None if need.fits else (_told(sizes, need), _would_fit(sizes, need))


def free_disk(folder: Path) -> int:
    """Bytes free on the disk where `folder` is, or would be."""
    parents = [folder.absolute(), *folder.absolute().parents]
    return shutil.disk_usage(next(path for path in parents if path.exists())).free


def _problems(sizes: Sizes, need: Need, output: Path) -> Iterator[tuple[str, str]]:
    """(what is wrong, what to do) for the device, the host's memory, the disk."""
    taken, board = need.footprint, sizes.target.name
    if (small := misfit(sizes, need)) is not None:
        yield small
    memory = read_memory().usable
    if memory is not None and taken.host > memory:
        yield (
            f"not enough memory to export {sizes.name} as {need.quant}: {_mb(taken.host)} are needed, {_mb(memory)} are free",
            _among(sizes, need, lambda other: other.host <= memory)
            + f"stop other programs, or export on a machine with more; the bundle runs on {board} all the same",
        )
    free = free_disk(output.parent)
    if taken.disk > free:
        yield (
            f"not enough disk for {output}: {_mb(taken.disk)} are needed, {_mb(free)} are free",
            _among(sizes, need, lambda other: other.disk <= free) + "free some space, or choose another disk with -o",
        )


def _told(sizes: Sizes, need: Need) -> str:
    device = need.device
    rest = device.activations_bytes + device.logits_bytes + device.runtime_bytes
    weights = device.packed_bytes + device.table_bytes + device.passing_bytes
    kv = device.total_bytes - rest - weights
    return (
        f"{sizes.name} as {need.quant} with a context of {need.context:,} tokens needs {_mb(device.total_bytes)}, "
        f"{sizes.target.name} has {_mb(need.usable)} for a model (weights {_mb(weights)}, "
        f"KV cache {_mb(kv)}, activations and runtime {_mb(rest)})"
    )


def _among(sizes: Sizes, need: Need, enough: Callable[[Footprint], bool]) -> str:
    """The quants with `enough`, as the beginning of a hint."""
    others = [other for other in sizes.needs(need.context) if enough(other.footprint)]
    return f"would fit: --quant {' or '.join(other.quant for other in others)}; else " if others else ""


def _would_fit(sizes: Sizes, need: Need) -> str:
    """What to change so that the device has enough: the context, the quant, both, the model."""
    fixed = need.device.logits_bytes + need.device.runtime_bytes
    if fixed >= need.usable:
        return f"no model of this vocabulary fits: the runtime alone takes {_mb(fixed)}"
    return "would fit: " + ", or ".join(_changes(sizes, need))


def _changes(sizes: Sizes, need: Need) -> Iterator[str]:
    others = [other for other in sizes.needs(need.context) if other.quant != need.quant]
    fitting = [other.quant for other in others if other.fits]
    context = _longest(need)
    if context:
        yield f"--context {context}"
    if _fits_with_int8_kv(sizes, need):
        yield "--kv int8"
    if _fits_without_prefill(sizes, need):
        yield "--prefill same"
    if fitting:
        yield f"--quant {' or '.join(fitting)}"
    elif not context:
        best = max(others, key=lambda other: (_longest(other), -other.device.total_bytes), default=None)
        if best is not None and _longest(best):
            yield f"--quant {best.quant} --context {_longest(best)}"
    yield _smaller_model(min([need, *others], key=lambda other: other.device.total_bytes))


def _fits_with_int8_kv(sizes: Sizes, need: Need) -> bool:
    """Whether it is keys and values alone that are too large; graphs whose cache grows keep them as floats."""
    if sizes.choices.kv is not None or sizes.target.runtime.provider != "cpu" or need.footprint.copies > 1:
        return False
    return replace(sizes, choices=replace(sizes.choices, kv="int8")).need(need.quant, need.context).fits


def _fits_without_prefill(sizes: Sizes, need: Need) -> bool:
    """Whether it is the prompts' own matrices alone that are too many."""
    if not need.device.prefill_bytes:
        return False
    return replace(sizes, choices=replace(sizes.choices, prefill="same")).need(need.quant, need.context).fits


def _longest(need: Need) -> int:
    """The longest context below the one asked for that the device has memory for; 0 for none worth having."""
    powers = [_SHORTEST * 2**i for i in range(8) if _SHORTEST * 2**i < _STEP]
    candidates = [n for n in [*powers, *range(_STEP, need.context, _STEP)] if n < need.context]
    return max((n for n in candidates if need.footprint.device(n).total_bytes <= need.usable), default=0)


def _smaller_model(need: Need) -> str:
    """How many parameters would fit in this form and context.

    Weights and cache are taken to grow with the parameters, activations with their square root.
    """
    device = need.device
    room = need.usable - device.logits_bytes - device.runtime_bytes
    width = device.activations_bytes
    grows = device.total_bytes - device.logits_bytes - device.runtime_bytes - width
    share = ((math.sqrt(width**2 + 4 * grows * room) - width) / (2 * grows)) ** 2
    return f"a model of at most about {_round(need.footprint.parameters * share)} parameters as {need.quant}"


def _round(count: float) -> str:
    """Two figures of a number, rounded down: ``180 M``."""
    scale, unit = next(((s, u) for s, u in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if count >= s), (1.0, ""))
    value = count / scale
    tens = 10.0 ** (len(str(int(value))) - 2)
    return f"{int(value / tens) * tens:g} {unit}".rstrip()


def _mb(count: float) -> str:
    return f"{count / 1e6:,.0f} MB"

"""The recipes that a sweep tries: each a name, and how `edgelm.exporter.pipeline.export` is called for it.

A new way to make a bundle is a `Candidate` more: its board may hold a recipe of its own, its options go to the export
as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgelm.errors import OptionError, near
from edgelm.exporter.formats.registry import make_format
from edgelm.target.target import RecipeSpec, Target

BASE = "fp32"  # the candidate that all others are compared with
AUTO = "auto"  # as in edgelm.exporter.mixed.recipes
BLOCKS = (32, 64, 128)  # of 4-bit weights: those whose work on every core is known (docs/notes/targets.md)

_MATRICES = ("body", "head", "embedding")


@dataclass(frozen=True)
class Candidate:
    """A way to make a bundle.

    Attributes:
        name: of the way, and of its folder.
        target: the board.
        quant: the recipe of the board.
        options: of the export, beside these.
        calibrated: whether it takes a text to calibrate on.
    """

    name: str
    target: Target
    quant: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    calibrated: bool = False


def candidates(target: Target) -> list[Candidate]:
    """What there is to try for a board: fp32, and all that its own recipes say.

    Of a recipe with 4-bit blocks, each block size rounded to the nearest step, with searched scales, and by GPTQ; of one
    with 8-bit products, also calibrated, with smoothed activations. Last a format for each matrix, in no more
    bytes than the default recipe takes; models that go through Optimum have none, and are told so.
    """
    found = [Candidate(BASE, target, BASE)]
    for quant, recipe in sorted(target.recipes.items(), key=lambda entry: -entry[1].body.bits):
        found += _of_recipe(target, quant, recipe)
    if AUTO not in target.recipes and any(recipe.body.bits < 16 for recipe in target.recipes.values()):
        found.append(Candidate(AUTO, target, AUTO, calibrated=True))
    return found


def chosen(found: Sequence[Candidate], names: Iterable[str]) -> list[Candidate]:
    """Those of these names, and the base; all where there are no names.

    Raises:
        OptionError: there is none of that name.
    """
    wanted = list(names)
    known = [candidate.name for candidate in found]
    for name in wanted:
        if name not in known:
            raise OptionError(
                f"no recipe {name!r} to try",
                hint=f"{near(name, known, listing='recipes')}; --list in the place of --recipe shows them all",
            )
    return [candidate for candidate in found if not wanted or candidate.name in (*wanted, BASE)]


def _of_recipe(target: Target, quant: str, recipe: RecipeSpec) -> Iterator[Candidate]:
    format = make_format(recipe.body)
    if format.calibrates and format.spec.bits == 4:
        for block in sorted({*BLOCKS, recipe.body.block or BLOCKS[0]}):
            name = f"{quant}-b{block}"
            board = _with(target, quant, _in_blocks(recipe, block, None))
            yield Candidate(f"{name}-nearest", _with(target, quant, _in_blocks(recipe, block, "nearest")), quant)
            yield Candidate(f"{name}-search", board, quant)
            yield Candidate(f"{name}-gptq", board, quant, calibrated=True)
        return
    yield Candidate(quant, target, quant)
    if format.smooths:
        yield Candidate(f"{quant}-smooth", target, quant, calibrated=True)


def _in_blocks(recipe: RecipeSpec, block: int, rounding: str | None) -> RecipeSpec:
    """The recipe with its 4-bit matrices in blocks of this size; those rounded to nearest have no zero points."""
    specs = {role: getattr(recipe, role) for role in _MATRICES}
    roles = {
        role: replace(spec, block=block, rounding=rounding, zero_points=None if rounding else spec.zero_points)
        for role, spec in specs.items()
        if spec.bits == 4 and spec.block is not None
    }
    return replace(recipe, **roles, up=None)


def _with(target: Target, quant: str, recipe: RecipeSpec) -> Target:
    return replace(target, recipes={**target.recipes, quant: recipe})

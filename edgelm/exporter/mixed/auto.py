"""``--quant auto``: what matrices lose is measured once; then recipes are written until one keeps the budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgelm.bundle import origins
from edgelm.bundle.manifest import Manifest
from edgelm.bundle.origins import Mixed, Text
from edgelm.bundle.writer import BundleWriter
from edgelm.errors import ExportError, UnsupportedModelError
from edgelm.evaluate.passages import load_passages
from edgelm.exporter import native
from edgelm.exporter.calibration.quality import Calibration
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.mixed import recipes, sensitivity
from edgelm.exporter.mixed.budget import Budget
from edgelm.exporter.mixed.recipes import AUTO, Attempt, Candidates
from edgelm.exporter.model.decoder import Decoder
from edgelm.exporter.model.weights import WeightReader
from edgelm.exporter.recipe import AS_IT_IS, Choices, GraphPlan
from edgelm.exporter.sizing.preflight import free_disk
from edgelm.target.target import RecipeSpec, Target

_CARD, _CARD_MATRIX = 4096, 256  # bytes of quality.json at most, and of a matrix in it

Written = tuple[Manifest, dict[str, Any] | None]
"""The manifest of a bundle, and its quality card where it was measured."""


def is_auto(target: Target, quant: str | None) -> bool:
    """Whether a recipe is to be chosen; a target's own recipe of that name is meant where there is one."""
    return quant == AUTO and AUTO not in target.recipes


def with_recipe(target: Target, quant: str, spec: RecipeSpec) -> Target:
    """The target with one more recipe."""
    return replace(target, recipes={**target.recipes, quant: spec})


def expect_mixable(checkpoint: Checkpoint, decoder: Decoder | None) -> Decoder:
    """The decoder of a model whose matrices can be chosen for one by one.

    Raises:
        UnsupportedModelError: it has no native family.
        ExportError: it is quantised already.
    """
    hint = "choose one of the target's recipes: --quant int4"
    if decoder is None:
        raise UnsupportedModelError(
            f"{checkpoint.path}: --quant auto is for native families, "
            f"and {checkpoint.config.model_type!r} goes through Optimum",
            hint=hint,
        )
    if checkpoint.scheme is not None:
        raise ExportError(
            f"{checkpoint.path} is quantised already, and its codes are kept: there is nothing to choose", hint=hint
        )
    return decoder


def smallest(decoder: Decoder, target: Target) -> RecipeSpec:
    """The recipe of fewest bytes, for checks before any work."""
    choices = recipes.choices(decoder, target)
    none = {linear.name: [0.0] * len(choices.body[linear.name]) for linear in decoder.linears}
    tables = {decoder.embedding.name: [0.0] * len(choices.embedding)}
    return Candidates(
        decoder, target, choices, {**none, **tables, decoder.head.name: [0.0] * len(choices.head)}
    ).recipe(0)


def export(
    plan: GraphPlan,
    checkpoint: Checkpoint,
    calibration: Calibration,
    budget: Budget,
    write: Callable[[Target, Mixed], Written],
    *,
    card: bool,
    calibrates: bool,
    choices: Choices = AS_IT_IS,
) -> Written:
    """Write the bundle whose recipe serves the budget best.

    Args:
        plan: of the graph; its recipe is any.
        checkpoint: of the weights.
        calibration: its text is what matrices are measured on.
        budget: see `recipes.search`. Floats are on offer only where KLD is limited: by size alone they would fill it up.
        write: writes the target's recipe `AUTO`, with how it was chosen, for the manifest.
        card: whether the bundle gets a quality card.
        calibrates: whether its matrices will be rounded on that text, too.
        choices: made whatever the recipe.

    Raises:
        ExportError: no recipe keeps the budget.
    """
    measured = _measure(plan, checkpoint, calibration, budget, rounds=calibrates)
    target, candidates, folder = plan.target, measured.candidates, calibration.writer.folder
    rest = (_CARD + _CARD_MATRIX * (2 + len(plan.decoder.linears)) if card else 0) + _size(folder)

    def weigh(spec: RecipeSpec) -> int:
        return rest + native.graph_size(replace(plan, spec=choices.of(spec, target)), calibration.text)

    done: Written | None = None

    def attempt(point: int) -> Attempt:
        nonlocal done
        limits = origins.Budget(budget.size, budget.kld)
        chosen = Mixed(measured.text, measured.tokens, limits, candidates.sensitivity(point))
        done = write(with_recipe(target, AUTO, candidates.recipe(point)), chosen)
        found = done[1]
        return Attempt(point, _size(folder), None if found is None else float(found["kld"]["mean"]))

    recipes.search(candidates, budget, weigh, attempt)
    assert done is not None
    return done


@dataclass(frozen=True)
class _Measured:
    """The recipes there are, by what each matrix loses in its formats; and on how many tokens of what text."""

    candidates: Candidates
    text: Text
    tokens: int


def _measure(
    plan: GraphPlan, checkpoint: Checkpoint, calibration: Calibration, budget: Budget, *, rounds: bool
) -> _Measured:
    assert calibration.wanted is not None
    decoder, target = plan.decoder, plan.target
    offer = recipes.choices(decoder, target, floats=budget.kld is not None)
    passages = load_passages(calibration.wanted, "calibration")
    chunks = calibration.chunks(passages, decoder, *sensitivity.text_size(decoder, plan.context))
    tokens = sum(map(len, chunks))
    _expect_room(sensitivity.disk(decoder, tokens), calibration.writer)
    with calibration.folder("trying") as folder:
        losses = sensitivity.measure(
            WeightReader(checkpoint), decoder, offer, chunks, Path(folder), calibration.progress, rounds=rounds
        )
    return _Measured(Candidates(decoder, target, offer, losses), Text(passages.name, passages.sha256), tokens)


def _size(folder: Path) -> int:
    return sum(entry.stat().st_size for entry in folder.iterdir())


def _expect_room(needed: int, writer: BundleWriter) -> None:
    free = free_disk(writer.output.parent)
    if needed > free:
        raise ExportError(
            f"not enough disk to measure matrices beside {writer.output}: {needed / 1e6:,.0f} MB are needed, "
            f"{free / 1e6:,.0f} MB are free",
            hint="free some space, or choose another disk with -o",
        )

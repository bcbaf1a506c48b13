"""``--quant auto``: what matrices lose is measured once; then recipes are written until one keeps the budget."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgelm.bundle.writer import BundleWriter, json_text
from edgelm.errors import ExportError, UnsupportedModelError
from edgelm.evaluate.passages import load_passages
from edgelm.exporter import genai, native
from edgelm.exporter.calibration.quality import chunks_of
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.lora_adapter import places_size
from edgelm.exporter.mixed import recipes, sensitivity
from edgelm.exporter.mixed.budget import Budget
from edgelm.exporter.mixed.recipes import AUTO, Attempt, Candidates
from edgelm.exporter.model.decoder import Decoder
from edgelm.exporter.model.weights import WeightReader
from edgelm.exporter.progress import Progress
from edgelm.exporter.recipe import AS_IT_IS, Choices
from edgelm.exporter.sizing.preflight import free_disk
from edgelm.exporter.tokenizer.text_files import TextFiles
from edgelm.target.target import RecipeSpec, Target

_CARD, _CARD_MATRIX = 4096, 256  # bytes of quality.json at most, and of a matrix in it

Written = tuple[dict[str, Any], dict[str, Any] | None]
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
    checkpoint: Checkpoint,
    decoder: Decoder,
    target: Target,
    budget: Budget,
    wanted: str,
    context: int,
    text: TextFiles,
    writer: BundleWriter,
    write: Callable[[Target, dict[str, Any]], Written],
    progress: Progress,
    *,
    card: bool,
    choices: Choices = AS_IT_IS,
    lora_ready: bool = False,
) -> Written:
    """Write the bundle whose recipe serves the budget best.

    Args:
        checkpoint, decoder, target, context, text, writer: of the export.
        budget: see `recipes.search`. Floats are on offer only where KLD is limited: by size alone they would fill it up.
        wanted: text on which matrices are measured.
        write: writes the target's recipe `AUTO`, with facts for the manifest.
        progress: is called with how far it is.
        card: whether the bundle gets a quality card.
        choices: made whatever the recipe.
        lora_ready: whether adapters have a place.

    Raises:
        ExportError: no recipe keeps the budget.
    """
    reader = WeightReader(checkpoint)
    offer = recipes.choices(decoder, target, floats=budget.kld is not None)
    passages = load_passages(wanted, "calibration")
    chunk, most = sensitivity.text_size(decoder, context)
    chunks = chunks_of(passages, decoder, chunk, most, text, writer, progress)
    tokens = sum(map(len, chunks))
    _expect_room(sensitivity.disk(decoder, tokens), writer)
    with tempfile.TemporaryDirectory(prefix=f".{writer.output.name}.trying-", dir=writer.output.parent) as name:
        folder = Path(name)
        candidates = Candidates(
            decoder, target, offer, sensitivity.measure(reader, decoder, offer, chunks, folder, progress)
        )
        rest = (_CARD + _CARD_MATRIX * (2 + len(decoder.linears)) if card else 0) + _size(writer.folder)

        def weigh(spec: RecipeSpec) -> int:
            spec = choices.of(spec, target)
            facts = native.graph_facts(decoder, spec, target, context, lora_ready=lora_ready)
            config = genai.config(facts, context, text, decoder)
            graph = native.weigh(reader, decoder, target, spec, context, folder, lora_ready=lora_ready)
            places = places_size(decoder, facts["activations"]) if lora_ready else 0
            return rest + graph + places + len(json_text(config).encode())

        done: Written | None = None

        def attempt(point: int) -> Attempt:
            nonlocal done
            spec = candidates.recipe(point)
            limits = {"max_size": budget.size, "max_kld": budget.kld}
            facts = {
                "text": passages.facts(),
                "tokens": tokens,
                "budget": {name: limit for name, limit in limits.items() if limit is not None},
                "sensitivity": candidates.sensitivity(point),
            }
            done = write(with_recipe(target, AUTO, spec), {"mixed": facts})
            found = done[1]
            return Attempt(point, _size(writer.folder), None if found is None else float(found["kld"]["mean"]))

        recipes.search(candidates, budget, weigh, attempt)
    assert done is not None
    return done


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

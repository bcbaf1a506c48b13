"""How a checkpoint becomes a graph: the native export path of families that are known, or Optimum's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from edgelm.errors import CheckpointError, ExportError, OptionError, UnsupportedModelError
from edgelm.exporter import families, genai, native
from edgelm.exporter.calibration.quality import Calibration, prepared, with_kv_scales
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.checkpoint.lora import MERGE
from edgelm.exporter.families.common import TRY_OPTIMUM
from edgelm.exporter.model.decoder import Decoder
from edgelm.exporter.model.weights import WeightReader
from edgelm.exporter.progress import Progress
from edgelm.exporter.recipe import Choices, GraphPlan, quantised_kv
from edgelm.exporter.result import GraphResult
from edgelm.exporter.sizing import footprint
from edgelm.exporter.sizing.footprint import Footprint
from edgelm.exporter.tokenizer.vocabulary import Trim
from edgelm.target.target import RecipeSpec, Target

Exporter = Literal["auto", "native", "optimum"]


@dataclass(frozen=True)
class Job:
    """What to write.

    Attributes:
        spec: how weights are stored.
        context: in tokens.
        calibration: the text to calibrate on, and where to write.
        errors: whether to tell how far each matrix is from what it was.
        lora_ready: whether adapters have a place.
    """

    spec: RecipeSpec
    context: int
    calibration: Calibration
    errors: bool = False
    lora_ready: bool = False


@dataclass(frozen=True)
class Route:
    """How a checkpoint becomes a graph.

    Attributes:
        name: ``native`` or ``optimum``.
        context_limit: the longest context in tokens.
        footprint: what the model takes in a recipe.
        whole: the same with its whole vocabulary, where that is trimmed.
        write: write model.onnx and what belongs to it; what was written.
        checkpoint: what its weights are read from, the rows that stay where the vocabulary is trimmed.
        decoder: what the model is then, on the native route.
    """

    name: str
    context_limit: int
    footprint: Callable[[RecipeSpec], Footprint]
    whole: Callable[[RecipeSpec], Footprint]
    write: Callable[[Job], GraphResult]
    checkpoint: Checkpoint
    decoder: Decoder | None = None

    def expect(self, choices: Choices) -> None:
        """UnsupportedModelError where what is chosen cannot be: on Optimum's route."""
        kinds = (
            ("kv", choices.kv, "keep keys and values as floats"),
            ("prefill", choices.prefill, "read prompts as they decode"),
        )
        for name, chosen, instead in kinds:
            if chosen == "int8" and self.name != "native":
                raise UnsupportedModelError(
                    f"{self.checkpoint.path}: model type {self.checkpoint.config.model_type!r} goes through Optimum, "
                    f"whose graphs {instead}",
                    hint=f"leave out --{name} int8",
                )


def choose_route(
    checkpoint: Checkpoint, exporter: Exporter, target: Target, progress: Progress, cut: Trim | None
) -> Route:
    """The native export path where a family can describe this model, else Optimum's."""
    if exporter not in ("auto", "native", "optimum"):
        raise OptionError(f"exporter must be auto, native or optimum, not {exporter!r}")
    checkpoint.expect_generator()
    for remark in checkpoint.remarks:
        progress.say(remark)
    if exporter == "optimum":
        return _optimum_route(checkpoint, target, progress, cut, None)
    try:
        return _native_route(checkpoint, families.describe(checkpoint.config), target, progress, cut)
    except UnsupportedModelError as reason:
        if exporter == "native":
            raise
        return _optimum_route(checkpoint, target, progress, cut, reason)


def _native_route(
    checkpoint: Checkpoint, whole: Decoder, target: Target, progress: Progress, cut: Trim | None
) -> Route:
    decoder = whole
    if cut is not None:
        if whole.vocab != cut.vocab:
            raise CheckpointError(
                f"{checkpoint.path}: config.json says {cut.vocab:,} and {whole.vocab:,} for vocab_size"
            )
        checkpoint = checkpoint.picking(whole.vocab_tensors, cut.rows)
        decoder = whole.with_vocab(len(cut.rows))

    def write(job: Job) -> GraphResult:
        plan = GraphPlan(decoder, job.spec, target, job.context, job.lora_ready)
        writer = job.calibration.writer
        with prepared(plan, WeightReader(checkpoint), job.calibration) as weights:
            weights = with_kv_scales(plan, weights, job.calibration)
            result = native.write_graph(plan, checkpoint, writer, progress, weights, errors=job.errors)
        writer.write_json(genai.CONFIG, genai.config(plan, result.graph, job.calibration.text))
        return result

    def taken(model: Decoder, spec: RecipeSpec) -> Footprint:
        return footprint.of_decoder(model, spec, target, checkpoint.scheme)

    return Route(
        "native", decoder.context_limit, partial(taken, decoder), partial(taken, whole), write, checkpoint, decoder
    )


def _optimum_route(
    checkpoint: Checkpoint,
    target: Target,
    progress: Progress,
    cut: Trim | None,
    reason: UnsupportedModelError | None,
) -> Route:
    """Optimum's; `reason` is why the native export path could not be taken, None where it was not asked for."""
    if checkpoint.adapter is not None:
        raise UnsupportedModelError(
            f"{checkpoint.path}: model type {checkpoint.config.model_type!r} goes through Optimum, "
            "where an adapter cannot be merged",
            hint=MERGE,
        )
    from edgelm.exporter.optimum import route  # here, so that the native export path stands without it

    progress.say(f"exporting through Optimum: {reason or 'as asked'}")
    route.require()
    rows = None if cut is None else cut.rows

    def write(job: Job) -> GraphResult:
        if job.calibration.wanted is not None:
            progress.say("only native families are calibrated: scales are searched without data")
        if quantised_kv(job.spec):
            progress.say("only native families keep keys and values as int8: here they are floats")
        if job.spec.prefill is not None:
            progress.say("only native families have a graph of their own for prompts: here decode's reads them")
        try:
            return route.write_graph(checkpoint, target, job.spec, job.calibration.writer, progress, rows)
        except ExportError as error:
            if reason is None:
                raise
            hint = (reason.hint or "").removeprefix(TRY_OPTIMUM).removeprefix(", or ")  # which was tried just now
            raise ExportError(f"{error}; and {reason}", hint=hint or error.hint) from None

    def taken(tokens: int | None, spec: RecipeSpec) -> Footprint:
        return footprint.of_checkpoint(checkpoint, spec, target, tokens)

    limit, tokens = route.context_limit(checkpoint.config), None if rows is None else len(rows)
    return Route("optimum", limit, partial(taken, tokens), partial(taken, None), write, checkpoint)

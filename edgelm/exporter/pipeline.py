"""The whole conversion on one page: checkpoint → decoder + recipe → graph → bundle."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgelm import demo
from edgelm.bundle import QUALITY, Bundle, BundleWriter, check_output, writing
from edgelm.errors import EdgeLMError, ExportError, OptionError, UnsupportedModelError
from edgelm.exporter import families, footprint, genai, native, preflight
from edgelm.exporter.budget import Budget
from edgelm.exporter.checkpoint import Checkpoint
from edgelm.exporter.decoder import Decoder
from edgelm.exporter.families.common import TRY_OPTIMUM
from edgelm.exporter.footprint import Footprint
from edgelm.exporter.hub import name_of, resolve
from edgelm.exporter.lora import MERGE, Adapter
from edgelm.exporter.manifest import manifest, source_hashes
from edgelm.exporter.progress import Progress
from edgelm.exporter.quality import Wishes, measured, prepared, with_kv_scales
from edgelm.exporter.recipe import quantised_kv, with_kv
from edgelm.exporter.result import GraphResult
from edgelm.exporter.tokenizer import TextFiles, write_text_files
from edgelm.exporter.weights import WeightReader
from edgelm.target import RecipeSpec, Target, load_target

Exporter = Literal["auto", "native", "optimum"]


def export(
    model: str | os.PathLike[str] | None = None,
    target: str | os.PathLike[str] | Target = "rpi5",
    quant: str | None = None,
    *,
    revision: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
    context: int | None = None,
    output: str | os.PathLike[str] | None = None,
    exporter: Exporter = "auto",
    kv: Literal["float", "int8"] | None = None,
    calibrate: str | os.PathLike[str] | None = None,
    card: str | os.PathLike[str] | None = None,
    max_size: int | str | None = None,
    max_kld: float | None = None,
    overwrite: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Convert a checkpoint into a bundle for a target.

    Args:
        model: a folder, a hub id, or None for the embedded default.
        target: a name, a TOML file, or a `Target`.
        quant: ``int4``, ``int8``, ``fp16``, ``fp32`` or another recipe of the target; None is its default.
        revision: branch, tag or commit of a model from the hub; None is its main branch.
        adapter: a LoRA adapter in PEFT's layout to merge into the weights: a folder, or a hub id.
        context: longest prompt plus answer in tokens; None is the target's choice, at most what the model was made for.
        output: folder of the bundle; None is ``./bundles/<model>-<target>-<quant>``.
        exporter: ``native`` for families edgelm knows, ``optimum`` for the others, ``auto`` chooses.
        kv: how keys and values are kept: ``float``, or ``int8``, which takes a quarter of the memory; None is the
            recipe's choice. Steps are found on the text of `calibrate`, or on edgelm's own.
        calibrate: a text file to calibrate on, ``builtin`` for edgelm's own sample: GPTQ of 4-bit matrices, and even
            activations for DynamicQuantizeMatMul. None or ``none`` chooses all scales without data. Minutes for models of hundreds of millions of parameters.
        card: a text file, or ``builtin``, on which the bundle is compared with the model in fp32 for its quality.json;
            ``auto`` does so for small models, None or ``none`` does not. It writes the model in fp32 beside the bundle
            meanwhile, and runs both.
        max_size: what the bundle may take at most: bytes, or ``350MB``.
        max_kld: mean KL divergence from the model in fp32 that it may have at most, in nats; it is measured, then.
        overwrite: whether a bundle already there is replaced.
        force: whether to go on where the bundle does not fit the target, or memory or disk here seem too small.
        progress: hears how far it is.

    Raises:
        EdgeLMError: of the kind that fits, with what is wrong and what to do; nothing half-written is left.
    """
    progress = progress or Progress()
    board = target if isinstance(target, Target) else load_target(target)
    quant = quant or board.default
    recipe = with_kv(board.recipe(quant), kv, board)
    model, adapter = (None if name is None else os.fspath(name) for name in (model, adapter))
    folder = Path(output) if output is not None else Path("bundles") / _folder(model, adapter, board, quant, kv)
    check_output(folder, overwrite=overwrite)  # before anything is downloaded
    wishes = Wishes.of(calibrate, card, *([] if model is not None else [str(demo.heldout())]))
    budget = Budget.of(max_size, max_kld)
    source = resolve(model, revision, progress)
    checkpoint = Checkpoint(source.path, None if adapter is None else _open_adapter(adapter, progress))
    road = _choose_road(checkpoint, exporter, board, progress)
    if kv == "int8" and road.name != "native":
        raise UnsupportedModelError(
            f"{checkpoint.path}: model type {checkpoint.config.model_type!r} goes through Optimum, whose graphs keep keys "
            "and values as floats",
            hint="leave out --kv int8",
        )
    length = choose_context(context, board, road.context_limit)
    plan = preflight.Plan(source.id, board, road.footprint, kv)
    budget.check_size(plan, quant, length)
    taken = preflight.check(plan, quant, length, folder, force=force)
    with writing(folder, overwrite=overwrite) as writer:
        text = write_text_files(source.path, checkpoint.config, writer)
        measure = _text_to_measure_on(wishes, budget, road, taken, recipe)
        result = road.write(_Job(recipe, length, text, writer, wishes.calibrate, measure is not None))
        hashes = source_hashes(checkpoint, progress)
        facts = manifest(source, checkpoint, hashes, board, quant, length, text, result, taken, road.name)
        if measure is not None:

            def write_base(aside: BundleWriter) -> dict[str, Any]:
                return {"graph": road.write(_Job(board.recipe("fp32"), length, text, aside)).graph}

            try:
                found = measured(measure, write_base, facts, writer, result.errors, progress)
                budget.check_quality(found)
                writer.write_json(QUALITY, found)
            except EdgeLMError as reason:
                if card != "auto" or budget.kld is not None:
                    raise
                progress.say(f"the bundle has no quality card: {reason}")
        return writer.commit(facts, overwrite=overwrite)


def _text_to_measure_on(
    wishes: Wishes, budget: Budget, road: _Road, taken: Footprint, recipe: RecipeSpec
) -> str | None:
    """The text of the quality card, or None for a bundle without one."""
    if wishes.card == "auto" and road.name != "native":  # it would be traced twice
        return None if budget.kld is None else wishes.own
    return wishes.measures(taken.parameters, recipe) or (None if budget.kld is None else wishes.own)


def choose_context(wanted: int | None, target: Target, limit: int) -> int:
    """The context to export for: what is wanted, or the target's choice; at most `limit`, the model's.

    Raises:
        OptionError: less than a token.
        ExportError: more than the model was made for.
    """
    if wanted is not None and wanted < 1:
        raise OptionError(f"context must be at least 1 token, not {wanted}")
    if wanted is not None and wanted > limit:
        raise ExportError(
            f"context {wanted:,} is more than the model was made for ({limit:,} tokens)",
            hint=f"use --context {limit} or less",
        )
    return wanted or min(target.runtime.context, limit)


@dataclass(frozen=True)
class _Job:
    """What to write.

    Attributes:
        recipe: how weights are stored.
        context: in tokens.
        text: what was written of tokenizer and template.
        writer: of the bundle.
        calibrate: a text to calibrate on, or None.
        errors: whether to tell how far each matrix is from what it was.
    """

    recipe: RecipeSpec
    context: int
    text: TextFiles
    writer: BundleWriter
    calibrate: str | None = None
    errors: bool = False


@dataclass(frozen=True)
class _Road:
    """How a checkpoint becomes a graph.

    Attributes:
        name: ``native`` or ``optimum``.
        context_limit: the longest context in tokens.
        footprint: what the model takes in a recipe.
        write: write model.onnx and what belongs to it; what was written.
    """

    name: str
    context_limit: int
    footprint: Callable[[RecipeSpec], Footprint]
    write: Callable[[_Job], GraphResult]


def _choose_road(checkpoint: Checkpoint, exporter: Exporter, target: Target, progress: Progress) -> _Road:
    """The native road where a family can describe this model, else Optimum's."""
    if exporter not in ("auto", "native", "optimum"):
        raise OptionError(f"exporter must be auto, native or optimum, not {exporter!r}")
    if exporter == "optimum":
        return _optimum_road(checkpoint, target, progress, None)
    try:
        return _native_road(checkpoint, families.describe(checkpoint.config), target, progress)
    except UnsupportedModelError as reason:
        if exporter == "native":
            raise
        return _optimum_road(checkpoint, target, progress, reason)


def _native_road(checkpoint: Checkpoint, decoder: Decoder, target: Target, progress: Progress) -> _Road:
    def write(job: _Job) -> GraphResult:
        reader = WeightReader(checkpoint)
        with prepared(
            job.calibrate, reader, decoder, job.recipe, job.context, job.text, job.writer, progress
        ) as weights:
            weights = with_kv_scales(
                weights, job.calibrate, decoder, job.recipe, job.context, job.text, job.writer, progress
            )
            result = native.write_graph(
                checkpoint, decoder, target, job.recipe, job.context, job.writer, progress, weights, errors=job.errors
            )
        job.writer.write_json(genai.CONFIG, genai.config(result.graph, job.context, job.text, decoder))
        return result

    def taken(spec: RecipeSpec) -> Footprint:
        return footprint.of_decoder(decoder, spec, target, checkpoint.scheme)

    return _Road("native", decoder.context_limit, taken, write)


def _optimum_road(
    checkpoint: Checkpoint, target: Target, progress: Progress, reason: UnsupportedModelError | None
) -> _Road:
    """Optimum's; `reason` is why the native road could not be taken, None where it was not asked for."""
    if checkpoint.adapter is not None:
        raise UnsupportedModelError(
            f"{checkpoint.path}: model type {checkpoint.config.model_type!r} goes through Optimum, "
            "where an adapter cannot be merged",
            hint=MERGE,
        )
    from edgelm.exporter import optimum  # here, so that the native road stands without it

    progress.say(f"exporting through Optimum: {reason or 'as asked'}")
    optimum.require()

    def write(job: _Job) -> GraphResult:
        if job.calibrate is not None:
            progress.say("only native families are calibrated: scales are searched without data")
        if quantised_kv(job.recipe):
            progress.say("only native families keep keys and values as int8: here they are floats")
        try:
            return optimum.write_graph(checkpoint, target, job.recipe, job.writer, progress)
        except ExportError as error:
            if reason is None:
                raise
            hint = (reason.hint or "").removeprefix(TRY_OPTIMUM).removeprefix(", or ")  # which was tried just now
            raise ExportError(f"{error}; and {reason}", hint=hint or error.hint) from None

    limit = optimum.context_limit(checkpoint.config)
    return _Road("optimum", limit, lambda spec: footprint.of_checkpoint(checkpoint, spec, target), write)


def _open_adapter(adapter: str, progress: Progress) -> Adapter:
    source = resolve(adapter, progress=progress, what="adapter")
    return Adapter.open(source.path, source.id, source.revision)


def _folder(model: str | None, adapter: str | None, target: Target, quant: str, kv: str | None) -> str:
    """The default name of a bundle's folder."""
    names = [name_of(model), *([] if adapter is None else [name_of(adapter)])]
    return "-".join([*map(_slug, names), target.name, quant, *([] if kv is None else ["kv", kv])])


def _slug(name: str) -> str:
    """A model's id as part of a folder name: its last part, in letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name.rsplit("/", 1)[-1]).strip("-.") or "model"

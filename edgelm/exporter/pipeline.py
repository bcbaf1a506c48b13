"""The whole conversion on one page: checkpoint → decoder + recipe → graph → bundle."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgelm.bundle import Bundle, BundleWriter, check_output, writing
from edgelm.errors import ExportError, OptionError, UnsupportedModelError
from edgelm.exporter import families, footprint, genai, native, preflight
from edgelm.exporter.checkpoint import Checkpoint
from edgelm.exporter.decoder import Decoder
from edgelm.exporter.families.common import TRY_OPTIMUM
from edgelm.exporter.footprint import Footprint
from edgelm.exporter.hub import name_of, resolve
from edgelm.exporter.lora import MERGE, Adapter
from edgelm.exporter.manifest import manifest, source_hashes
from edgelm.exporter.progress import Progress
from edgelm.exporter.result import GraphResult
from edgelm.exporter.tokenizer import TextFiles, write_text_files
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
        overwrite: whether a bundle already there is replaced.
        force: whether to go on where the bundle does not fit the target, or memory or disk here seem too small.
        progress: hears how far it is.

    Raises:
        EdgeLMError: of the kind that fits, with what is wrong and what to do; nothing half-written is left.
    """
    progress = progress or Progress()
    board = target if isinstance(target, Target) else load_target(target)
    quant = quant or board.default
    recipe = board.recipe(quant)
    model, adapter = (None if name is None else os.fspath(name) for name in (model, adapter))
    folder = Path(output) if output is not None else Path("bundles") / _folder(model, adapter, board, quant)
    check_output(folder, overwrite=overwrite)  # before anything is downloaded
    source = resolve(model, revision, progress)
    checkpoint = Checkpoint(source.path, None if adapter is None else _open_adapter(adapter, progress))
    road = _choose_road(checkpoint, exporter, board, recipe, progress)
    length = choose_context(context, board, road.context_limit)
    taken = preflight.check(preflight.Plan(source.id, board, road.footprint), quant, length, folder, force=force)
    with writing(folder, overwrite=overwrite) as writer:
        text = write_text_files(source.path, checkpoint.config, writer)
        result = road.write(length, text, writer)
        hashes = source_hashes(checkpoint, progress)
        facts = manifest(source, checkpoint, hashes, board, quant, length, text, result, taken, road.name)
        return writer.commit(facts, overwrite=overwrite)


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
class _Road:
    """How a checkpoint becomes a graph.

    Attributes:
        name: ``native`` or ``optimum``.
        context_limit: the longest context in tokens.
        footprint: what the model takes in a recipe.
        write: (context, text files, writer) → what was written.
    """

    name: str
    context_limit: int
    footprint: Callable[[RecipeSpec], Footprint]
    write: Callable[[int, TextFiles, BundleWriter], GraphResult]


def _choose_road(
    checkpoint: Checkpoint, exporter: Exporter, target: Target, recipe: RecipeSpec, progress: Progress
) -> _Road:
    """The native road where a family can describe this model, else Optimum's."""
    if exporter not in ("auto", "native", "optimum"):
        raise OptionError(f"exporter must be auto, native or optimum, not {exporter!r}")
    if exporter == "optimum":
        return _optimum_road(checkpoint, target, recipe, progress, None)
    try:
        return _native_road(checkpoint, families.describe(checkpoint.config), target, recipe, progress)
    except UnsupportedModelError as reason:
        if exporter == "native":
            raise
        return _optimum_road(checkpoint, target, recipe, progress, reason)


def _native_road(
    checkpoint: Checkpoint, decoder: Decoder, target: Target, recipe: RecipeSpec, progress: Progress
) -> _Road:
    def write(context: int, text: TextFiles, writer: BundleWriter) -> GraphResult:
        result = native.write_graph(checkpoint, decoder, target, recipe, context, writer, progress)
        writer.write_json(genai.CONFIG, genai.config(result.graph, context, text, decoder))
        return result

    def taken(spec: RecipeSpec) -> Footprint:
        return footprint.of_decoder(decoder, spec, target, checkpoint.scheme)

    return _Road("native", decoder.context_limit, taken, write)


def _optimum_road(
    checkpoint: Checkpoint, target: Target, recipe: RecipeSpec, progress: Progress, reason: UnsupportedModelError | None
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

    def write(context: int, text: TextFiles, writer: BundleWriter) -> GraphResult:
        try:
            return optimum.write_graph(checkpoint, target, recipe, writer, progress)
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


def _folder(model: str | None, adapter: str | None, target: Target, quant: str) -> str:
    """The default name of a bundle's folder."""
    names = [name_of(model), *([] if adapter is None else [name_of(adapter)])]
    return "-".join([*map(_slug, names), target.name, quant])


def _slug(name: str) -> str:
    """A model's id as part of a folder name: its last part, in letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name.rsplit("/", 1)[-1]).strip("-.") or "model"

"""The whole conversion on one page: checkpoint → decoder + recipe → graph → bundle."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

from edgelm import demo
from edgelm.bundle.manifest import Graph
from edgelm.bundle.origins import Mixed
from edgelm.bundle.reader import LORA, QUALITY, Bundle
from edgelm.bundle.writer import BundleWriter, check_output, writing
from edgelm.errors import EdgeLMError, OptionError
from edgelm.exporter.calibration.quality import Calibration, QualityOptions, measuring
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.checkpoint.hub import name_of, resolve, slug
from edgelm.exporter.lora_adapter import expect_places, open_adapter, places_file
from edgelm.exporter.manifest import manifest, source_hashes
from edgelm.exporter.mixed import auto
from edgelm.exporter.mixed.budget import Budget
from edgelm.exporter.mixed.replay import read_replay
from edgelm.exporter.progress import Progress
from edgelm.exporter.recipe import Choices, GraphPlan
from edgelm.exporter.routes import Exporter, Job, Route, choose_route
from edgelm.exporter.sizing import preflight
from edgelm.exporter.sizing.context import choose_context
from edgelm.exporter.sizing.footprint import Footprint
from edgelm.exporter.tokenizer.text_files import read_text, write_text
from edgelm.exporter.tokenizer.vocabulary import Domain, Wanted, trim
from edgelm.target.target import RecipeSpec, Target, load_target


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
    trim_vocab: Wanted = None,
    kv: Literal["float", "int8"] | None = None,
    prefill: Literal["same", "int8"] | None = None,
    calibrate: str | os.PathLike[str] | None = None,
    card: str | os.PathLike[str] | None = None,
    max_size: int | str | None = None,
    max_kld: float | None = None,
    recipe: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    force: bool = False,
    lora_ready: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Convert a checkpoint into a bundle for a target.

    Args:
        model: a folder, a hub id, or None for the embedded default.
        target: a name, a TOML file, or a `Target`.
        quant: ``int4``, ``int8``, ``fp16``, ``fp32`` or another recipe of the target; None is its default. ``auto``
            chooses a format for every matrix, so that the bundle keeps `max_size` with the least KL divergence, or
            `max_kld` with the fewest bytes; without either it takes no more than the target's default.
        revision: branch, tag or commit of a model from the hub; None is its main branch.
        adapter: a LoRA adapter in PEFT's layout to merge into the weights: a folder, or a hub id.
        context: longest prompt plus answer in tokens; None is the target's choice, at most what the model was made for.
        output: folder of the bundle; None is ``./bundles/<model>-<target>-<quant>``.
        exporter: ``native`` for families edgelm knows, ``optimum`` for the others, ``auto`` chooses.
        trim_vocab: what the vocabulary is cut to: text files, folders of them, or codes of languages such as ``en,de``;
            one or several of these, and what any of them needs stays. None keeps all of it.
        kv: how keys and values are kept: ``float``, or ``int8``, which takes a quarter of the memory; None is the
            recipe's choice. Steps are found on the text of `calibrate`, or on edgelm's own.
        prefill: what reads prompts: the ``same`` matrices as decode, or ``int8``, a second set of them, which is faster
            and takes a byte a weight more on disk. None is the recipe's choice.
        calibrate: a text file to calibrate on, ``builtin`` for edgelm's own sample: GPTQ of 4-bit matrices, and even
            activations for DynamicQuantizeMatMul. None or ``none`` chooses all scales without data (None with a
            `recipe`: as it was made). Minutes for models of hundreds of millions of parameters.
        card: a text file, or ``builtin``, on which the bundle is compared with the model in fp32 for its quality.json;
            ``auto`` does so for small models, None or ``none`` does not. It writes the model in fp32 beside the bundle
            meanwhile, and runs both.
        max_size: what the bundle may take at most: bytes, or ``350MB``.
        max_kld: mean KL divergence from the model in fp32 that it may have at most, in nats; it is measured, then.
        recipe: instead of `quant`: a bundle, its manifest.json, or a JSON file with the ``recipe`` of one, whose formats
            are taken matrix by matrix.
        overwrite: whether a bundle already there is replaced.
        force: whether to go on where the bundle does not fit the target, or memory or disk here seem too small.
        lora_ready: whether LoRA adapters can be switched at run time (see `export_adapter`); it costs three nodes of
            the graph a matrix, also where none is used.
        progress: hears how far it is.

    Raises:
        EdgeLMError: of the kind that fits, with what is wrong and what to do; nothing half-written is left.
    """
    progress = progress or Progress()
    board = target if isinstance(target, Target) else load_target(target)
    if quant is not None and recipe is not None:
        raise OptionError("--quant and --recipe exclude each other: a recipe says how matrices are stored")
    replay = None if recipe is None else read_replay(recipe)
    quant = quant or (board.default if replay is None else replay.quant)
    automatic = replay is None and auto.is_auto(board, quant)
    if replay is not None:
        board = auto.with_recipe(board, quant, replay.spec)
        calibrate = replay.text(None if calibrate is None else os.fspath(calibrate), progress)
    choices = Choices(kv, prefill)
    choices.of(board.recipe("fp32" if automatic else quant), board)  # what cannot be is told before any work
    model, adapter = (None if name is None else os.fspath(name) for name in (model, adapter))
    folder = Path(output) if output is not None else Path("bundles") / _folder(model, adapter, board, quant, choices)
    check_output(folder, overwrite=overwrite)  # before anything is downloaded
    quality = QualityOptions.of(calibrate, card, *([] if model is not None else [str(demo.heldout())]))
    budget, domain = Budget.of(max_size, max_kld), Domain.of(trim_vocab)
    source = resolve(model, revision, progress)
    checkpoint = Checkpoint(source.path, None if adapter is None else open_adapter(adapter, progress))
    cut = (
        None if domain is None else trim(read_text(source.path, checkpoint.config), checkpoint.config, domain, progress)
    )
    route = choose_route(checkpoint, exporter, board, progress, cut)
    route.expect(choices)
    if lora_ready:
        expect_places(route.name, quality.calibrate, None if automatic else board.recipe(quant))
    length = choose_context(context, board, route.context_limit)
    words = read_text(source.path, checkpoint.config) if cut is None else cut.text
    for remark in words.remarks:
        progress.say(remark)
    if replay is not None:
        replay.check(route.decoder)
        for operator in replay.slow(board):
            progress.say(f"the recipe's {operator} falls back to slow kernels on {board.name} (docs/targets.md)")
    planned = board
    if automatic:
        decoder = auto.expect_mixable(route.checkpoint, route.decoder)
        planned = auto.with_recipe(board, quant, auto.smallest(decoder, board))

    def checked(board: Target) -> Footprint:
        return preflight.check(
            preflight.Plan(source.id, board, route.footprint, choices), quant, length, folder, force=force
        )

    if not automatic and replay is None:  # what these take is told exactly, once they are written
        budget.check_size(preflight.Plan(source.id, board, route.footprint, choices), quant, length)
    taken = checked(planned)
    with writing(folder, overwrite=overwrite) as writer, contextlib.ExitStack() as stack:
        text = write_text(words, writer)
        hashes = source_hashes(checkpoint, progress)
        measure = _text_to_measure_on(quality, budget, route, taken, choices.of(planned.recipe(quant), board))

        def write_base(aside: BundleWriter) -> Graph:
            return route.write(Job(board.recipe("fp32"), length, Calibration(None, text, aside, progress))).graph

        card_of = None if measure is None else stack.enter_context(measuring(measure, write_base, writer, progress))

        def write(board: Target, mixed: Mixed | None) -> auto.Written:
            taken = checked(board)
            spec = choices.of(board.recipe(quant), board)
            calibration = Calibration(quality.calibrate, text, writer, progress)
            result = route.write(Job(spec, length, calibration, card_of is not None, lora_ready))
            facts = manifest(source, checkpoint, hashes, board, quant, length, text, result, taken, route.name)
            saved = 0 if cut is None else route.whole(spec).stored - taken.stored
            vocabulary = None if cut is None else replace(cut.facts, saved_bytes=saved)
            facts = replace(facts, mixed=mixed, vocabulary=vocabulary)
            if result.places is not None:
                writer.write_json(LORA, places_file(facts, result.places))
            try:
                return facts, None if card_of is None else card_of(facts, result.errors)
            except EdgeLMError as reason:
                if card != "auto" or budget.kld is not None:
                    raise
                progress.say(f"the bundle has no quality card: {reason}")
                return facts, None

        if automatic:
            facts, found = auto.export(
                GraphPlan(decoder, planned.recipe(quant), board, length, lora_ready),
                route.checkpoint,
                Calibration(quality.calibrate or quality.own, text, writer, progress),
                budget,
                write,
                card=card_of is not None,
                choices=choices,
            )
        else:
            facts, found = write(board, None if replay is None else replay.mixed)
        if found is not None:
            budget.check_quality(found)
            writer.write_json(QUALITY, found)
        budget.check_bundle(quant, sum(entry.stat().st_size for entry in writer.folder.iterdir()))
        return writer.commit(facts, overwrite=overwrite)


def _text_to_measure_on(
    quality: QualityOptions, budget: Budget, route: Route, taken: Footprint, recipe: RecipeSpec
) -> str | None:
    """The text of the quality card, or None for a bundle without one."""
    if quality.card == "auto" and route.name != "native":  # it would be traced twice
        return None if budget.kld is None else quality.own
    return quality.measures(taken.parameters, recipe) or (None if budget.kld is None else quality.own)


def _folder(model: str | None, adapter: str | None, target: Target, quant: str, choices: Choices) -> str:
    """The default name of a bundle's folder."""
    names = [name_of(model), *([] if adapter is None else [name_of(adapter)])]
    return "-".join([*map(slug, names), target.name, quant, *choices.names])

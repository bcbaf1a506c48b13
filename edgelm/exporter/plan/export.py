"""`plan_export`: every decision of an export, and every refusal that needs no weight to be read."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from edgelm import demo
from edgelm.bundle.embedding import Embedding
from edgelm.bundle.reader import ANSWERS
from edgelm.bundle.writer import check_output
from edgelm.errors import OptionError
from edgelm.evaluate.passages import BUILTIN, builtin_in
from edgelm.exporter.calibration.quality import QualityOptions
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.checkpoint.hub import resolve
from edgelm.exporter.checkpoint.hub_model import Source
from edgelm.exporter.checkpoint.sentence_transformers import read_embedding
from edgelm.exporter.compiled_prompt import Beginning, read_beginning
from edgelm.exporter.lora_adapter import expect_places, open_adapter
from edgelm.exporter.mixed import auto
from edgelm.exporter.mixed.budget import Budget
from edgelm.exporter.mixed.replay import Replay, read_replay
from edgelm.exporter.model.decoder import Decoder
from edgelm.exporter.plan.model import ModelPlan, plan_model
from edgelm.exporter.plan.options import ExportOptions
from edgelm.exporter.progress import Progress
from edgelm.exporter.recipe import GraphPlan, keeping_codes
from edgelm.exporter.routes import Route, choose_route
from edgelm.exporter.sizing import preflight
from edgelm.exporter.sizing.footprint import Footprint
from edgelm.exporter.tokenizer.text_files import Text, read_text
from edgelm.exporter.tokenizer.vocabulary import Domain, Trim, trim
from edgelm.target.target import RecipeSpec, Target, load_target


@dataclass(frozen=True)
class RecipePlan:
    """Which recipe a bundle gets.

    Attributes:
        target: the board, which has the recipe; of `automatic` one that stands in for it, the smallest there is.
        quant: its name.
        automatic: whether a format is chosen for every matrix, once it is known what each loses.
        replay: what it was read from, or None.
    """

    target: Target
    quant: str
    automatic: bool = False
    replay: Replay | None = None

    @property
    def spec(self) -> RecipeSpec:
        """The recipe itself."""
        return self.target.recipe(self.quant)


@dataclass(frozen=True)
class ExportPlan:
    """What an export is going to do.

    Attributes:
        options: what was asked for.
        output: folder of the bundle.
        model: the model for its target, whatever the recipe.
        recipe: which one.
        checkpoint: the weights as they were given, for the manifest.
        cut: what is left of a trimmed vocabulary; None for all of it.
        quality: texts to calibrate and to measure on.
        budget: limits.
        taken: what the model takes.
        measure: the text of the quality card, or None for a bundle without one.
        embedding: how texts become vectors, of a bundle for that.
        beginning: of prompts, to be read while the bundle is made, or None.
    """

    options: ExportOptions
    output: Path
    model: ModelPlan
    recipe: RecipePlan
    checkpoint: Checkpoint
    cut: Trim | None
    quality: QualityOptions
    budget: Budget
    taken: Footprint
    measure: str | None
    embedding: Embedding | None = None
    beginning: Beginning | None = None

    def spec(self, target: Target) -> RecipeSpec:
        """The recipe that a target has under the plan's name, with the choices made whatever the recipe."""
        return self.model.sizes.choices.of(target.recipe(self.recipe.quant), target)

    def check(self, target: Target) -> Footprint:
        """What the model takes in the recipe that a target has under the plan's name; raises as `preflight.check` does."""
        sizes = replace(self.model.sizes, target=target)
        return preflight.check(sizes, self.recipe.quant, self.model.context, self.output, force=self.options.force)

    def graph(self, decoder: Decoder) -> GraphPlan:
        """Of the native graph."""
        return GraphPlan(decoder, self.recipe.spec, self.model.route.target, self.model.context, self.model.lora_ready)


def plan_export(options: ExportOptions, progress: Progress) -> ExportPlan:
    """Decide all, and refuse what cannot be; nothing is written but what the hub's cache keeps of a download.

    Raises:
        EdgeLMError: of the kind that fits, with what is wrong and what to do.
    """
    recipe, calibrate = _choose_recipe(options, progress)
    _expect_task(options, automatic=recipe.automatic)
    beginning = None if options.compile_prompt is None else read_beginning(Path(options.compile_prompt))
    output = options.folder(recipe.target, recipe.quant)
    check_output(output, overwrite=options.overwrite)  # before anything is downloaded
    own = BUILTIN if options.language is None else builtin_in(options.language.split(","))
    if options.model is None and options.language is None:
        own = str(demo.heldout())
    quality = QualityOptions.of(calibrate, options.card, own)
    budget, domain = Budget.of(options.max_size, options.max_kld), Domain.of(options.trim_vocab)
    source, checkpoint = _open(options, progress)
    text, cut = _text(source, checkpoint, options, progress), None
    if domain is not None:
        cut = trim(text, checkpoint.config, domain, progress)
        text = cut.text
    route = choose_route(checkpoint, options.exporter, recipe.target, cut)
    embedding = None
    if options.task == "embedding":
        route, embedding = route.without_head(), _embedding(source, progress)
    if options.lora_ready:
        expect_places(route.name)
    chosen = options.choices
    if not (recipe.automatic or recipe.replay):
        chosen = keeping_codes(chosen, route.checkpoint, route.decoder)
    model = plan_model(
        source,
        route,
        text,
        chosen,
        context=options.context,
        lora_ready=options.lora_ready,
        progress=progress,
    )
    recipe = _suited(recipe, route, progress)
    spec, graph = chosen.of(recipe.spec, recipe.target), None
    if route.decoder is not None and route.checkpoint.scheme is None:
        graph = GraphPlan(route.decoder, spec, recipe.target, model.context, options.lora_ready)
    quality = quality.settled(graph, route.checkpoint, text.tokenizer, progress, mixed=recipe.automatic)
    route.require(progress)
    if not recipe.automatic and recipe.replay is None:  # what these take is told exactly, once they are written
        budget.check_size(model.sizes, recipe.quant, model.context)
    sizes = replace(model.sizes, target=recipe.target)
    taken = preflight.check(sizes, recipe.quant, model.context, output, force=options.force)
    measure = _text_to_measure_on(quality, budget, route, taken.parameters, spec)
    return ExportPlan(
        options, output, model, recipe, checkpoint, cut, quality, budget, taken, measure, embedding, beginning
    )


def _expect_task(options: ExportOptions, *, automatic: bool) -> None:
    """OptionError for no task, or options that do not go with embeddings."""
    if options.task not in ("generate", "embedding"):
        raise OptionError(f"task must be generate or embedding, not {options.task!r}")
    if options.task == "generate":
        return
    asked = {"--quant auto": automatic, "--max-kld": options.max_kld is not None, "--lora-ready": options.lora_ready}
    asked["--compile-prompt"] = options.compile_prompt is not None
    asked["--card"] = options.card not in (None, "none", "auto")
    for name, given in asked.items():
        if given:
            raise OptionError(f"{name} and --task embedding exclude each other", hint=f"leave {name} out")


def _embedding(source: Source, progress: Progress) -> Embedding:
    """How the checkpoint says that it pools."""
    found = read_embedding(source.path)
    if found is None:
        progress.say("no modules.json says how the model pools: the last token's hidden state, scaled to length 1")
    return found or Embedding(pooling="last", normalized=True)


def _choose_recipe(options: ExportOptions, progress: Progress) -> tuple[RecipePlan, str | None]:
    """The recipe, and the text to calibrate on."""
    target = options.target if isinstance(options.target, Target) else load_target(options.target)
    calibrate = None if options.calibrate is None else os.fspath(options.calibrate)
    if options.quant is not None and options.recipe is not None:
        raise OptionError("--quant and --recipe exclude each other: a recipe says how matrices are stored")
    if options.recipe is None:
        quant = options.quant or target.default
        found = RecipePlan(target, quant, auto.is_auto(target, quant))
    else:
        replay = read_replay(options.recipe)
        quant = options.quant or replay.quant
        found = RecipePlan(auto.with_recipe(target, quant, replay.spec), quant, replay=replay)
        calibrate = replay.text(calibrate, progress)
    options.choices.of(target.recipe("fp32") if found.automatic else found.spec, target)  # told before any work
    return found, calibrate


def _open(options: ExportOptions, progress: Progress) -> tuple[Source, Checkpoint]:
    """The checkpoint, with the adapter that is merged into it."""
    model = None if options.model is None else os.fspath(options.model)
    source = resolve(model, options.revision, progress, file=options.file)
    adapter = None if options.adapter is None else open_adapter(os.fspath(options.adapter), progress)
    return source, Checkpoint(source.path, adapter)


def _text(source: Source, checkpoint: Checkpoint, options: ExportOptions, progress: Progress) -> Text:
    """Tokenizer and what belongs to it; the grammar of answers where they will be those that it was made for."""
    text = read_text(source.path, checkpoint.config)
    if text.answers is None or (options.adapter is None and options.task == "generate"):
        return text
    if options.adapter is not None:
        progress.say(f"the model's {ANSWERS} is left out: with an adapter its answers may be others")
    return replace(text, answers=None)


def _suited(recipe: RecipePlan, route: Route, progress: Progress) -> RecipePlan:
    """The recipe for this model.

    Raises:
        ExportError: it was made for another one, or nothing can be chosen for this one.
        UnsupportedModelError: there is nothing to choose on Optimum's export path.
    """
    if (replay := recipe.replay) is not None:
        replay.check(route.decoder)
        for operator in replay.slow(recipe.target):
            name = recipe.target.name
            progress.say(f"the recipe's {operator} falls back to slow kernels on {name} (docs/notes/targets.md)")
    if not recipe.automatic:
        return recipe
    decoder = auto.expect_mixable(route.checkpoint, route.decoder)
    smallest = auto.smallest(decoder, recipe.target)
    return replace(recipe, target=auto.with_recipe(recipe.target, recipe.quant, smallest))


def _text_to_measure_on(
    quality: QualityOptions, budget: Budget, route: Route, parameters: int, spec: RecipeSpec
) -> str | None:
    """The text of the quality card, or None for a bundle without one."""
    if route.decoder is not None and route.decoder.headless:  # there are no probabilities to compare
        return None
    if quality.card == "auto" and route.decoder is None:  # it would be traced twice
        return None if budget.kld is None else quality.own
    return quality.measures(parameters, spec) or (None if budget.kld is None else quality.own)

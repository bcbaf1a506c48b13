"""The whole conversion on one page: plan, write the text, write the graph or search for its recipe, commit."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from typing import Any, Literal

from edgelm.bundle.manifest import Graph, Manifest
from edgelm.bundle.origins import Mixed
from edgelm.bundle.reader import LORA, QUALITY, Bundle
from edgelm.bundle.writer import BundleWriter, writing
from edgelm.errors import EdgeLMError, expect_type, names_keywords
from edgelm.exporter.calibration.quality import Calibration, Card, measuring
from edgelm.exporter.compiled_prompt import write_prompt
from edgelm.exporter.lora_adapter import places_file
from edgelm.exporter.manifest import Origin, manifest, source_hashes
from edgelm.exporter.mixed import auto
from edgelm.exporter.plan.export import ExportPlan, plan_export
from edgelm.exporter.plan.options import ExportOptions, Task
from edgelm.exporter.progress import Progress
from edgelm.exporter.result import GraphResult
from edgelm.exporter.routes import Exporter, Job
from edgelm.exporter.tokenizer.vocabulary import Wanted
from edgelm.target.target import Target


@names_keywords
def export(
    model: str | os.PathLike[str] | None = None,
    target: str | os.PathLike[str] | Target = "rpi5",
    quant: str | None = None,
    *,
    revision: str | None = None,
    file: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
    context: int | None = None,
    output: str | os.PathLike[str] | None = None,
    exporter: Exporter = "auto",
    trim_vocab: Wanted = None,
    kv: Literal["float", "int8"] | None = None,
    prefill: Literal["same", "int8"] | None = None,
    calibrate: str | os.PathLike[str] | None = None,
    language: str | None = None,
    card: str | os.PathLike[str] | None = None,
    max_size: int | str | None = None,
    max_kld: float | None = None,
    recipe: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    force: bool = False,
    lora_ready: bool = False,
    task: Task = "generate",
    compile_prompt: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Convert a checkpoint into a bundle for a target.

    Args:
        model: a folder, a GGUF file, a hub id (``owner/name:Q4_K_M`` for a GGUF file there), or None for the embedded
            default.
        target: a name, a TOML file, or a `Target`.
        quant: ``int4``, ``int8``, ``fp16``, ``fp32`` or another recipe of the target; None is its default. ``auto``
            chooses a format for every matrix, so that the bundle keeps `max_size` with the least KL divergence, or
            `max_kld` with the fewest bytes; without either it takes no more than the target's default.
        revision: branch, tag or commit of a model from the hub; None is its main branch.
        file: of a model from the hub, the GGUF file to take.
        adapter: a LoRA adapter in PEFT's layout to merge into the weights: a folder, or a hub id.
        context: longest prompt plus answer in tokens; None is the target's choice, at most what the model was made for.
        output: folder of the bundle; None is ``./bundles/<model>-<target>-<quant>``.
        exporter: ``native`` for families edgelm knows, ``optimum`` for the others, ``auto`` chooses.
        trim_vocab: what the vocabulary is cut to: text files, folders of them, or codes of languages such as ``en,de``;
            one or several of these, and what any of them needs stays. None keeps all of it.
        kv: type of the KV cache: ``float``, or ``int8``, which takes a quarter of the memory; None is the recipe's
            choice. Scales are found on the text of `calibrate`, or on edgelm's own.
        prefill: the prefill graph: the ``same`` matrices as decode, or ``int8``, a second set of them, which is faster
            and takes one more byte per weight on disk. None is the recipe's choice.
        calibrate: a text file to calibrate on, or ``builtin`` for edgelm's own sample: GPTQ, and for 8 bits
            SmoothQuant before. None or ``auto`` calibrates on the sample where that takes minutes at
            most (None with a `recipe`: as it was made; of the embedded model, which was trained for its rounding, none);
            ``none`` chooses all scales without data, the quick way.
        language: codes such as ``de,fr`` of the languages that edgelm's own sample has beside English and code to
            calibrate on, and to measure on alone; None is those that the tokenizer was made for, and English.
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
        task: ``embedding`` for a bundle whose graph ends with the last hidden states, pooled as the checkpoint's
            modules.json says (`LM.embed`); of native families.
        compile_prompt: a file with the beginning of prompts, which is read now, so that those who use the bundle need
            not: a system prompt as text (raw text for a model without a chat template), or a JSON object (``.json``) with
            ``system``, ``tools`` and ``messages``, or with ``raw``.
        progress: is called with how far it is.

    Raises:
        EdgeLMError: of the kind that fits, with what is wrong and what to do; nothing half-written is left.
    """
    progress = Progress() if progress is None else progress
    expect_type("progress", progress, Progress, "a Progress")
    options = ExportOptions(
        model=model,
        target=target,
        quant=quant,
        revision=revision,
        file=file,
        adapter=adapter,
        context=context,
        output=output,
        exporter=exporter,
        trim_vocab=trim_vocab,
        kv=kv,
        prefill=prefill,
        calibrate=calibrate,
        language=language,
        card=card,
        max_size=max_size,
        max_kld=max_kld,
        recipe=recipe,
        overwrite=overwrite,
        force=force,
        lora_ready=lora_ready,
        task=task,
        compile_prompt=compile_prompt,
    )
    plan = plan_export(options, progress)
    with writing(plan.output, overwrite=overwrite) as writer, contextlib.ExitStack() as stack:
        plan.model.text.write(writer)
        hashes = source_hashes(plan.checkpoint, progress)
        origin = Origin(plan.model.source, plan.checkpoint, hashes, plan.model.route.name)
        work, measure = _Work(plan, origin, writer, progress), None
        if plan.measure is not None:
            measure = stack.enter_context(measuring(plan.measure, work.write_exact, writer, progress))
        facts, card_found = work.search(measure) if plan.recipe.automatic else work.write_planned(measure)
        if card_found is not None:
            plan.budget.check_quality(card_found)
            writer.write_json(QUALITY, card_found)
        if plan.beginning is not None:
            facts = write_prompt(plan.beginning, facts, writer, progress)
        plan.budget.check_bundle(plan.recipe.quant, sum(entry.stat().st_size for entry in writer.folder.iterdir()))
        return writer.commit(facts, overwrite=overwrite)


@dataclass(frozen=True)
class _Work:
    """An export under way.

    Attributes:
        plan: what it does.
        origin: what the bundle is made from.
        writer: of the bundle.
        progress: is called with how far it is.
    """

    plan: ExportPlan
    origin: Origin
    writer: BundleWriter
    progress: Progress

    def write_exact(self, aside: BundleWriter) -> Graph:
        """Write the model in fp32; its graph, which the manifest of the other does not describe."""
        model = self.plan.model
        calibration = Calibration(None, model.text, aside, self.progress)
        return model.route.write(Job(model.route.target.recipe("fp32"), model.context, calibration)).graph

    def write_planned(self, measure: Card | None) -> auto.Written:
        """Write the recipe of the plan."""
        recipe = self.plan.recipe
        return self.write(recipe.target, None if recipe.replay is None else recipe.replay.mixed, measure)

    def search(self, measure: Card | None) -> auto.Written:
        """Write the recipe that serves the budget best."""
        plan, route = self.plan, self.plan.model.route
        assert route.decoder is not None
        quality = plan.quality
        return auto.export(
            plan.graph(route.decoder),
            route.checkpoint,
            Calibration(quality.calibrate or quality.own, plan.model.text, self.writer, self.progress),
            plan.budget,
            lambda target, mixed: self.write(target, mixed, measure),
            card=measure is not None,
            calibrates=quality.calibrate is not None,
            choices=plan.model.sizes.choices,
        )

    def write(self, target: Target, mixed: Mixed | None, measure: Card | None) -> auto.Written:
        """Write graph and weights in the recipe that a target has under the plan's name; `mixed` is how it was chosen."""
        plan, model, route = self.plan, self.plan.model, self.plan.model.route
        taken = plan.taken if target is plan.recipe.target else plan.check(target)
        spec = plan.spec(target)
        calibration = Calibration(plan.quality.calibrate, model.text, self.writer, self.progress)
        result = route.write(Job(spec, model.context, calibration, measure is not None, model.lora_ready))
        facts = manifest(self.origin, target, plan.recipe.quant, model.context, model.text, result, taken)
        if plan.cut is not None:
            saved = route.whole_footprint(spec).stored - taken.stored
            facts = replace(facts, vocabulary=replace(plan.cut.facts, saved_bytes=saved))
        facts = replace(facts, mixed=mixed, embedding=plan.embedding)
        if result.places is not None:
            self.writer.write_json(LORA, places_file(facts, result.places))
        return facts, None if measure is None else self._measured(measure, facts, result)

    def _measured(self, measure: Card, facts: Manifest, result: GraphResult) -> dict[str, Any] | None:
        """The quality card; None where it was not asked for in so many words and cannot be made, which is told."""
        try:
            return measure(facts, result.errors)
        except EdgeLMError as reason:
            if self.plan.options.card != "auto" or self.plan.budget.kld is not None:
                raise
            self.progress.say(f"the bundle has no quality card: {reason}")
            return None

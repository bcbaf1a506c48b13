"""How a checkpoint becomes a graph: the native export path of families that are known, or Optimum's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from edgelm.errors import CheckpointError, ExportError, OptionError, UnsupportedModelError
from edgelm.exporter import families, genai, native
from edgelm.exporter.calibration.quality import Calibration, prepared, with_kv_scales
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.checkpoint.lora import MERGE
from edgelm.exporter.families.common import TRY_OPTIMUM
from edgelm.exporter.model.decoder import Decoder
from edgelm.exporter.model.expected import expect_tensors
from edgelm.exporter.model.weights import WeightReader
from edgelm.exporter.progress import Progress
from edgelm.exporter.recipe import Choices, GraphPlan, quantised_kv
from edgelm.exporter.result import GraphResult
from edgelm.exporter.sizing import footprint
from edgelm.exporter.sizing.context import context_limit
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
    """The path that a checkpoint takes to a graph for a target: the native one where it has a decoder, else Optimum's.

    Attributes:
        checkpoint: what its weights are read from; the rows that stay where the vocabulary is trimmed.
        target: the board.
        decoder: what the model is then, on the native export path.
        whole: the same with its whole vocabulary.
        rows: the tokens that stay, on Optimum's export path; None for all.
        reason: why the native export path could not be taken; None where it was, or was not asked for.
    """

    checkpoint: Checkpoint
    target: Target
    decoder: Decoder | None = None
    whole: Decoder | None = None
    rows: np.ndarray | None = None
    reason: UnsupportedModelError | None = None

    @property
    def name(self) -> str:
        """``native`` or ``optimum``."""
        return "optimum" if self.decoder is None else "native"

    @property
    def context_limit(self) -> int:
        """The longest context in tokens."""
        return context_limit(self.checkpoint.config) if self.decoder is None else self.decoder.context_limit

    def footprint(self, spec: RecipeSpec) -> Footprint:
        """What the model takes in a recipe."""
        return self._footprint(self.decoder, None if self.rows is None else len(self.rows), spec)

    def whole_footprint(self, spec: RecipeSpec) -> Footprint:
        """The same with its whole vocabulary, where that is trimmed."""
        return self._footprint(self.whole, None, spec)

    def expect(self, choices: Choices, progress: Progress) -> None:
        """Whether this path can go with what is chosen, as far as the checkpoint's headers tell.

        Raises:
            UnsupportedModelError: what is chosen is for the native export path alone.
            CheckpointError: a tensor is missing, of another shape, or has no place in the model.
        """
        kinds = (
            ("kv", choices.kv, "keep the KV cache as floats"),
            ("prefill", choices.prefill, "prefill as they decode"),
        )
        for name, chosen, instead in kinds:
            if chosen == "int8" and self.decoder is None:
                raise UnsupportedModelError(
                    f"{self.checkpoint.path}: model type {self.checkpoint.config.model_type!r} goes through Optimum, "
                    f"whose graphs {instead}",
                    hint=f"leave out --{name} int8",
                )
        for remark in self.checkpoint.remarks:
            progress.say(remark)
        if self.decoder is not None:
            expect_tensors(self.checkpoint, self.decoder, progress)

    def without_head(self) -> Route:
        """To a graph that ends with the last hidden states.

        Raises:
            UnsupportedModelError: the model goes through Optimum, whose graphs end with logits.
        """
        if self.decoder is None or self.whole is None:
            raise self.reason or UnsupportedModelError(
                f"{self.checkpoint.path}: --task embedding is for native families", hint="leave out --exporter optimum"
            )
        return replace(self, decoder=self.decoder.without_head(), whole=self.whole.without_head())

    def require(self, progress: Progress) -> None:
        """DependencyError where what writes the graph is not installed."""
        if self.decoder is not None:
            return
        from edgelm.exporter.optimum import route  # here, so that the native export path stands without it

        progress.say(f"exporting through Optimum: {self.reason or 'as asked'}")
        route.require()

    def write(self, job: Job) -> GraphResult:
        """Write model.onnx and what belongs to it; what was written."""
        return self._write_traced(job) if self.decoder is None else self._write_native(job, self.decoder)

    def _footprint(self, decoder: Decoder | None, tokens: int | None, spec: RecipeSpec) -> Footprint:
        if decoder is None:
            return footprint.of_checkpoint(self.checkpoint, spec, self.target, tokens)
        return footprint.of_decoder(decoder, spec, self.target, self.checkpoint.scheme)

    def _write_native(self, job: Job, decoder: Decoder) -> GraphResult:
        plan = GraphPlan(decoder, job.spec, self.target, job.context, job.lora_ready)
        writer, progress = job.calibration.writer, job.calibration.progress
        with prepared(plan, WeightReader(self.checkpoint), job.calibration) as weights:
            weights = with_kv_scales(plan, weights, job.calibration)
            result = native.write_graph(plan, self.checkpoint, writer, progress, weights, errors=job.errors)
        if not decoder.headless:  # onnxruntime-genai knows graphs that generate
            writer.write_json(genai.CONFIG, genai.config(plan, result.graph, job.calibration.text))
        return result

    def _write_traced(self, job: Job) -> GraphResult:
        from edgelm.exporter.optimum import route

        progress = job.calibration.progress
        if job.calibration.wanted is not None:
            progress.say("only native families are calibrated: scales are searched without data")
        if quantised_kv(job.spec):
            progress.say("only native families keep keys and values as int8: here they are floats")
        if job.spec.prefill is not None:
            progress.say("only native families have a graph of their own for prompts: here decode's reads them")
        try:
            return route.write_graph(
                self.checkpoint, self.target, job.spec, job.calibration.writer, progress, self.rows
            )
        except ExportError as error:
            if self.reason is None:
                raise
            hint = (self.reason.hint or "").removeprefix(TRY_OPTIMUM).removeprefix(", or ")  # which was tried just now
            raise ExportError(f"{error}; and {self.reason}", hint=hint or error.hint) from None


def choose_route(checkpoint: Checkpoint, exporter: Exporter, target: Target, cut: Trim | None = None) -> Route:
    """The native export path where a family can describe this model, else Optimum's.

    Raises:
        UnsupportedModelError: it is no language model; no family describes it, and the native export path is asked for;
            or an adapter is to be merged into a model that goes through Optimum.
        CheckpointError: its vocabulary is not what is trimmed.
    """
    if exporter not in ("auto", "native", "optimum"):
        raise OptionError(f"exporter must be auto, native or optimum, not {exporter!r}")
    checkpoint.expect_generator()
    if checkpoint.gguf is not None:
        if exporter == "optimum":
            raise UnsupportedModelError(
                f"{checkpoint.path}: Optimum cannot read a GGUF file", hint="leave out --exporter optimum"
            )
        exporter = "native"
    if exporter == "optimum":
        return _optimum_route(checkpoint, target, cut, None)
    try:
        return _native_route(checkpoint, families.describe(checkpoint.config), target, cut)
    except UnsupportedModelError as reason:
        if exporter == "native":
            raise
        return _optimum_route(checkpoint, target, cut, reason)


def _native_route(checkpoint: Checkpoint, whole: Decoder, target: Target, cut: Trim | None) -> Route:
    if cut is None:
        return Route(checkpoint, target, whole, whole)
    if whole.vocab != cut.vocab:
        raise CheckpointError(f"{checkpoint.path}: config.json says {cut.vocab:,} and {whole.vocab:,} for vocab_size")
    rows = checkpoint.picking(whole.vocab_tensors, cut.rows)
    return Route(rows, target, whole.with_vocab(len(cut.rows)), whole)


def _optimum_route(
    checkpoint: Checkpoint, target: Target, cut: Trim | None, reason: UnsupportedModelError | None
) -> Route:
    """Optimum's; `reason` is why the native export path could not be taken, None where it was not asked for."""
    if checkpoint.adapter is not None:
        raise UnsupportedModelError(
            f"{checkpoint.path}: model type {checkpoint.config.model_type!r} goes through Optimum, "
            "where an adapter cannot be merged",
            hint=MERGE,
        )
    return Route(checkpoint, target, rows=None if cut is None else cut.rows, reason=reason)

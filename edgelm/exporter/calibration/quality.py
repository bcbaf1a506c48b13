"""What an export does for quality besides rounding: calibration on a text before, measuring on another one after.

The base of a quality card is the same checkpoint in fp32, written beside the bundle and taken away again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from edgelm.bundle import origins
from edgelm.bundle.manifest import Graph, Manifest
from edgelm.bundle.origins import KVCalibration, Text
from edgelm.bundle.reader import TEMPLATE, TOKENIZER
from edgelm.bundle.writer import BundleWriter
from edgelm.evaluate.passages import (
    BUILTIN,
    Passages,
    builtin_in,
    fluent_languages,
    is_builtin,
    load_passages,
    mixed_chunks,
    starting_token,
)
from edgelm.exporter import recipe
from edgelm.exporter.calibration import calibrate, kvscales, smooth
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.formats.registry import make_format
from edgelm.exporter.model.decoder import Decoder
from edgelm.exporter.model.weights import WeightReader
from edgelm.exporter.progress import Progress
from edgelm.exporter.recipe import GraphPlan
from edgelm.exporter.tokenizer.text_files import TextFiles
from edgelm.files import aside
from edgelm.machine.host import read_memory
from edgelm.runtime.text.prompt import open_text
from edgelm.target.target import FormatSpec, RecipeSpec

BY_DEFAULT = True  # whether a model is calibrated without being asked
LONGEST = 600.0  # seconds that this may take
TOKENS = 8192  # of calibration text at most: a quarter more brings nothing that shows
MIXED_TOKENS = 14_336  # of it for a mixture of formats: an eighth less is lost, and time was taken already
CHUNK = 512  # tokens that are one text to the calibration
CARD_CHUNKS = 16  # of a quality card's text at most
SMALL = 16_000_000  # parameters of a model that is measured without being asked: it takes seconds

AUTO = "auto"  # in place of a text

_FEW = 4096  # tokens of calibration text that are worth a word
_LONG = 30.0  # seconds of calibration that are told beforehand
_SHORT = 128  # tokens of a chunk of a language's text, of which there is little
_COARSE = 128  # weights of a 4-bit block that had better be calibrated


@dataclass(frozen=True)
class QualityOptions:
    """What is wanted beside the bundle itself; texts are names as `load_passages` takes them.

    Attributes:
        calibrate: text to calibrate on, or None; ``auto`` for one that suits the model where that takes minutes at most.
        card: text to measure on, or None; ``auto`` for `own` where that is cheap.
        own: the text that suits the model.
    """

    calibrate: str | None = None
    card: str | None = None
    own: str = BUILTIN

    @classmethod
    def of(
        cls, calibrate: str | os.PathLike[str] | None, card: str | os.PathLike[str] | None, own: str = BUILTIN
    ) -> QualityOptions:
        """From the options, where ``none`` is as good as no card, and None as ``auto`` to calibrate; a text that cannot be
        read is told at once. What has a text of its `own` was made for its rounding, and is calibrated on demand alone.

        Raises:
            EdgeLMError: see `load_passages`.
        """
        if calibrate is None and BY_DEFAULT and is_builtin(own):
            calibrate = AUTO
        names = [None if name is None or str(name) == "none" else os.fspath(name) for name in (calibrate, card)]
        names = [own if name == BUILTIN and is_builtin(own) else name for name in names]
        for name in names:
            if name is not None and name != AUTO:
                load_passages(name, "calibration")
        return cls(names[0], names[1], own)

    def settled(
        self, plan: GraphPlan | None, checkpoint: Checkpoint, tokenizer: Tokenizer, progress: Progress, *, mixed: bool
    ) -> QualityOptions:
        """With the text that ``auto`` stands for: edgelm's own in the languages that the tokenizer was made for.

        None where nothing would be calibrated, and where it would take too long or too much memory here, which is told.

        Args:
            plan: of the graph; None where a model is not exported natively, or is quantised already.
            checkpoint: its weights.
            tokenizer: of the model.
            progress: is told.
            mixed: whether formats are yet to be chosen.
        """
        chosen = self.calibrate
        if chosen == AUTO:
            chosen = None
            if plan is not None and (mixed or _gains(plan, WeightReader(checkpoint))):
                cost = CalibrationCost.of(plan.decoder, MIXED_TOKENS if mixed else _tokens(plan))
                chosen = self._affordable(cost, tokenizer, progress)
        if chosen is None and plan is not None and _coarse(plan.spec.body):
            progress.say(
                f"blocks of {plan.spec.body.block} lose twice as much without calibration: --quant int4 has finer ones"
            )
        return replace(self, calibrate=chosen)

    def _affordable(self, cost: CalibrationCost, tokenizer: Tokenizer, progress: Progress) -> str | None:
        """The text that suits a model, or None, which is told, where there is not the time or memory."""
        if (reason := cost.too_much) is not None:
            progress.say(f"not calibrated, since that takes {reason}: --calibrate builtin does it all the same")
            return None
        if self.own != BUILTIN:
            return self.own
        return builtin_in(fluent_languages(lambda text: tokenizer.encode(text, add_special_tokens=False).ids))

    def measures(self, parameters: int, spec: RecipeSpec) -> str | None:
        """The text to measure a model on, or None; ``auto`` measures small ones, as others take time and memory."""
        if self.card != "auto":
            return self.card
        exact = make_format(spec.body).exact and not recipe.quantised_kv(spec)
        return None if exact or parameters > SMALL else self.own


def _gains(plan: GraphPlan, reader: WeightReader) -> bool:
    """Whether a recipe gains from calibration."""
    return calibrate.worthwhile(reader, plan.decoder, plan.formats) or (
        smooth.worthwhile(reader, plan.decoder, plan.formats) and not plan.lora_ready
    )


def _tokens(plan: GraphPlan) -> int:
    """Of calibration text at most."""
    return MIXED_TOKENS if recipe.is_mixture(plan.spec, plan.decoder) else TOKENS


def _coarse(spec: FormatSpec) -> bool:
    """Whether weights in this format had better be calibrated."""
    return spec.bits == 4 and spec.rounding is None and (spec.block or 0) >= _COARSE


@dataclass(frozen=True)
class CalibrationCost:
    """What calibration takes on this machine, about.

    Attributes:
        seconds: of time.
        memory: in bytes.
    """

    seconds: float
    memory: int

    @classmethod
    def of(cls, decoder: Decoder, tokens: int) -> CalibrationCost:
        """Of a model, on so much text."""
        return cls(calibrate.seconds(decoder, tokens), calibrate.memory(decoder, tokens))

    @property
    def too_much(self) -> str | None:
        """Time or memory, in words, where that is more than there is for what nobody asked for."""
        there = read_memory().usable
        if self.seconds > LONGEST:
            return f"about {self.seconds / 60:.0f} minutes here"
        if there is not None and self.memory > there:
            return f"about {self.memory / 1e6:,.0f} MB of memory, and {there / 1e6:,.0f} MB are free"
        return None


def calibration_cost(plan: GraphPlan, checkpoint: Checkpoint) -> CalibrationCost | None:
    """What the calibration of an export takes; None where it gains nothing, and for what is quantised already."""
    gains = checkpoint.scheme is None and _gains(plan, WeightReader(checkpoint))
    return CalibrationCost.of(plan.decoder, _tokens(plan)) if gains else None


@dataclass(frozen=True)
class Calibration:
    """The text that an export chooses scales on, and what the model reads it with.

    Attributes:
        wanted: the text's name, as `load_passages` takes it; None where weights are not calibrated.
        text: what was written of tokenizer and template.
        writer: of the bundle; what waits for the export's end waits in hidden folders beside it.
        progress: is called with every step.
    """

    wanted: str | None
    text: TextFiles
    writer: BundleWriter
    progress: Progress

    def chunks(
        self, passages: Passages, decoder: Decoder, chunk: int, most: int, *, talks: bool = False
    ) -> list[np.ndarray]:
        """A text as ids, int64 [chunk] each, `most` in all; more of its conversations, and its short answers, where the model
        `talks`.

        Raises:
            OptionError: it is shorter than a chunk.
        """
        path, text = self.writer.path(TEMPLATE), self.text
        source = path.read_text(encoding="utf-8") if path.exists() else None
        tokenizer, template = open_text(self.writer.path(TOKENIZER), source, text.tokenizer, text.special_tokens)

        def ids(part: Passages) -> list[int]:
            return [token for token in part.encode(tokenizer, template) if token < decoder.vocab]

        told, plain = map(ids, passages.by_kind()) if talks and template is not None else ([], ids(passages))
        chunks = mixed_chunks(told, plain, chunk, most, starting_token(tokenizer))
        enough = min(_FEW, most)
        if (tokens := sum(map(len, chunks))) < enough:
            self.progress.say(
                f"the calibration text has only {tokens:,} usable tokens: {enough:,} or more serve better"
            )
        return chunks

    def folder(self, purpose: str) -> AbstractContextManager[Path]:
        """A hidden folder beside the bundle, gone when its context is left."""
        return aside(self.writer.output, purpose)


@contextmanager
def prepared(plan: GraphPlan, reader: WeightReader, calibration: Calibration) -> Iterator[calibrate.Prepared]:
    """The weights to export, calibrated as far as the recipe gains from it.

    Where adapters have a place no inputs of matrices are scaled: they would not know of it. Matrices rounded already
    wait in a folder beside the bundle, which is gone when the context is left.

    Raises:
        OptionError: the text is shorter than a chunk.
    """
    decoder, formats, progress = plan.decoder, plan.formats, calibration.progress
    if calibration.wanted is None:
        yield calibrate.Prepared(reader)
        return
    rounds, smooths = calibrate.worthwhile(reader, decoder, formats), smooth.worthwhile(reader, decoder, formats)
    if smooths and plan.lora_ready:
        progress.say("activations stay uneven: adapters would not know of what evens them")
        smooths = False
    if not (rounds or smooths):
        progress.say("calibration serves matrices of 4 and 8 bits, and this recipe has none")
        yield calibrate.Prepared(reader)
        return
    passages = load_passages(calibration.wanted, "calibration")
    chunks = calibration.chunks(passages, decoder, min(CHUNK, plan.context), _tokens(plan), talks=True)
    on, tokens = Text(passages.name, passages.sha256), sum(map(len, chunks))
    _tell_time(calibrate.seconds(decoder, tokens), progress)
    _tell_memory("calibration", calibrate.memory(decoder, tokens), progress)
    with calibration.folder("calibrating") as folder:
        smoothed: int | None = None
        if smooths:
            even = smooth.smooth(reader, decoder, formats, chunks, Path(folder), progress)
            reader = WeightReader(reader.checkpoint, even.smoothing)
            smoothed = len(even.after)
        found = calibrate.calibrate(reader, decoder, formats, chunks, Path(folder), progress)
        if found.left:
            more = f" and {len(found.left) - 1} more" if len(found.left) > 1 else ""
            progress.say(f"the text says nothing about {found.left[0]}{more}: scales searched without data instead")
        done = origins.Calibration(
            method="gptq", matrices=len(found.matrices), smoothed=smoothed, text=on, tokens=tokens
        )
        yield calibrate.Prepared(reader, found, done)


def with_kv_scales(plan: GraphPlan, weights: calibrate.Prepared, calibration: Calibration) -> calibrate.Prepared:
    """The weights, and the scales of keys and values where the recipe has an int8 cache; without a text `wanted` they
    are found on edgelm's own.

    Raises:
        OptionError: the text is shorter than a chunk.
    """
    if not plan.quantised_kv:
        return weights
    decoder, progress = plan.decoder, calibration.progress
    passages = load_passages(calibration.wanted or BUILTIN, "calibration")
    chunks = calibration.chunks(passages, decoder, min(CHUNK, plan.context), kvscales.TOKENS)
    _tell_memory("finding the scales of the int8 KV cache", kvscales.memory(decoder), progress)
    with calibration.folder("ranges") as folder:
        scales = kvscales.find_scales(
            weights.reader, decoder, plan.formats, chunks, plan.context, Path(folder), progress
        )
    facts = KVCalibration(Text(passages.name, passages.sha256), sum(map(len, chunks)))
    return replace(weights, kv=kvscales.KVRanges(scales, facts))


def _tell_time(seconds: float, progress: Progress) -> None:
    """A word where one has to wait."""
    if seconds >= _LONG:
        wait = f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"
        progress.say(
            f"calibrating takes about {wait} if nothing else runs here; --calibrate none goes without, and answers get worse"
        )


def _tell_memory(what: str, needed: int, progress: Progress) -> None:
    """A word where less memory is free than this takes."""
    there = read_memory().usable
    if there is not None and needed > there:
        progress.say(f"{what} takes about {needed / 1e6:,.0f} MB of memory, and {there / 1e6:,.0f} MB are free")


Card = Callable[[Manifest, Mapping[str, Mapping[str, Any]]], dict[str, Any]]
"""(the manifest of an unfinished bundle, the errors of its matrices) → its quality card."""


@contextmanager
def measuring(
    wanted: str, write_base: Callable[[BundleWriter], Graph], writer: BundleWriter, progress: Progress
) -> Iterator[Card]:
    """What measures an unfinished bundle, as often as it is written, on the text `wanted`.

    The model in fp32 is written beside it when it is first needed, and gone when the context is left.

    Args:
        wanted: the text.
        write_base: writes the model in fp32; the entry of its graph.
        writer: of the bundle.
        progress: is called with every chunk.
    """
    from edgelm.evaluate.card import compare, quality_card

    passages = load_passages(wanted, "evaluation")
    with aside(writer.output, "base") as folder:
        exact = BundleWriter(folder, folder)
        graph: Graph | None = None

        def card(facts: Manifest, errors: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
            nonlocal graph
            if graph is None:
                shutil.copyfile(writer.path(TOKENIZER), exact.path(TOKENIZER))
                graph = write_base(exact)
            here = replace(facts, provider="cpu")  # this is not the target
            base, bundle = exact.draft(replace(here, graph=graph)), writer.draft(here)
            chunk = _SHORT if wanted != BUILTIN and is_builtin(wanted) else None
            found = compare(base, bundle, passages, chunks=CARD_CHUNKS, chunk=chunk, on_chunk=_told(progress))
            progress.finish()
            return quality_card(facts, {"id": facts.model.id, "quant": "fp32"}, passages, found, errors)

        yield card


def _told(progress: Progress) -> Callable[[int, int], None]:
    def on_chunk(done: int, total: int) -> None:
        if done == 0:
            progress.start("measuring", total)
        progress.advance(int(done > 0), f"{done}/{total}")

    return on_chunk

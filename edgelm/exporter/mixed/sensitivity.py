"""What each matrix loses in each format it may take: the KL divergence of the model with that matrix alone rounded.

The model is run layer by layer in fp32. Small errors act on the divergence by their square, and nearly add up (the
second-order expansion behind Optimal Brain Surgeon, Hassibi & Stork, 1993), so that three things are measured:

    of every layer      the divergence that its matrices cause together, each in its format of fewest bytes: that variant
                        is taken to the end, beside the model as it is; of a deep model two neighbouring layers share one
    of every matrix     the error that it leaves in the hidden states after its layer, in the format of fewest bytes
    of every format     the error of the matrix' product, with activations rounded as the format's operator does

and a loss is the first, in the proportion of the others. Where the bundle will be calibrated, matrices are rounded by GPTQ for
the first two, on another part of the text than the one that is measured on. It lessens what searched scales leave by another
share in each matrix (of SmolLM2-135M to a third in query, key and value, to two thirds in gate and up). Errors are counted in shares of what a token has, as the norms
behind see them. All variants go through a layer together while it is loaded, and wait in a file between two layers:
every matrix is read once, and one layer is held. How near that comes to taking each variant to the end itself, and the
sum to the whole: `benchmarks/quality.py sensitivity`, docs/notes/quality.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from threading import Event

import numpy as np

from edgelm.evaluate.divergence import Reference
from edgelm.exporter.calibration import layer_runner
from edgelm.exporter.calibration.flow import Flow
from edgelm.exporter.calibration.moments import hessian
from edgelm.exporter.formats.format import Format
from edgelm.exporter.formats.parallel import at_once, ordered_map, pieces_apart
from edgelm.exporter.formats.registry import EXACT
from edgelm.exporter.graph.decoder_graph import Formats
from edgelm.exporter.model.decoder import Decoder, Layer, Linear
from edgelm.exporter.model.weights import WeightReader
from edgelm.exporter.progress import Progress

_SMALL = 16_000_000  # parameters of a model for which more text costs little
_CHUNK = 256  # tokens that are one text
_TOKENS, _FEW_TOKENS = 2048, 768  # of text that is measured on, for a small model and for others
_EVERY = 4  # of the text's chunks one is measured on; matrices are rounded by the others
_LOGITS = 1 << 23  # at most, of a chunk
_TOGETHER = 4096  # tokens of variants that go through a layer at once
_SAMPLE = 256  # inputs on which formats are told apart
_ROWS = 192  # of a matrix that are looked at for that
_DEEP = 16  # layers of a model of which two neighbours share a variant: what is after them hardly tells them apart

Losses = dict[str, list[float]]
"""Name of a matrix → KL divergence in nats of each of its formats, in their order."""


@dataclass(frozen=True)
class Choices:
    """The formats that are tried, those of fewest bytes first.

    Attributes:
        body: by matrix.
        head: of the head; of the table, too, where the two are one.
        embedding: of a table of its own; empty where it is the head's.
    """

    body: Mapping[str, Sequence[Format]]
    head: Sequence[Format]
    embedding: Sequence[Format] = ()

    @property
    def tables(self) -> Sequence[Format]:
        """Formats of what ids are looked up in."""
        return self.embedding or self.head


def disk(decoder: Decoder, tokens: int) -> int:
    """Bytes that the variants take in a file while they wait, of a text of so many tokens."""
    return 4 * _variants(decoder, len(decoder.layers)) * -(-tokens // _EVERY) * decoder.hidden


def _shared(decoder: Decoder) -> int:
    """How many neighbouring layers share a variant."""
    return 2 if len(decoder.layers) >= _DEEP else 1


def _variants(decoder: Decoder, index: int) -> int:
    """How many there are before a layer: the embedding's, and those of layers."""
    return 1 + -(-index // _shared(decoder))


def text_size(decoder: Decoder, context: int) -> tuple[int, int]:
    """(Tokens of a chunk, tokens of all chunks at most) of the text to measure on."""
    return min(_CHUNK, context), _EVERY * (_TOKENS if decoder.parameters <= _SMALL else _FEW_TOKENS)


@pieces_apart()
def measure(
    reader: WeightReader,
    decoder: Decoder,
    choices: Choices,
    chunks: Sequence[np.ndarray],
    folder: Path,
    progress: Progress,
    *,
    rounds: bool = False,
) -> Losses:
    """The losses of every body matrix, of ``lm_head`` and of the embedding where it has a table of its own.

    Args:
        reader: of the checkpoint's weights.
        decoder: of the model.
        choices: what to try; the first of each matrix is not fp32.
        chunks: ids of the text, int64 [S] each, of one length.
        folder: for the hidden states of all variants meanwhile.
        progress: is called with every run of a layer.
        rounds: whether the matrices of the bundle will be rounded by GPTQ.
    """
    work = _Work(reader, decoder, choices, _sorted(chunks, rounds=rounds), folder, progress)
    progress.start("measuring matrices", work.total)
    base = work.embed()
    for index in range(len(decoder.layers)):
        base = work.layer(index, base)
    losses = work.end(base)
    progress.finish()
    return losses


@dataclass(frozen=True)
class _Text:
    """What is read.

    Attributes:
        measured: chunks that losses are measured on.
        others: chunks that GPTQ rounds by; the same ones where there are too few; empty where nothing will be rounded so.
    """

    measured: Sequence[np.ndarray]
    others: Sequence[np.ndarray]


def _sorted(chunks: Sequence[np.ndarray], *, rounds: bool) -> _Text:
    measured = chunks[::_EVERY]
    others = [chunk for number, chunk in enumerate(chunks) if number % _EVERY]
    return _Text(measured, (others or measured) if rounds else [])


@dataclass
class _Variant:
    """Hidden states with errors in them, on their way to the end.

    Attributes:
        place: in the file.
        errors: that each format of each matrix leaves where they arise, by the matrix' name.
        whole: of those that the variant has, all together.
        loss: KL divergence that these cause.
    """

    place: int
    errors: dict[str, list[float]] = field(default_factory=dict)
    whole: float = 0.0
    loss: float = 0.0

    def losses(self) -> Losses:
        """Of every format of every matrix."""
        rate = self.loss / self.whole if self.whole > 0 else 0.0
        return {name: [rate * error for error in errors] for name, errors in self.errors.items()}


class _Work:
    """Takes a text through a decoder, and with it the variants of its matrices."""

    def __init__(
        self,
        reader: WeightReader,
        decoder: Decoder,
        choices: Choices,
        text: _Text,
        folder: Path,
        progress: Progress,
    ) -> None:
        self.reader, self.decoder, self.choices = reader, decoder, choices
        self.chunks, self.others, self.folder, self.progress = text.measured, text.others, folder, progress
        self.length = len(self.chunks[0])
        self.exact, self.shared = Formats(EXACT, EXACT, EXACT), _shared(decoder)
        self.variants: list[_Variant] = []
        self.stop = Event()
        shape = (_variants(decoder, len(decoder.layers)), len(self.chunks), self.length, decoder.hidden)
        self.waiting = np.lib.format.open_memmap(folder / "variants.npy", "w+", np.float32, shape)

    @property
    def total(self) -> int:
        """Runs over the text: of layers, and of the head."""
        layers = len(self.decoder.layers)
        waiting = sum(_variants(self.decoder, index) - (index % self.shared > 0) for index in range(layers))
        return layers + waiting + len(self.decoder.linears) + _variants(self.decoder, layers) + len(self.choices.head)

    def embed(self) -> list[np.ndarray]:
        """The hidden states before the first layer [S, hidden] of every chunk: those measured on, then the others."""

        def run(table: Format, more: Sequence[np.ndarray] = ()) -> list[np.ndarray]:
            formats = replace(self.exact, head=table, embedding=table)
            embed = layer_runner.embedding(self.decoder, formats, self.reader, self.folder)
            return [embed(ids[None], {}) for ids in (*self.chunks, *more)]

        with_others, variant = run(EXACT, self.others), self._variant()
        exact = with_others[: len(self.chunks)]
        errors = variant.errors.setdefault(self.decoder.embedding.name, [])
        for table in self.choices.tables:
            found = exact if table.exact else run(table)
            errors.append(_error(exact, found))
            if len(errors) == 1:
                self.waiting[variant.place], variant.whole = found, errors[0]
        return with_others

    def layer(self, index: int, base: list[np.ndarray]) -> list[np.ndarray]:
        """Take all through a layer, and add its variant; the hidden states of the model as it is."""
        layer, given = (
            self.decoder.layers[index],
            (self.decoder, self.exact, index, self.reader, self.length, self.folder),
        )
        matrices = {linear.name: self.reader.matrix(linear) for linear in layer.linears}
        smallest, products, flow = dict[str, np.ndarray](), dict[str, list[float]](), Flow(self.decoder, list(base))
        parts, goes_on = layer_runner.parts(*given), index % self.shared > 0

        def rounding() -> None:
            for linear, inputs in flow.through(layer, parts):
                name, matrix = linear.name, matrices[linear.name]
                smallest[name] = self._rounded(linear, inputs, matrix)
                products[name] = self._product_errors(linear, inputs, matrix, smallest[name])
                flow.multiply(linear, matrix)

        carried = len(self.variants) - goes_on
        at_once(rounding, lambda: self._carry(layer, parts, matrices, carried), self.stop)
        run, after = layer_runner.whole(*given), flow.hidden
        self.progress.advance(1 + carried, layer.name)
        variant = self.variants[-1] if goes_on else self._variant()
        waiting = self.waiting[variant.place]
        for number, x in enumerate(waiting if goes_on else base[: len(self.chunks)]):
            waiting[number] = run(x[None], smallest)
        variant.whole += _error(after[:1], [run(base[0][None], smallest)] if goes_on else waiting[:1])
        for linear in layer.linears:
            alone = run(base[0][None], {**matrices, linear.name: smallest[linear.name]})
            left = _error(after[:1], [alone])
            variant.errors[linear.name] = [left * share for share in products[linear.name]]
            self.progress.advance(1, linear.name)
        return after

    def _carry(
        self, layer: Layer, parts: Sequence[layer_runner.Part], matrices: Mapping[str, np.ndarray], count: int
    ) -> None:
        """Take the first variants through a layer, several at once."""
        several = max(1, _TOGETHER // (len(self.chunks) * self.length))
        for start in range(0, count, several):
            waiting = self.waiting[start : min(start + several, count)]
            flow = Flow(self.decoder, list(waiting.reshape(-1, *waiting.shape[2:])), stop=self.stop)
            for linear, _ in flow.through(layer, parts):
                flow.multiply(linear, matrices[linear.name])
            waiting[:] = np.reshape(flow.hidden, waiting.shape)

    def _variant(self) -> _Variant:
        """One more."""
        self.variants.append(_Variant(len(self.variants)))
        return self.variants[-1]

    def _rounded(self, linear: Linear, inputs: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """The matrix in its format of fewest bytes, by the other inputs where there are any."""
        format, others = self.choices.body[linear.name][0], inputs[self.length * len(self.chunks) :]
        by_data = format.rounder(hessian(others)) if len(others) else None
        return format.values((by_data or format.quantize)(weight), linear.inputs)

    def _product_errors(
        self, linear: Linear, inputs: np.ndarray, weight: np.ndarray, smallest: np.ndarray
    ) -> list[float]:
        """The error of a product in each format, as a multiple of that which the weights of the smallest alone cause.

        Rows do not depend on each other: some of them tell, and some of the inputs. What GPTQ leaves of the error of the
        smallest format it leaves of that of the others.
        """
        step = max(1, len(weight) // _ROWS)
        rows, measured = weight[::step], inputs[: self.length * len(self.chunks)]
        sample = measured[:: max(1, len(measured) // _SAMPLE)]
        exact, size = sample @ rows.T, np.maximum(np.square(sample).mean(axis=1), np.finfo(np.float32).tiny)

        def error(x: np.ndarray, values: np.ndarray) -> float:
            return float((np.square(x @ values.T - exact).sum(axis=1) / size).sum())

        def errors(format: Format) -> tuple[float, float]:
            """By the weights, and by the inputs."""
            values = format.rounded(rows)
            by_weights = error(sample, values)
            return by_weights, max(error(format.read(sample), values) - by_weights, 0.0)

        least, found = error(sample, smallest[::step]), list(ordered_map(errors, self.choices.body[linear.name]))
        left = least / found[0][0] if found[0][0] > 0 else 1.0
        return [(by_inputs + left * by_weights) / least if least > 0 else 0.0 for by_weights, by_inputs in found]

    def end(self, base: list[np.ndarray]) -> Losses:
        """All through the head, and what was lost."""
        base = base[: len(self.chunks)]
        positions = max(1, min(self.length // 2, _LOGITS // self.decoder.vocab))
        last = layer_runner.final(self.decoder, self.exact, self.reader, self.folder)

        def opened(head: Format, threads: int | None = None) -> layer_runner.Run:
            formats = replace(self.exact, head=head)
            return layer_runner.head(self.decoder, formats, self.reader, positions, self.folder, threads)

        head, linear = opened(EXACT, threads=1), self.decoder.head
        normed = [last(x[None], {})[None] for x in base]
        references = [Reference(head(x, {})) for x in normed]

        def lost(variant: _Variant) -> float:
            hidden = (last(x[None], {})[None] for x in self.waiting[variant.place])
            return fmean([exact.mean_divergence(head(x, {})) for exact, x in zip(references, hidden, strict=True)])

        for variant, loss in zip(self.variants, ordered_map(lost, self.variants), strict=True):
            variant.loss = loss
            self.progress.advance(1, linear.name)
        losses: Losses = {}
        for variant in self.variants:
            losses |= variant.losses()
        own = [0.0] * len(self.choices.head)
        for option, format in enumerate(self.choices.head):
            if not format.exact:
                rounded = opened(format)
                pairs = zip(references, normed, strict=True)
                own[option] = fmean([exact.mean_divergence(rounded(x, {})) for exact, x in pairs])
            self.progress.advance(1, linear.name)
        if not self.choices.embedding:  # the head's bytes serve the embedding, too
            looked_up = losses.pop(self.decoder.embedding.name)
            own = [lost + other for lost, other in zip(own, looked_up, strict=True)]
        return {**losses, linear.name: own}


def _error(exact: Sequence[np.ndarray], found: Sequence[np.ndarray] | np.ndarray) -> float:
    """Squared error of hidden states [S, hidden] a chunk, every token's as a share of its square."""
    total = 0.0
    for x, y in zip(exact, found, strict=True):
        size = np.maximum(np.square(x).sum(axis=1), np.finfo(np.float32).tiny)
        total += float((np.square(y - x).sum(axis=1) / size).sum(dtype=np.float64))
    return total

"""What each matrix loses in each format it may take: the KL divergence of the model with that matrix alone rounded.

The model is run layer by layer, in fp32 but for the matrix in question, which is multiplied by its format's own
operator: so that rounded activations count, too. All variants go through a layer together while it is loaded, and wait
in a file between two layers: every matrix is read once, and one layer is held.

Small errors act on the divergence by their square, and nearly add up (the second-order expansion behind Optimal Brain
Surgeon, Hassibi & Stork, 1993). So one variant of each matrix is taken to the end, the one of fewest bytes, and the
others follow from it: by the squared error that each leaves behind in the hidden states after its layer. How near that
comes to taking each to the end itself, and the sum to the whole: `benchmarks/quality.py sensitivity`, docs/quality.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgelm.evaluate.divergence import kl_divergence
from edgelm.exporter.calibration import layer_runner
from edgelm.exporter.calibration.calibrate import squares
from edgelm.exporter.formats.format import Format, Matrix
from edgelm.exporter.formats.registry import EXACT
from edgelm.exporter.graph.decoder_graph import Formats
from edgelm.exporter.model.decoder import Decoder, Linear
from edgelm.exporter.model.weights import WeightReader
from edgelm.exporter.onnx.builder import Builder
from edgelm.exporter.progress import Progress

_SMALL = 16_000_000  # parameters of a model for which more text costs little
_CHUNK = 512  # tokens that are one text
_TOKENS, _FEW_TOKENS = 2048, 1024  # of text, for a small model and for others
_LOGITS = 1 << 23  # at most, of a chunk
_VALUES = 1 << 20  # logits compared at once
_ROWS = 1024

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
    """Bytes that the variants take in a file while they wait."""
    return 4 * (1 + len(decoder.linears)) * tokens * decoder.hidden


def text_size(decoder: Decoder, context: int) -> tuple[int, int]:
    """(Tokens of a chunk, tokens of all chunks at most) of the text to measure on."""
    return min(_CHUNK, context), _TOKENS if decoder.parameters <= _SMALL else _FEW_TOKENS


def measure(
    reader: WeightReader,
    decoder: Decoder,
    choices: Choices,
    chunks: Sequence[np.ndarray],
    folder: Path,
    progress: Progress,
) -> Losses:
    """The losses of every body matrix, of ``lm_head`` and of the embedding where it has a table of its own.

    Args:
        reader: of the checkpoint's weights.
        decoder: of the model.
        choices: what to try; the first of each matrix is not fp32.
        chunks: ids of the text, int64 [S] each, of one length.
        folder: for the hidden states of all variants meanwhile.
        progress: is called with every run of a layer.
    """
    work = _Work(reader, decoder, choices, chunks, folder, progress)
    progress.start("measuring matrices", work.total)
    base = work.embed()
    for index in range(len(decoder.layers)):
        base = work.layer(index, base)
    losses = work.end(base)
    progress.finish()
    return losses


@dataclass
class _Variants:
    """The variants of one matrix: the squared error of each after its layer, and the first one's way to the end.

    Attributes:
        place: of the first in the file.
        errors: of all.
        loss: KL divergence of the first.
    """

    place: int
    errors: list[float] = field(default_factory=list)
    loss: float = 0.0

    def losses(self) -> list[float]:
        """Of every variant."""
        first = self.errors[0]
        return [self.loss * error / first if first > 0 else 0.0 for error in self.errors]


class _Work:
    """Takes a text through a decoder, and with it the variants of its matrices."""

    def __init__(
        self,
        reader: WeightReader,
        decoder: Decoder,
        choices: Choices,
        chunks: Sequence[np.ndarray],
        folder: Path,
        progress: Progress,
    ) -> None:
        self.reader, self.decoder, self.choices = reader, decoder, choices
        self.chunks, self.folder, self.progress = chunks, folder, progress
        self.length = len(chunks[0])
        self.exact = Formats(EXACT, EXACT, EXACT)
        self.variants: dict[str, _Variants] = {}
        shape = (1 + len(choices.body), len(chunks), self.length, decoder.hidden)
        self.waiting = np.lib.format.open_memmap(folder / "variants.npy", "w+", np.float32, shape)

    @property
    def total(self) -> int:
        """Runs over the text: of layers, and of the head."""
        count, waiting = 0, 1
        for layer in self.decoder.layers:
            count += 1 + waiting + sum(len(self.choices.body[linear.name]) for linear in layer.linears)
            waiting += len(layer.linears)
        return count + waiting + len(self.choices.head)

    def embed(self) -> list[np.ndarray]:
        """The hidden states before the first layer [S, hidden] of every chunk."""

        def run(table: Format) -> list[np.ndarray]:
            formats = replace(self.exact, head=table, embedding=table)
            embed = layer_runner.embedding(self.decoder, formats, self.reader, self.folder)
            return [embed(ids[None], {}) for ids in self.chunks]

        exact = run(EXACT)
        for table in self.choices.tables:
            self._add(self.decoder.embedding.name, table, exact, lambda table=table: run(table))  # type: ignore[misc]
        return exact

    def layer(self, index: int, base: list[np.ndarray]) -> list[np.ndarray]:
        """Take all through a layer, and add the variants of its matrices; the hidden states of the model as it is."""
        layer = self.decoder.layers[index]
        matrices = {linear.name: self.reader.matrix(linear) for linear in layer.linears}

        def opened(packed: Mapping[str, layer_runner.Pack] | None = None) -> layer_runner.Run:
            given = (self.decoder, self.exact, index, self.reader, self.length, self.folder)
            return layer_runner.whole(*given, packed)

        run = opened()
        after = [run(x[None], matrices) for x in base]
        self.progress.advance(1, layer.name)
        for variants in self.variants.values():
            for number in range(len(self.chunks)):
                self.waiting[variants.place, number] = run(self.waiting[variants.place, number][None], matrices)
            self.progress.advance(1, layer.name)
        for linear in layer.linears:
            for format in self.choices.body[linear.name]:

                def rounded(linear: Linear = linear, format: Format = format) -> list[np.ndarray]:
                    changed = opened({linear.name: _packing(linear, format, matrices[linear.name])})
                    return [changed(x[None], matrices) for x in base]

                self._add(linear.name, format, after, rounded)
                self.progress.advance(1, linear.name)
        return after

    def end(self, base: list[np.ndarray]) -> Losses:
        """All through the head, and what was lost."""
        positions = max(1, min(self.length // 2, _LOGITS // self.decoder.vocab))
        last = layer_runner.final(self.decoder, self.exact, self.reader, self.folder)

        def opened(head: Format) -> layer_runner.Run:
            formats = replace(self.exact, head=head)
            return layer_runner.head(self.decoder, formats, self.reader, positions, self.folder)

        head, linear = opened(EXACT), self.decoder.head
        normed = [last(x[None], {})[None] for x in base]
        exact_logits = [head(x, {}) for x in normed]
        for number, exact in enumerate(exact_logits):
            for variants in self.variants.values():
                logits = head(last(self.waiting[variants.place, number][None], {})[None], {})
                variants.loss += _divergence(exact, logits) / len(self.chunks)
                self.progress.advance(int(number == 0), linear.name)
        losses = {name: variants.losses() for name, variants in self.variants.items()}
        own = [0.0] * len(self.choices.head)
        for option, format in enumerate(self.choices.head):
            if not format.exact:
                rounded = opened(format)
                pairs = zip(exact_logits, normed, strict=True)
                own[option] = sum(_divergence(exact, rounded(x, {})) for exact, x in pairs) / len(self.chunks)
            self.progress.advance(1, linear.name)
        if not self.choices.embedding:  # the head's bytes serve the embedding, too
            looked_up = losses.pop(self.decoder.embedding.name)
            own = [lost + other for lost, other in zip(own, looked_up, strict=True)]
        return {**losses, linear.name: own}

    def _add(
        self, name: str, format: Format, exact: Sequence[np.ndarray], rounded: Callable[[], list[np.ndarray]]
    ) -> None:
        """Note what a variant leaves behind after its layer; the first one goes on its way to the end."""
        variants = self.variants.setdefault(name, _Variants(len(self.variants)))
        if format.exact:
            variants.errors.append(0.0)
            return
        found = rounded()
        if not variants.errors:
            self.waiting[variants.place] = found
        variants.errors.append(sum(squares(y - x) for x, y in zip(exact, found, strict=True)))


def _packing(linear: Linear, format: Format, weight: np.ndarray) -> layer_runner.Pack:
    def pack(b: Builder) -> Matrix:
        rows = (weight[start : start + _ROWS] for start in range(0, len(weight), _ROWS))
        return format.pack(b, linear.name, linear.outputs, linear.inputs, rows)

    return pack


def _divergence(exact: np.ndarray, rounded: np.ndarray) -> float:
    """Mean KL divergence of the rows of two logits [n, vocabulary]."""
    step = max(1, _VALUES // exact.shape[1])
    parts = (slice(start, start + step) for start in range(0, len(exact), step))
    return float(np.concatenate([kl_divergence(exact[part], rounded[part]) for part in parts]).mean())

"""Calibrated matrices: GPTQ, layer by layer, on the inputs that the already rounded layers before give.

Where matrices have less than 8 bits, the model as it was goes through beside, and a matrix is rounded so that it gives
on the rounded layers' inputs what it gave on those (`moments.correction`): later layers make up for earlier ones.

What is held is one layer, the hidden states of the calibration text, and one Hessian; rounded matrices wait in files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from edgelm.bundle.origins import Calibration
from edgelm.exporter.calibration import layer_runner
from edgelm.exporter.calibration.flow import Flow
from edgelm.exporter.calibration.kvscales import KVRanges
from edgelm.exporter.calibration.layer_runner import Part
from edgelm.exporter.calibration.moments import ENOUGH, correction, hessian
from edgelm.exporter.formats.format import Format, Parts
from edgelm.exporter.formats.parallel import Ahead, at_once, cores, pieces_apart
from edgelm.exporter.formats.registry import EXACT
from edgelm.exporter.graph.decoder_graph import Formats
from edgelm.exporter.model.decoder import Decoder, Layer, Linear
from edgelm.exporter.model.weights import WeightReader
from edgelm.exporter.progress import Progress

_ROWS = 8192  # rows of a table rounded at once: enough to make numpy's calls worth their cost
_RATE = 5e10  # floating-point operations a second and core, of numpy's products with all around them; measured
_MOST = 4e13  # operations that a calibration with corrections may take: a model of half a billion weights, not of one
_LITTLE = 1e12  # operations, of which a part is not worth saving
_LEAST = 0.3  # of a text, that the exact model reads, too
_ROUNDING = 1.5e-7  # seconds a weight; measured
_SAMPLE = 128  # inputs on which the error of a product is told


@dataclass(frozen=True)
class Rounded:
    """A rounded matrix waiting in files.

    Attributes:
        format: it is stored in.
        parts: the file of each part, as `Format.quantize` names them: all rows of it.
        method: ``gptq``, or ``search`` where the inputs said nothing.
        weight: squared error of the weights as a share of their sum of squares.
        output: the same of the products with a sample of the inputs.
    """

    format: Format
    parts: Mapping[str, Path]
    method: str
    weight: float
    output: float

    def errors(self) -> dict[str, Any]:
        """For a quality card."""
        return {
            "format": str(self.format.spec),
            "method": self.method,
            "weight": self.weight,
            "output": self.output,
        }

    def pieces(self) -> Iterator[Parts]:
        """Slices of rows, as `Format.quantize` gives them."""
        whole = {part: np.load(file, mmap_mode="r") for part, file in self.parts.items()}
        for start in range(0, len(next(iter(whole.values()))), _ROWS):
            yield {part: rows[start : start + _ROWS] for part, rows in whole.items()}


@dataclass
class Calibrated:
    """What calibration found.

    Attributes:
        tokens: read of the text.
        matrices: rounded ones by name; the others keep to the search without data.
    """

    tokens: int
    matrices: dict[str, Rounded] = field(default_factory=dict)

    @property
    def left(self) -> list[str]:
        """Names of the matrices for which GPTQ did not work."""
        return [name for name, rounded in self.matrices.items() if rounded.method != "gptq"]

    def get(self, name: str) -> Rounded | None:
        """The rounded matrix of that name."""
        return self.matrices.get(name)


@dataclass(frozen=True)
class Prepared:
    """What an export works from.

    Attributes:
        reader: of the weights, smoothed where that was found to help.
        calibrated: matrices that are rounded already, or None.
        facts: for the manifest; None for an export without calibration.
        kv: the scales of keys and values, where the cache is int8.
    """

    reader: WeightReader
    calibrated: Calibrated | None = None
    facts: Calibration | None = None
    kv: KVRanges | None = None


@pieces_apart()
def calibrate(
    reader: WeightReader,
    decoder: Decoder,
    formats: Formats,
    chunks: Sequence[np.ndarray],
    folder: Path,
    progress: Progress,
) -> Calibrated:
    """Round every matrix of a decoder that gains from it on calibration text.

    Args:
        reader: of the checkpoint's weights.
        decoder: of the model.
        formats: of its roles.
        chunks: ids of the text, int64 [S] each; every chunk is a text of its own.
        folder: for the rounded matrices; they are read from there until the bundle is written.
        progress: is called with every matrix.
    """
    found = Calibrated(sum(map(len, chunks)))
    context, compared = max(map(len, chunks)), math.ceil(len(chunks) * _compared(decoder, found.tokens))
    if compared < len(chunks):  # those are from all over the text
        first = {round(place) for place in np.linspace(0, len(chunks) - 1, compared)}
        chunks = [chunks[i] for i in sorted(range(len(chunks)), key=lambda i: (i not in first, i))]
    work = _Work(found, folder)
    head = _head(reader, decoder, formats)
    progress.start("calibrating", sum(_cost(m) for m in decoder.linears) + (0 if head is None else _cost(decoder.head)))
    flow, exact, stop = _embedded(reader, decoder, formats, chunks, folder), None, Event()
    if corrects(decoder, formats, found.tokens):
        exact = _embedded(reader, decoder, Formats(EXACT, EXACT, EXACT), chunks[:compared], folder)
        exact.workers, exact.stop = max(1, cores() - 1), stop  # one core is rounding meanwhile
    for index, layer in enumerate(decoder.layers):
        parts = layer_runner.parts(decoder, formats, index, reader, context, folder)
        with Ahead(_as_it_was(reader, layer, parts, exact), stop) as ahead:
            for (linear, inputs), (weight, *known) in zip(flow.through(layer, parts), ahead, strict=True):
                format, rounded = formats.multiplied(linear), weight
                if format.calibrates and not _kept(reader, linear, format):
                    rounded = work.round(linear, format, [weight], inputs, *known, beside=ahead.start)
                flow.multiply(linear, rounded)
                progress.advance(_cost(linear), linear.name)
    if head is not None:
        run = layer_runner.final(decoder, formats, reader, folder)
        last = [np.concatenate([run(x[None], {}) for x in f.hidden]) for f in (flow, exact) if f is not None]
        work.round(decoder.head, head, reader.rows(decoder.head), *last, keep=False)
        progress.advance(_cost(decoder.head), decoder.head.name)
    progress.finish()
    return found


def _compared(decoder: Decoder, tokens: int) -> float:
    """The share of a text that the exact model reads, too: `_LEAST` serves as well, or as much more as is enough for all
    matrices that the whole is enough for.
    """
    if _work(decoder, tokens, 1.0) <= _LITTLE:
        return 1.0
    enough = (ENOUGH * m.inputs for m in decoder.linears if tokens >= ENOUGH * m.inputs)
    return max(_LEAST, max(enough, default=0) / tokens)


def corrects(decoder: Decoder, formats: Formats, tokens: int) -> bool:
    """Whether later matrices make up for earlier ones: in less than 8 bits, where that is not too much work for a model of
    this size. What a bundle holds must not depend on the machine, so this does not.
    """
    coarse = any(formats.of(linear).spec.bits < 8 for linear in decoder.linears)
    return coarse and _work(decoder, tokens, 1.0) <= _MOST


def memory(decoder: Decoder, tokens: int) -> int:
    """Bytes that calibration takes about: of the rounded model and the exact one hidden states, inputs and products of a
    matrix; a layer three times; nine arrays of a Hessian's size, which are sums of parts, corrections and factorisations.
    """
    layer = max(sum(map(_cost, layer.linears)) for layer in decoder.layers)
    widest = max(linear.inputs for linear in decoder.linears)
    return 2 * 4 * tokens * (decoder.hidden + 2 * widest) + 12 * layer + 9 * 4 * widest**2


def seconds(decoder: Decoder, tokens: int) -> float:
    """How long calibration takes here, about: its work at `_RATE` a core, and rounding, which takes one, and beside which the
    exact model goes on where there is one.
    """
    corrected = _work(decoder, tokens, 1.0) <= _MOST
    work = _work(decoder, tokens, _compared(decoder, tokens) if corrected else 0.0)
    rounding = _ROUNDING * sum(map(_cost, decoder.linears))
    return work / _RATE / cores() + rounding / (min(2, cores()) if corrected else 1)


def _work(decoder: Decoder, tokens: int, compared: float) -> float:
    """Floating-point operations of products and Hessians, and for the share of the tokens that the exact model reads of its
    products, and of what corrections come from.
    """
    weights = sum(map(_cost, decoder.linears))
    more = sum(2 * m.inputs**2 for m in decoder.linears if tokens >= ENOUGH * m.inputs) + 2 * weights
    return float(tokens) * (2 * weights + sum(m.inputs**2 for m in decoder.linears) + compared * more)


def worthwhile(reader: WeightReader, decoder: Decoder, formats: Formats) -> bool:
    """Whether any matrix would be calibrated; one that keeps its codes of a GGUF file would not."""
    found = ((linear, formats.of(linear)) for linear in decoder.linears)
    return any(format.calibrates and not format.holds(reader.code_type(linear)) for linear, format in found)


def _head(reader: WeightReader, decoder: Decoder, formats: Formats) -> Format | None:
    """The head's format where it is calibrated: at 8 bits a table as large is not worth the time."""
    head = formats.head
    calibrates = not decoder.headless and head.calibrates and head.spec.bits < 8
    return head if calibrates and not _kept(reader, decoder.head, head) else None


def _kept(reader: WeightReader, linear: Linear, format: Format) -> bool:
    """Whether the codes of the checkpoint stay as they are."""
    return format.holds(reader.code_type(linear)) or bool(reader.codes(linear))


def _embedded(
    reader: WeightReader, decoder: Decoder, formats: Formats, chunks: Sequence[np.ndarray], folder: Path
) -> Flow:
    """The text before the first layer, its table rounded as `formats` say."""
    embed = layer_runner.embedding(decoder, formats, reader, folder)
    return Flow(decoder, [embed(ids[None], {}) for ids in chunks])


def _as_it_was(
    reader: WeightReader, layer: Layer, parts: Sequence[Part], exact: Flow | None
) -> Iterator[tuple[np.ndarray, ...]]:
    """Every matrix of a layer in turn, and its inputs in the exact model where that is run."""
    if exact is None:
        yield from ((reader.matrix(linear),) for linear in layer.linears)
        return
    for linear, inputs in exact.through(layer, parts):
        weight = reader.matrix(linear)
        exact.multiply(linear, weight)
        yield weight, inputs


def _cost(linear: Linear) -> int:
    return linear.outputs * linear.inputs


class _Work:
    """Rounds one matrix after the other."""

    def __init__(self, found: Calibrated, folder: Path) -> None:
        self.found = found
        self.folder = folder

    def round(
        self,
        linear: Linear,
        format: Format,
        rows: Iterable[np.ndarray],
        inputs: np.ndarray,
        exact: np.ndarray | None = None,
        *,
        keep: bool = True,
        beside: Callable[[], None] = lambda: None,
    ) -> np.ndarray:
        """Round a matrix on its inputs [tokens, k], so that it gives what it gave on the `exact` ones of the first tokens
        where these are known; its rounded values [n, k], where they are to be kept. Rounding takes one core: `beside` is
        called when it begins.
        """
        compared = len(inputs) if exact is None else len(exact)
        found = hessian(inputs[:compared])
        whole = found + hessian(inputs[compared:]) if compared < len(inputs) else found
        more, by_data = at_once(
            lambda: None if exact is None else correction(inputs[:compared], exact, found),
            lambda: format.rounder(whole),
        )
        sample = inputs[:: max(1, len(inputs) // _SAMPLE)]
        n, k = linear.outputs, linear.inputs
        waiting = _Waiting(self.folder / str(len(self.found.matrices)), n)
        values = np.empty((n, k) if keep else (0, k), np.float32)
        sums, start = np.zeros(4), 0
        for piece in _batches(rows):
            if more is not None and by_data is not None:
                piece = piece + more.of(piece)
            beside()
            parts = (by_data or format.quantize)(piece)  # in one thread: several get in each other's way
            waiting.add(parts)
            rounded = format.values(parts, k)
            off = rounded - piece
            sums += [squares(off), squares(piece), squares(sample @ off.T), squares(sample @ piece.T)]
            if keep:
                values[start : start + len(piece)] = rounded
            start += len(piece)
        shares = np.divide(sums[::2], sums[1::2], out=np.zeros(2), where=sums[1::2] > 0)
        self.found.matrices[linear.name] = Rounded(
            format, waiting.files, "search" if by_data is None else "gptq", float(shares[0]), float(shares[1])
        )
        return values


def squares(values: np.ndarray) -> float:
    """The sum of squares."""
    return float(np.square(values).sum(dtype=np.float64))


class _Waiting:
    """Parts of a matrix of `n` rows, written as they come to a file each, whose names begin with `prefix`."""

    def __init__(self, prefix: Path, n: int) -> None:
        self.files: dict[str, Path] = {}
        self._prefix, self._n = prefix, n
        self._arrays: dict[str, np.ndarray] = {}
        self._end = 0

    def add(self, parts: Parts) -> None:
        """The next rows."""
        start = self._end
        for name, rows in parts.items():
            if name not in self.files:
                self.files[name] = self._prefix.with_name(f"{self._prefix.name}.{name}.npy")
                shape = (self._n, *rows.shape[1:])
                self._arrays[name] = np.lib.format.open_memmap(self.files[name], "w+", rows.dtype, shape)
            self._arrays[name][start : start + len(rows)] = rows
            self._end = start + len(rows)


def _batches(pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Slices of rows put together until they are `_ROWS` or more."""
    waiting: list[np.ndarray] = []
    for piece in pieces:
        waiting.append(piece)
        if sum(map(len, waiting)) >= _ROWS:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)

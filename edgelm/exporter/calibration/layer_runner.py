"""Parts of a decoder run by themselves in fp32: hidden states in; out come the inputs of one matrix, or those of the
next layer.

The graphs are the export's own (`edgelm.exporter.graph.decoder_graph`), except that body matrices, or products with them,
are inputs: whoever runs a layer gives them, rounded or not, and nothing but that layer is held.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgelm.bundle.reader import DATA, MODEL
from edgelm.exporter.formats.format import Format, Matrix
from edgelm.exporter.formats.parallel import cores
from edgelm.exporter.graph.attention import KVLayout
from edgelm.exporter.graph.decoder_graph import (
    Formats,
    GraphBuilder,
    Persistent,
    Stream,
    Weights,
    mixers_of,
    persistent_of,
)
from edgelm.exporter.model.decoder import Decoder, Layer, Linear
from edgelm.exporter.model.weights import WeightReader
from edgelm.exporter.onnx.builder import MICROSOFT, Builder
from edgelm.exporter.onnx.store import DataFile
from edgelm.machine.host import recommended_threads

_FLOAT = np.dtype(np.float32)

Run = Callable[[np.ndarray, Mapping[str, np.ndarray]], np.ndarray]
"""(hidden states or ids [1, S, …], what else it reads, by name) → what the part gives, float32 [S, width]."""

Pack = Callable[[Builder], Matrix]
"""Puts a matrix into the data file of a graph."""


def embedding(decoder: Decoder, formats: Formats, reader: WeightReader, folder: Path) -> Run:
    """Ids int64 [1, S] → the hidden states before the first layer, from a table rounded as `formats` say."""

    def build(b: Builder) -> ir.Value:
        def pack(linear: Linear, format: Format) -> Matrix:
            if linear.name == decoder.head.name and not decoder.tied:  # nobody multiplies by it here
                return Matrix(format, linear.name, linear.outputs, linear.inputs, {})
            return format.pack(b, linear.name, linear.outputs, linear.inputs, reader.rows(linear))

        graph = GraphBuilder(b, decoder, formats, _weights(reader, pack))
        ids, (_, count) = b.input("x", "int64", [1, "sequence_length"]), _mask(b)
        stream, _ = graph.embed(ids, count, decoder.context)
        return stream.residual

    return _open(build, decoder.hidden, {}, folder)[0]


@dataclass(frozen=True)
class Part:
    """A stretch of a layer between two of its matrices.

    Attributes:
        width: of what it gives.
        needs: the matrices of whose products it is made.
        run: (hidden states [1, S, hidden], products [1, S, outputs] by matrix) → what it gives, float32 [S, width].
    """

    width: int
    needs: frozenset[str]
    run: Run


def parts(
    decoder: Decoder, formats: Formats, index: int, reader: WeightReader, context: int, folder: Path
) -> list[Part]:
    """A layer cut at its matrices: what each of them reads, in graph order, and at last the next layer's hidden states.

    Each runs on one thread: several texts go through it at once.
    Products are made by who runs it, from matrices that are rounded or not, and none is made twice.
    """
    layer = decoder.layers[index]

    def build(b: Builder, until: int | None) -> ir.Value:
        graph = _OpenGraph(b, decoder, formats, _weights(reader, _no_matrix), until)
        x, (mask, count) = b.input("x", "float32", [1, "sequence_length", decoder.hidden]), _mask(b)
        mixer = mixers_of(graph, mask, count, KVLayout(context))[type(layer.attention)]
        past = [b.input(kept.name, kept.dtype, kept.shape) for kept in _kept(index, layer)]
        try:
            stream, _ = graph.layer(layer, Stream(x), mixer, past)
        except _Reached as reached:
            return reached.value
        return _sum(b, stream)

    found, names = [], {linear.name for linear in layer.linears}
    for number in (*range(len(layer.linears)), None):
        width = decoder.hidden if number is None else layer.linears[number].inputs
        run, needs = _open(partial(build, until=number), width, _empty_past(index, layer), folder, threads=1)
        found.append(Part(width, needs & names, run))
    return found


def whole(
    decoder: Decoder,
    formats: Formats,
    index: int,
    reader: WeightReader,
    context: int,
    folder: Path,
    packed: Mapping[str, Pack] | None = None,
) -> Run:
    """Hidden states [1, S, hidden] → the next layer's, in one go.

    Matrices are read from what the run is given, but for those `packed`, by name, which are multiplied by the operator of
    their format.
    """
    layer = decoder.layers[index]

    def build(b: Builder) -> ir.Value:
        graph = _ClosedGraph(b, decoder, formats, _weights(reader, _no_matrix), packed or {})
        x, (mask, count) = b.input("x", "float32", [1, "sequence_length", decoder.hidden]), _mask(b)
        mixer = mixers_of(graph, mask, count, KVLayout(context))[type(layer.attention)]
        past = [b.input(kept.name, kept.dtype, kept.shape) for kept in _kept(index, layer)]
        return _sum(b, graph.layer(layer, Stream(x), mixer, past)[0])

    return _open(build, decoder.hidden, _empty_past(index, layer), folder)[0]


def layer_and_cache(
    decoder: Decoder, formats: Formats, index: int, reader: WeightReader, context: int, folder: Path
) -> Callable[[np.ndarray, Mapping[str, np.ndarray]], list[np.ndarray]]:
    """Hidden states [1, S, hidden] → the next layer's, and what this one keeps: keys and values [1, heads, S, head_dim]."""
    part = decoder.layers[index]

    def build(b: Builder) -> list[ir.Value]:
        graph = _ClosedGraph(b, decoder, formats, _weights(reader, _no_matrix), {})
        x, (mask, count) = b.input("x", "float32", [1, "sequence_length", decoder.hidden]), _mask(b)
        mixer = mixers_of(graph, mask, count, KVLayout(context))[type(part.attention)]
        past = [b.input(kept.name, kept.dtype, kept.shape) for kept in _kept(index, part)]
        stream, presents = graph.layer(part, Stream(x), mixer, past)
        return [_sum(b, stream), *presents]

    shapes: list[list[int | str]] = [[1, "sequence_length", decoder.hidden]]
    shapes += [kept.shape for kept in _kept(index, part)]
    return _open_all(build, shapes, _empty_past(index, part), folder)[0]


def final(decoder: Decoder, formats: Formats, reader: WeightReader, folder: Path) -> Run:
    """Hidden states after the last layer [1, S, hidden] → the inputs of the head."""

    def build(b: Builder) -> ir.Value:
        graph = GraphBuilder(b, decoder, formats, _weights(reader, _no_matrix))
        x = b.input("x", "float32", [1, "sequence_length", decoder.hidden])
        _mask(b)
        return graph.norm(Stream(x), decoder.norm, "final")[0]

    return _open(build, decoder.hidden, {}, folder)[0]


def head(
    decoder: Decoder, formats: Formats, reader: WeightReader, positions: int, folder: Path, threads: int | None = None
) -> Run:
    """Hidden states after the last layer [1, S, hidden] → logits of the last `positions`, by the head as `formats` say."""

    def build(b: Builder) -> ir.Value:
        graph = GraphBuilder(b, decoder, formats, _weights(reader, _no_matrix))
        x = b.input("x", "float32", [1, "sequence_length", decoder.hidden])
        _mask(b)
        linear = decoder.head
        matrix = formats.head.pack(b, linear.name, linear.outputs, linear.inputs, reader.rows(linear))
        return graph.logits(Stream(x), b.integers([positions]), matrix)

    return _open(build, decoder.vocab, {}, folder, threads)[0]


class _Reached(Exception):
    """The matrix whose inputs are wanted has come: nothing after it is built."""

    def __init__(self, value: ir.Value) -> None:
        super().__init__(value.name)
        self.value = value


class _OpenGraph(GraphBuilder):
    """Products with body matrices are graph inputs; ends at the matrix number `until`, in graph order."""

    def __init__(self, b: Builder, decoder: Decoder, formats: Formats, weights: Weights, until: int | None) -> None:
        super().__init__(b, decoder, formats, weights)
        self._left = until

    def linear(self, linear: Linear, x: ir.Value) -> ir.Value:
        """A product that comes from outside."""
        if self._left is not None:
            if self._left == 0:
                raise _Reached(x)
            self._left -= 1
        y = self.b.input(linear.name, "float32", [1, "sequence_length", linear.outputs])
        bias = self._bias(linear)
        return y if bias is None else self.b.op("Add", [y, bias], f"{linear.name}/add_bias")


class _ClosedGraph(GraphBuilder):
    """Body matrices are graph inputs, but for those that are packed."""

    def __init__(
        self, b: Builder, decoder: Decoder, formats: Formats, weights: Weights, packed: Mapping[str, Pack]
    ) -> None:
        super().__init__(b, decoder, formats, weights)
        self._packed = packed

    def linear(self, linear: Linear, x: ir.Value) -> ir.Value:
        """A product with a matrix that comes from outside."""
        if linear.name in self._packed:
            matrix = self._packed[linear.name](self.b)
            return matrix.format.matmul(self.b, x, matrix, linear.name, self._bias(linear))
        weight = self.b.input(linear.name, "float32", [linear.outputs, linear.inputs])
        y = self.b.op("FusedMatMul", [x, weight], f"{linear.name}/product", domain=MICROSOFT, transB=1)
        bias = self._bias(linear)
        return y if bias is None else self.b.op("Add", [y, bias], f"{linear.name}/add_bias")


def _sum(b: Builder, stream: Stream) -> ir.Value:
    """The stream with what has yet to be added."""
    return stream.residual if stream.addend is None else b.op("Add", [stream.addend, stream.residual], "sum")


def _weights(reader: WeightReader, pack: Callable[[Linear, Format], Matrix]) -> Weights:
    return Weights(pack, reader.vector, reader.table, reader.array)


def _no_matrix(linear: Linear, format: Format) -> Matrix:
    raise AssertionError(f"{linear.name} is not packed here")


def _mask(b: Builder) -> tuple[ir.Value, ir.Value]:
    """The attention mask, and how many tokens there are [1]."""
    mask = b.input("attention_mask", "int64", [1, "total_sequence_length"])
    return mask, b.op("ReduceSum", [mask, b.integers([1])], "attn_mask/count", keepdims=0)


def _kept(index: int, part: Layer) -> list[Persistent]:
    """What a layer keeps, of one text."""
    return [replace(kept, shape=[1, *kept.shape[1:]]) for kept in persistent_of(index, part, _FLOAT)]


def _empty_past(index: int, part: Layer) -> dict[str, np.ndarray]:
    """What a layer keeps before the first token."""
    return {
        kept.name: np.zeros([size if isinstance(size, int) else 0 for size in kept.shape], np.float32)
        for kept in _kept(index, part)
    }


def _open(
    build: Callable[[Builder], ir.Value],
    width: int,
    past: Mapping[str, np.ndarray],
    folder: Path,
    threads: int | None = None,
) -> tuple[Run, frozenset[str]]:
    """Build a graph of one output [1, S, width], and load it: what runs it, and the inputs it has."""
    run_all, names = _open_all(lambda b: [build(b)], [[1, "sequence_length", width]], past, folder, threads)
    return lambda x, given: run_all(x, given)[0][0], names


@cache
def _threads(cores: int) -> int:
    """That a part is run by; asked once, since a model has hundreds of parts."""
    return recommended_threads(cores)


def _open_all(
    build: Callable[[Builder], list[ir.Value]],
    shapes: list[list[int | str]],
    past: Mapping[str, np.ndarray],
    folder: Path,
    threads: int | None = None,
) -> tuple[Callable[[np.ndarray, Mapping[str, np.ndarray]], list[np.ndarray]], frozenset[str]]:
    """Build a graph in a folder of its own, load it for so many threads, and let the folder go; what no output is made of is
    left out.
    """
    from edgelm.runtime.ort.session import open_session  # here: it loads onnxruntime, which other exports do without

    with tempfile.TemporaryDirectory(dir=folder) as place:
        with DataFile(Path(place, DATA)) as data:
            b = Builder(data)
            for number, (value, shape) in enumerate(zip(build(b), shapes, strict=True)):
                name = f"out_{number}"
                b.output(b.op("Identity", [value], f"{name}/as_is"), name, "float32", shape)
            b.prune()
            b.save(Path(place, MODEL), {})
        # Loaded weights stay mapped without the file's name. Threads sleep between runs: numpy wants the cores.
        session: Any = open_session(
            Path(place, MODEL),
            threads or _threads(cores()),
            ["CPUExecutionProvider"],
            disable_spinning=True,
        )
    names = [value.name for value in session.get_inputs()]

    def run(x: np.ndarray, matrices: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        given = {"x": x, "attention_mask": np.ones((1, x.shape[1]), np.int64), **past, **matrices}
        out: list[np.ndarray] = session.run(None, {name: given[name] for name in names})
        return out

    return run, frozenset(names)

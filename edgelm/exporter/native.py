"""The native export path: config.json + safetensors → graph, tensor by tensor, without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from edgelm.bundle.manifest import Graph, WindowFacts
from edgelm.bundle.reader import DATA, MODEL, PREFILL, PREFILL_DATA
from edgelm.bundle.writer import BundleWriter, json_text
from edgelm.exporter import genai
from edgelm.exporter.calibration.calibrate import Calibrated, Prepared, squares
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.formats.format import Format, Matrix, Parts
from edgelm.exporter.graph import decoder_graph, prefill
from edgelm.exporter.graph.attention import KVLayout, KVScales, cache_head_dim, window_capacity
from edgelm.exporter.lora_adapter import place, places_size
from edgelm.exporter.model.decoder import Attention, Decoder, Linear
from edgelm.exporter.model.weights import WeightReader
from edgelm.exporter.onnx.builder import Builder
from edgelm.exporter.onnx.store import DataFile, SizedFile
from edgelm.exporter.progress import Progress
from edgelm.exporter.recipe import GraphPlan
from edgelm.exporter.result import GraphResult
from edgelm.exporter.sizing import footprint
from edgelm.exporter.tokenizer.text_files import TextFiles


def write_graph(
    plan: GraphPlan,
    checkpoint: Checkpoint,
    writer: BundleWriter,
    progress: Progress,
    prepared: Prepared | None = None,
    *,
    errors: bool = False,
) -> GraphResult:
    """Write model.onnx and model.onnx.data into the bundle, from the weights as they are or as they were `prepared`; and
    prefill.onnx with its data where the recipe has one.

    With `errors` the result tells how far each matrix is from what it was; that takes as long again.

    Raises:
        CheckpointError: a tensor is missing, of another shape, or not finite.
        ExportError: a format does not go with the target's activations.
    """
    decoder = plan.decoder
    taken = footprint.of_decoder(decoder, plan.spec, plan.target, checkpoint.scheme)
    again = sum(m.outputs * m.inputs for m in prefill.linears(decoder)) if plan.spec.prefill is not None else 0
    progress.start("weights", decoder.parameters + again)
    prepared = prepared or Prepared(WeightReader(checkpoint))
    reader = prepared.reader
    packer = _Packer(reader, prepared.calibrated, progress, errors=errors)
    scales = {} if prepared.kv is None else prepared.kv.scales
    weights = partial(decoder_graph.Weights, vector=reader.vector, table=reader.table, array=reader.array)
    packing = _Packing(lambda name: DataFile(writer.path(name)), packer.pack, packer.pack_again)
    for name, builder, _ in _graphs(plan, weights, scales, packing):
        builder.save(writer.path(name), {"family": decoder.family})
    progress.finish()
    return GraphResult(
        graph=graph_facts(plan),
        recipe=plan.recipe(),
        parameters=decoder.parameters,
        weight_bytes_per_token=taken.read,
        kv_bytes_per_token=taken.kv_per_token,
        calibration=prepared.facts,
        kv_calibration=None if prepared.kv is None else prepared.kv.facts,
        errors=packer.errors,
        kept=packer.kept,
        places=[place(linear) for linear in decoder.linears] if plan.lora_ready else None,
    )


def graph_facts(plan: GraphPlan) -> Graph:
    """What the Engine must know of a graph."""
    decoder, attention = plan.decoder, plan.decoder.attentions[0]
    windows = _windows(decoder, plan.context, plan.cache_type.itemsize) if plan.keeps_windows else {}
    return Graph(
        cache="shared",
        layers=len(decoder.layers),
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        head_dim=cache_head_dim(attention),
        hidden=decoder.hidden,
        vocab=decoder.vocab,
        activations=plan.activations.name,
        tied=plan.tied,
        lora_places=len(decoder.linears) if plan.lora_ready else None,
        windows=windows or None,
    )


def graph_size(plan: GraphPlan, text: TextFiles) -> int:
    """Bytes of all files that a native graph brings into a bundle, exactly."""
    facts = graph_facts(plan)
    places = places_size(plan.decoder, facts.activations) if plan.lora_ready else 0
    other = 0 if plan.decoder.headless else len(json_text(genai.config(plan, facts, text)).encode())
    return weigh(plan) + places + other


def weigh(plan: GraphPlan) -> int:
    """Bytes of the graphs and their weights, exactly, as zeros take as many."""
    metadata = {"family": plan.decoder.family}
    return sum(data.size + len(builder.serialized(metadata)) for builder, data in blank_graphs(plan))


def blank_graphs(plan: GraphPlan) -> Iterator[tuple[Builder, DataFile]]:
    """The graphs of a bundle in turn, over tensors of zeros, and their data files: nothing is read, nothing is written."""
    scales = _blank_scales(plan.decoder) if plan.quantised_kv else {}
    weights = partial(
        decoder_graph.Weights,
        vector=lambda source: np.zeros(source.rows, np.float32),
        table=lambda _, shape, start, count: np.zeros((count, shape[1]), np.float32),
        array=lambda _, shape: np.zeros(shape, np.float32),
    )
    for _, builder, data in _graphs(plan, weights, scales, _Packing(SizedFile, _sized, _sized)):
        yield builder, data


_Pack = Callable[[Builder, Linear, Format], Matrix]


@dataclass(frozen=True)
class _Packing:
    """Where matrices go, by the data file's name, and what packs those of decode's and the prefill graph."""

    open: Callable[[str], DataFile]
    first: _Pack
    again: _Pack


def _graphs(
    plan: GraphPlan,
    weights: Callable[[Callable[[Linear, Format], Matrix]], decoder_graph.Weights],
    scales: Mapping[str, KVScales],
    packing: _Packing,
) -> Iterator[tuple[str, Builder, DataFile]]:
    """Build the graphs of a bundle in turn: (its file's name, the graph, its data file, all of it written)."""
    decoder, spec, formats, dtype = plan.decoder, plan.spec, plan.formats, plan.activations.name
    kv = KVLayout(plan.context, scales, plan.keeps_windows)
    build = partial(decoder_graph.build, kv=kv, branches=plan.lora_ready)
    packed: dict[str, Matrix] = {}
    with packing.open(DATA) as data:
        builder = Builder(data, dtype)

        def pack(linear: Linear, format: Format) -> Matrix:
            packed[linear.name] = matrix = packing.first(builder, linear, format)
            return matrix

        build(builder, decoder, formats, weights(pack))
        yield MODEL, builder, data
    if spec.prefill is None:
        return
    with packing.open(PREFILL_DATA) as data:
        prompts = Builder(data, dtype, builder)
        again = prefill.packing(packed, partial(packing.again, prompts))
        build(prompts, decoder, prefill.formats(spec, formats), weights(again), cache_alone=True)
        yield PREFILL, prompts, data


def _sized(b: Builder, linear: Linear, format: Format) -> Matrix:
    """The matrix in a `SizedFile`."""
    return format.pack(b, linear.name, linear.outputs, linear.inputs, ())


def _windows(decoder: Decoder, context: int, itemsize: int) -> dict[int, WindowFacts]:
    """Layers whose cache holds a window alone, by number: how long it is, what there is room for, bytes of a token."""
    return {
        index: WindowFacts(mixer.window, capacity, 2 * mixer.kv_heads * cache_head_dim(mixer) * itemsize)
        for index, layer in enumerate(decoder.layers)
        if isinstance(mixer := layer.attention, Attention)
        and mixer.window is not None
        and (capacity := window_capacity(mixer, context)) is not None
    }


def _blank_scales(decoder: Decoder) -> dict[str, KVScales]:
    """What takes as many bytes as the scales of keys and values that are yet to be found."""
    shapes = {
        layer.name: (1, mixer.kv_heads, 1, cache_head_dim(mixer))
        for layer in decoder.layers
        if isinstance(mixer := layer.attention, Attention)
    }
    return {name: KVScales(*(np.ones(shape, np.float32) for _ in range(2))) for name, shape in shapes.items()}


class _Packer:
    """Streams matrices from the checkpoint through their format into the data file, telling the progress."""

    def __init__(
        self, reader: WeightReader, calibrated: Calibrated | None, progress: Progress, *, errors: bool
    ) -> None:
        self.reader = reader
        self.calibrated = calibrated
        self.progress = progress
        self.errors: dict[str, dict[str, Any]] = {}
        self.kept: dict[str, int] = {}
        self._wanted = errors

    def pack_again(self, b: Builder, linear: Linear, format: Format) -> Matrix:
        """The matrix as the checkpoint has it, packed for a second graph."""
        rows = self._told(linear, self.reader.rows(linear))
        return format.pack(b, linear.name, linear.outputs, linear.inputs, rows)

    def _told(self, linear: Linear, pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for piece in pieces:
            yield piece
            self.progress.advance(piece.size, linear.name)

    def pack(self, b: Builder, linear: Linear, format: Format) -> Matrix:
        """The packed matrix; one that is quantised already keeps its codes where the format can adopt them."""
        scheme = self.reader.checkpoint.scheme
        adopted = None if scheme is None else format.adopting(scheme, linear.inputs)
        if adopted is not None and (codes := self.reader.codes(linear)):
            self.progress.advance(linear.outputs * linear.inputs, linear.name)
            return adopted.pack_codes(b, linear.name, codes)
        if format.holds(self.reader.code_type(linear)):
            return self._keep(b, linear, format)
        rounded = None if self.calibrated is None else self.calibrated.get(linear.name)
        if rounded is None:
            return format.pack(b, linear.name, linear.outputs, linear.inputs, self._rows(linear, format))
        self.progress.advance(linear.outputs * linear.inputs, linear.name)
        self.errors[linear.name] = rounded.errors()
        return rounded.format.pack_parts(b, linear.name, linear.outputs, linear.inputs, rounded.pieces())

    def _keep(self, b: Builder, linear: Linear, format: Format) -> Matrix:
        """The matrix by the codes it has in a GGUF file."""
        kind, n, k = self.reader.code_type(linear), linear.outputs, linear.inputs
        assert kind is not None
        self.kept[kind.name] = self.kept.get(kind.name, 0) + n * k
        if self._wanted:
            self.errors[linear.name] = {"format": str(format.spec), "weight": 0.0}

        def told() -> Iterator[Parts]:
            for codes in self.reader.code_rows(linear):
                yield format.coded(codes)
                self.progress.advance(codes.codes.size, linear.name)

        return format.pack_parts(b, linear.name, n, k, told())

    def _rows(self, linear: Linear, format: Format) -> Iterator[np.ndarray]:
        lost = whole = 0.0
        for piece in self._told(linear, self.reader.rows(linear)):
            if self._wanted:
                lost += squares(format.rounded(piece) - piece)
                whole += squares(piece)
            yield piece
        if self._wanted:
            self.errors[linear.name] = {"format": str(format.spec), "weight": lost / whole if whole else 0.0}

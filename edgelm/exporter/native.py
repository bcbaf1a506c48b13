"""The native road: config.json + safetensors → graph, tensor by tensor, without torch."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator

import numpy as np

from edgelm.bundle import DATA, MODEL, BundleWriter
from edgelm.errors import ExportError
from edgelm.exporter import graph, recipe
from edgelm.exporter.builder import Builder
from edgelm.exporter.checkpoint import Checkpoint
from edgelm.exporter.decoder import Decoder, Linear
from edgelm.exporter.formats import Format, Matrix
from edgelm.exporter.progress import Progress
from edgelm.exporter.result import GraphResult
from edgelm.exporter.store import DataFile
from edgelm.target import RecipeSpec, Target


def write_graph(
    checkpoint: Checkpoint,
    decoder: Decoder,
    target: Target,
    spec: RecipeSpec,
    context: int,
    writer: BundleWriter,
    progress: Progress,
) -> GraphResult:
    """Write model.onnx and model.onnx.data into the bundle.

    Raises:
        CheckpointError: a tensor is missing, of another shape, or not finite.
        ExportError: the disk is too small.
    """
    formats, dtype = recipe.formats(spec, decoder.hidden), recipe.activations(spec, target)
    tied = decoder.tied and formats.head.can_gather(decoder.hidden)
    size = packed_bytes(decoder, formats, tied)
    _need_disk(writer, size)
    _expect_all(checkpoint, decoder)
    progress.start("weights", decoder.parameters)
    packer = _Packer(checkpoint, progress)
    with DataFile(writer.path(DATA)) as data:
        builder = Builder(data, dtype.name)
        packer.builder = builder
        graph.build(builder, decoder, formats, graph.Weights(packer.pack, checkpoint.vector), context)
        builder.save(writer.path(MODEL), {"family": decoder.family})
    progress.finish()
    attention = decoder.layers[0].attention
    return GraphResult(
        graph={
            "cache": "shared",
            "layers": len(decoder.layers),
            "heads": attention.heads,
            "kv_heads": attention.kv_heads,
            "head_dim": graph.cache_head_dim(attention),
            "hidden": decoder.hidden,
            "vocab": decoder.vocab,
            "activations": dtype.name,
            "tied": tied,
        },
        recipe={**recipe.used(formats, tied), "kv": {"op": "none", "bits": 8 * dtype.itemsize}},
        parameters=decoder.parameters,
        weight_bytes_per_token=size - (0 if tied else formats.embedding.nbytes(decoder.vocab, decoder.hidden)),
        kv_bytes_per_token=sum(2 * x.attention.kv_heads * graph.cache_head_dim(x.attention) for x in decoder.layers)
        * dtype.itemsize,
    )


def packed_bytes(decoder: Decoder, formats: graph.Formats, tied: bool) -> int:
    """Bytes of all matrices as the formats pack them."""
    body = sum(formats.body.fit(m.inputs).nbytes(m.outputs, m.inputs) for m in decoder.linears)
    head = formats.head.nbytes(decoder.vocab, decoder.hidden)
    return body + head + (0 if tied else formats.embedding.nbytes(decoder.vocab, decoder.hidden))


class _Packer:
    """Streams matrices from the checkpoint through their format into the data file, telling the progress."""

    builder: Builder

    def __init__(self, checkpoint: Checkpoint, progress: Progress) -> None:
        self.checkpoint = checkpoint
        self.progress = progress

    def pack(self, linear: Linear, format: Format) -> Matrix:
        """The packed matrix."""
        return format.pack(self.builder, linear.name, linear.outputs, linear.inputs, self._rows(linear))

    def _rows(self, linear: Linear) -> Iterator[np.ndarray]:
        for name, rows in linear.sources:
            for piece in self.checkpoint.rows(name, (rows, linear.inputs)):
                yield piece
                self.progress.advance(piece.size, linear.name)


def _expect_all(checkpoint: Checkpoint, decoder: Decoder) -> None:
    """Check every tensor's name and shape before the first byte is written."""
    for linear in (*decoder.linears, decoder.embedding, decoder.head):
        for name, rows in linear.sources:
            checkpoint.expect(name, (rows, linear.inputs))
        _expect_vectors(checkpoint, linear.biases)
    norms = [decoder.norm, *(n for layer in decoder.layers for n in (layer.attention_norm, layer.mlp_norm))]
    _expect_vectors(checkpoint, ((name, decoder.hidden) for name in norms))


def _expect_vectors(checkpoint: Checkpoint, vectors: Iterable[tuple[str, int]]) -> None:
    for name, size in vectors:
        checkpoint.expect(name, (size,))


def _need_disk(writer: BundleWriter, size: int) -> None:
    free = shutil.disk_usage(writer.folder).free
    if size > free:
        raise ExportError(
            f"not enough disk for {writer.output}: the weights need {size / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free",
            hint="free some space, choose another disk with -o, or fewer bits with --quant",
        )

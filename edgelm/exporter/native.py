"""The native road: config.json + safetensors → graph, tensor by tensor, without torch."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import numpy as np

from edgelm.bundle import DATA, MODEL, BundleWriter
from edgelm.errors import ExportError
from edgelm.exporter import graph, recipe
from edgelm.exporter.attention import cache_head_dim
from edgelm.exporter.builder import Builder
from edgelm.exporter.checkpoint import Checkpoint
from edgelm.exporter.decoder import Decoder, Linear, Source
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
    tied = graph.shares_table(decoder, formats)
    size = packed_bytes(decoder, formats, tied)
    _need_disk(writer, size)
    for name, shape in decoder.tensors.items():  # before the first byte is written
        checkpoint.expect(name, shape)
    progress.start("weights", decoder.parameters)
    packer = _Packer(checkpoint, progress)
    with DataFile(writer.path(DATA)) as data:
        builder = Builder(data, dtype.name)
        packer.builder = builder
        weights = graph.Weights(packer.pack, packer.vector, packer.table)
        graph.build(builder, decoder, formats, weights, context)
        builder.save(writer.path(MODEL), {"family": decoder.family})
    progress.finish()
    attention = decoder.layers[0].attention
    return GraphResult(
        graph={
            "cache": "shared",
            "layers": len(decoder.layers),
            "heads": attention.heads,
            "kv_heads": attention.kv_heads,
            "head_dim": cache_head_dim(attention),
            "hidden": decoder.hidden,
            "vocab": decoder.vocab,
            "activations": dtype.name,
            "tied": tied,
        },
        recipe={**recipe.used(formats, tied), "kv": {"op": "none", "bits": 8 * dtype.itemsize}},
        parameters=decoder.parameters,
        weight_bytes_per_token=size - (0 if tied else formats.embedding.nbytes(decoder.vocab, decoder.hidden)),
        kv_bytes_per_token=sum(2 * x.attention.kv_heads * cache_head_dim(x.attention) for x in decoder.layers)
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

    def vector(self, source: Source) -> np.ndarray:
        """A vector, as float32."""
        whole = self.checkpoint.vector(source.tensor, source.stored_rows)
        return (
            whole.reshape(-1, source.every)[:, source.start : source.start + source.take].ravel()
            if source.every
            else whole
        )

    def table(self, name: str, shape: tuple[int, int], start: int, count: int) -> np.ndarray:
        """Some rows of a matrix, as float32."""
        return np.concatenate(list(self.checkpoint.rows(name, shape)))[start : start + count]

    def _rows(self, linear: Linear) -> Iterator[np.ndarray]:
        for source in linear.sources:
            for piece in self._pieces(source, linear.inputs):
                yield piece if linear.scale == 1 else piece * np.float32(linear.scale)
                self.progress.advance(piece.size, linear.name)

    def _pieces(self, source: Source, columns: int) -> Iterator[np.ndarray]:
        shape = (source.stored_rows, columns)
        if source.transposed:  # stored by columns: no slice of rows can be read, so the whole is
            whole = np.concatenate(list(self.checkpoint.rows(source.tensor, shape[::-1]))).T
            yield from (
                (whole[i : i + 1024] for i in range(0, len(whole), 1024))
                if not source.every
                else (whole[i : i + source.take] for i in range(source.start, len(whole), source.every))
            )
        elif source.every:
            for start in range(source.start, source.stored_rows, source.every):
                yield from self.checkpoint.rows(source.tensor, shape, start, start + source.take)
        else:
            yield from self.checkpoint.rows(source.tensor, shape)


def _need_disk(writer: BundleWriter, size: int) -> None:
    free = shutil.disk_usage(writer.folder).free
    if size > free:
        raise ExportError(
            f"not enough disk for {writer.output}: the weights need {size / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free",
            hint="free some space, choose another disk with -o, or fewer bits with --quant",
        )

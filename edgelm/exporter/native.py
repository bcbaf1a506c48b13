"""The native road: config.json + safetensors → graph, tensor by tensor, without torch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgelm.bundle import DATA, MODEL, BundleWriter
from edgelm.errors import CheckpointError
from edgelm.exporter import footprint, graph, recipe
from edgelm.exporter.attention import cache_head_dim
from edgelm.exporter.builder import Builder
from edgelm.exporter.checkpoint import Checkpoint, spellings
from edgelm.exporter.decoder import Decoder, Linear, Source
from edgelm.exporter.formats import Blocked, Format, Matrix
from edgelm.exporter.prequantized import Codes
from edgelm.exporter.progress import Progress
from edgelm.exporter.result import GraphResult
from edgelm.exporter.store import DataFile
from edgelm.target import RecipeSpec, Target

# What some checkpoints keep beside their weights: masks and rotary frequencies, which are computed here.
_BUFFERS = ("rotary_emb.inv_freq", "attn.bias", "attn.masked_bias", "attention.bias", "attention.masked_bias")

_HEADS = ("lm_head.weight", "embed_out.weight")  # stored by some although they are tied to the embedding


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
        ExportError: a format does not go with the target's activations.
    """
    formats, dtype = recipe.formats(spec, decoder.hidden), recipe.activations(spec, target)
    tied = graph.shares_table(decoder, formats)
    taken = footprint.of_decoder(decoder, spec, target, checkpoint.scheme)
    _expect_tensors(checkpoint, decoder, progress)  # before the first byte is written
    progress.start("weights", decoder.parameters)
    packer = _Packer(checkpoint, progress)
    with DataFile(writer.path(DATA)) as data:
        builder = Builder(data, dtype.name)
        packer.builder = builder
        weights = graph.Weights(packer.pack, packer.vector, packer.table, checkpoint.array)
        graph.build(builder, decoder, formats, weights, context)
        builder.save(writer.path(MODEL), {"family": decoder.family})
    progress.finish()
    attention = decoder.attentions[0]
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
        weight_bytes_per_token=taken.read,
        kv_bytes_per_token=taken.kv_per_token,
    )


def _expect_tensors(checkpoint: Checkpoint, decoder: Decoder, progress: Progress) -> None:
    """Every tensor of the decoder is there with its shape, and its layers have no others; what else there is is told."""
    expected = decoder.tensors
    for name, shape in expected.items():
        checkpoint.expect(name, shape)
    known = {checkpoint.key(name) for name in expected}
    extra = [n for n in checkpoint.names() if n not in known and not n.endswith(_BUFFERS)]
    prefix = decoder.layers[0].name.rpartition(".")[0] + "."
    if inside := [n for n in extra if n.startswith(tuple(spellings(prefix)))]:
        raise CheckpointError(
            f"{checkpoint.path}: tensor {_some(inside)} has no place in a {decoder.family} model of this config.json",
            hint="config.json belongs to another model, or try --exporter optimum",
        )
    if beside := [n for n in extra if not (decoder.tied and n.endswith(_HEADS))]:
        progress.say(f"left out, as a {decoder.family} decoder has no place for it: {_some(beside)}")


def _some(names: list[str]) -> str:
    return f"'{names[0]}'" + (f" and {len(names) - 1} more" if len(names) > 1 else "")


class _Packer:
    """Streams matrices from the checkpoint through their format into the data file, telling the progress."""

    builder: Builder

    def __init__(self, checkpoint: Checkpoint, progress: Progress) -> None:
        self.checkpoint = checkpoint
        self.progress = progress

    def pack(self, linear: Linear, format: Format) -> Matrix:
        """The packed matrix; one that is quantised already keeps its codes where the format has the same operator."""
        if isinstance(format, Blocked) and (codes := self._codes(linear)):
            self.progress.advance(linear.outputs * linear.inputs, linear.name)
            return Blocked(codes[0].bits, codes[0].block).pack_codes(self.builder, linear.name, codes)
        return format.pack(self.builder, linear.name, linear.outputs, linear.inputs, self._rows(linear))

    def _codes(self, linear: Linear) -> list[Codes]:
        """The codes of all parts of a matrix; empty where one has none, or another block, or is not taken whole."""
        found: list[Codes] = []
        for source in linear.sources if linear.scale == 1 else ():
            whole = not (source.every or source.transposed)
            codes = self.checkpoint.codes(source.tensor, (source.rows, linear.inputs)) if whole else None
            if (
                codes is None
                or codes.block < 16
                or (found and (codes.bits, codes.block) != (found[0].bits, found[0].block))
            ):
                return []
            found.append(codes)
        return found

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

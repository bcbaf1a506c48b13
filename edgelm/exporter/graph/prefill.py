"""The prefill graph, beside the one that decodes: prefill.onnx writes the cache, model.onnx makes logits.

Decode is bound by the bytes that a token reads, so it wants few bits; a prompt is bound by arithmetic, which processors do
fastest in 8 bits. Its matrices are int8 with scales per output channel, and activations with a scale per token. All else,
embedding, norms and tables, is read from model.onnx.data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from edgelm.exporter.formats.format import Format, Matrix
from edgelm.exporter.formats.registry import PREFILL
from edgelm.exporter.graph.decoder_graph import Formats
from edgelm.exporter.model.decoder import Decoder, Linear
from edgelm.target.target import RecipeSpec


def formats(spec: RecipeSpec, decoding: Formats) -> Formats:
    """The formats of the graph, from those of the one that decodes."""
    assert spec.prefill == PREFILL.spec
    return replace(decoding, body=PREFILL, matrices={})


def linears(decoder: Decoder) -> tuple[Linear, ...]:
    """The matrices it has: without the last feed-forward, whose outcome is for logits alone."""
    return decoder.linears[:-2]


def nbytes(decoder: Decoder) -> int:
    """Of its matrices."""
    return sum(PREFILL.nbytes(m.outputs, m.inputs) for m in linears(decoder))


def packing(
    decoding: Mapping[str, Matrix], pack: Callable[[Linear, Format], Matrix]
) -> Callable[[Linear, Format], Matrix]:
    """What packs its matrices: those of the body by `pack`; embedding and head are the ones that are there for `decoding`."""
    return lambda linear, format: pack(linear, format) if format is PREFILL else decoding[linear.name]

"""Decoder + packed weights → the ONNX graph that the Engine, and onnxruntime-genai, run.

One graph for prefill and decode. In: ``input_ids [B, S]``, ``attention_mask [B, T]``, the cache of every
layer, and ``num_logits`` (default 1): for how many of the last positions logits are wanted.
Out: ``logits [B, num_logits, V]`` and the cache. Past and present are one buffer of a capacity >= T. Rows of a batch are
texts of different lengths, told by the sums of their masks: with a past they decode one token each; what reads several
tokens onto a past has one row.

A bundle may have a second graph, for prefill: it writes the cache alone, and no logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from edgelm.bundle.reader import HIDDEN, lora_inputs
from edgelm.exporter.formats.format import Format, Matrix
from edgelm.exporter.formats.registry import table_format
from edgelm.exporter.graph.attention import BATCH, AttentionBuilder, KVLayout, cache_shape, window_capacity
from edgelm.exporter.graph.deltanet import DeltaNetBuilder
from edgelm.exporter.graph.shortconv import ShortConvBuilder
from edgelm.exporter.model.decoder import (
    Activation,
    Attention,
    Decoder,
    GatedDeltaNet,
    Layer,
    Linear,
    Mlp,
    Norm,
    Positions,
    ShortConv,
    Source,
)
from edgelm.exporter.onnx.builder import MICROSOFT, Builder

_TO_THE_END = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Formats:
    """The format of each role; the embedding's counts only where it is not tied to the head.

    `matrices` has those of body matrices that differ from `body`, by name.
    """

    body: Format
    head: Format
    embedding: Format
    matrices: Mapping[str, Format] = field(default_factory=dict)

    def of(self, linear: Linear) -> Format:
        """The format of a body matrix, its block made to suit it."""
        return self.matrices.get(linear.name, self.body).fit(linear.inputs)

    def multiplied(self, linear: Linear) -> Format:
        """The same, as what the matrix reads asks for."""
        return self.of(linear).uneven if linear.uneven else self.of(linear)


@dataclass(frozen=True)
class Weights:
    """Where the builder gets weights from.

    Attributes:
        pack: (matrix, format) → the matrix in the data file, quantised.
        vector: rows of a vector → float32 [rows].
        table: (tensor name, shape, first row, rows) → float32 [rows, columns].
        array: (tensor name, shape) → float32 of that shape; for small ones.
    """

    pack: Callable[[Linear, Format], Matrix]
    vector: Callable[[Source], np.ndarray]
    table: Callable[[str, tuple[int, int], int, int], np.ndarray]
    array: Callable[[str, tuple[int, ...]], np.ndarray]


class Mixer(Protocol):
    """What emits the part of a layer that looks at other tokens: attention, or what stands in its place."""

    def build(self, layer: str, part: Any, x: ir.Value, past: list[ir.Value]) -> tuple[ir.Value, list[ir.Value]]:
        """On x [B, S, hidden]: (output [B, S, hidden], what it keeps now)."""


@dataclass(frozen=True)
class Stream:
    """The residual stream [B, S, hidden]: `residual` and what has yet to be added to it."""

    residual: ir.Value
    addend: ir.Value | None = None


def build(
    b: Builder,
    decoder: Decoder,
    formats: Formats,
    weights: Weights,
    kv: KVLayout,
    *,
    branches: bool = False,
    cache_alone: bool = False,
) -> None:
    """Add the whole decoder to `b`; with `branches` every body matrix has a place for a LoRA adapter's; with
    `cache_alone` there are no logits, nor what only they need.
    """
    graph = GraphBuilder(b, decoder, formats, weights, branches=branches)
    ids = b.input("input_ids", "int64", [BATCH, "sequence_length"])
    mask = b.input("attention_mask", "int64", [BATCH, "total_sequence_length"])
    count = b.op("ReduceSum", [mask, b.integers([1])], "attn_mask/count", keepdims=0)  # [B]: tokens after this step
    mixers = mixers_of(graph, mask, count, kv)
    stream, head = graph.embed(ids, count, kv.context)
    presents: list[tuple[ir.Value, Persistent]] = []
    for index, layer in enumerate(decoder.layers):
        context = kv.context if kv.keeps_windows else None
        kept = persistent_of(index, layer, b.float, context, quantised=layer.name in kv.scales)
        past = [b.input(k.name, k.dtype, k.shape) for k in kept]
        mixer, last = mixers[type(layer.attention)], layer is decoder.layers[-1]
        if cache_alone and last:
            present = graph.mix(layer, stream, mixer, past)[-1]
        else:
            stream, present = graph.layer(layer, stream, mixer, past)
        presents += zip(present, kept, strict=True)
    if not cache_alone:
        num_logits = b.input("num_logits", "int64", [1], default=np.array([1], np.int64))
        # A declared length of one position tells onnxruntime-genai that the prompt's other logits are left out.
        if head is None:
            b.output(graph.hidden(stream, num_logits), HIDDEN, "float32", [BATCH, 1, decoder.hidden])
        else:
            b.output(graph.logits(stream, num_logits, head), "logits", "float32", [BATCH, 1, decoder.vocab])
    for value, k in presents:
        b.output(value, k.name.replace("past_key_values", "present"), k.dtype, k.shape)


def mixers_of(graph: GraphBuilder, mask: ir.Value, count: ir.Value, kv: KVLayout) -> dict[type, Mixer]:
    """What emits each kind of a layer's first part, by the type that describes it."""
    b, linear, norm, array = graph.b, graph.linear, graph.plain_norm, graph.weights.array
    return {
        Attention: AttentionBuilder(b, linear, norm, mask, count, kv),
        ShortConv: ShortConvBuilder(b, linear, array),
        GatedDeltaNet: DeltaNetBuilder(b, linear, norm, array),
    }


@dataclass(frozen=True)
class Persistent:
    """What a layer keeps from token to token: an input, and an output that takes its place in the next step."""

    name: str
    shape: list[int | str]
    dtype: str


def persistent_of(
    index: int, layer: Layer, activations: np.dtype[Any], context: int | None = None, *, quantised: bool = False
) -> list[Persistent]:
    """Keys and values of attention, whose third axis grows; states, whose axes but the first are all fixed, of what takes its place.

    Keys and values are int8 where they are `quantised`; in a bundle with a `context` they may be those of a window. The names are those that onnxruntime-genai knows.
    """
    name, mixer = f"past_key_values.{index}", layer.attention
    if isinstance(mixer, Attention):
        dtype = "int8" if quantised else activations.name
        shape = cache_shape(mixer, windowed=context is not None and window_capacity(mixer, context) is not None)
        return [Persistent(f"{name}.{kind}", shape, dtype) for kind in ("key", "value")]
    return [
        Persistent(f"{name}.{state.kind}", [BATCH, *state.shape[1:]], "float32" if state.full else activations.name)
        for state in mixer.states
    ]


class GraphBuilder:
    """Emits the parts of one decoder."""

    def __init__(
        self, b: Builder, decoder: Decoder, formats: Formats, weights: Weights, *, branches: bool = False
    ) -> None:
        self.b = b
        self.branches = branches
        self.decoder = decoder
        self.formats = formats
        self.weights = weights

    def embed(self, ids: ir.Value, count: ir.Value, context: int) -> tuple[Stream, Matrix | None]:
        """Token vectors [B, S, hidden], and the packed head where there is one."""
        decoder, b = self.decoder, self.b
        head = table = None if decoder.headless else self.weights.pack(decoder.head, self.formats.head.scoring)
        if table is None or not shares_table(decoder, self.formats):
            table = self.weights.pack(decoder.embedding, embedding_format(decoder, self.formats))
        x = table.format.gather(b, ids, table, decoder.embedding.name)
        if decoder.embedding_scale != 1:
            x = b.op("Mul", [x, self._scalar("embedding_scale", decoder.embedding_scale)], "embedding/scale")
        if decoder.positions is not None:
            x = b.op("Add", [x, self._positions(decoder.positions, ids, count, context)], "embedding/add_positions")
        if decoder.embedding_norm is not None:
            x = self.plain_norm(x, decoder.embedding_norm)
        return Stream(x), head

    def _positions(self, positions: Positions, ids: ir.Value, count: ir.Value, context: int) -> ir.Value:
        """Learned embeddings of the positions count - S … count - 1 of each row, [B, S, hidden]."""
        b = self.b
        shape = (positions.rows, self.decoder.hidden)
        rows = self.weights.table(
            positions.tensor, shape, positions.offset, min(context, positions.rows - positions.offset)
        )
        length = b.op("Shape", [ids], "positions/length", start=1, end=2)
        start = b.op("Unsqueeze", [b.op("Sub", [count, length], "positions/start"), b.integers([1])], "positions/from")
        steps = b.op(
            "Range",
            [b.integers(0), b.op("Squeeze", [length, b.integers([0])], "positions/to"), b.integers(1)],
            "positions/range",
        )
        index = b.op("Add", [start, steps], "positions/index")  # [B, 1] + [S]
        return b.op("Gather", [b.constant(positions.tensor, rows.astype(b.float)), index], "positions", axis=0)

    def layer(self, layer: Layer, stream: Stream, mixer: Mixer, past: list[ir.Value]) -> tuple[Stream, list[ir.Value]]:
        """One block: (the stream after it, the layer's new cache)."""
        normed, attended, stream, present = self.mix(layer, stream, mixer, past)
        if layer.attention_post_norm is not None:
            attended = self.plain_norm(attended, layer.attention_post_norm)
        if layer.parallel:
            if layer.mlp_norm is not None:
                normed = self.plain_norm(stream.residual, layer.mlp_norm)
            both = self.b.op("Add", [attended, self.mlp(layer.name, layer.mlp, normed)], f"{layer.name}/parallel")
            return Stream(stream.residual, both), present
        normed, stream = self.norm(Stream(stream.residual, attended), layer.mlp_norm, f"{layer.name}.mlp")
        out = self.mlp(layer.name, layer.mlp, normed)
        if layer.mlp_post_norm is not None:
            out = self.plain_norm(out, layer.mlp_post_norm)
        return Stream(stream.residual, out), present

    def mix(
        self, layer: Layer, stream: Stream, mixer: Mixer, past: list[ir.Value]
    ) -> tuple[ir.Value, ir.Value, Stream, list[ir.Value]]:
        """A block's first part: (what it reads, its output, the stream without that, the layer's new cache)."""
        normed, stream = self.norm(stream, layer.attention_norm, f"{layer.name}.attention")
        attended, present = mixer.build(layer.name, layer.attention, normed, past)
        return normed, attended, stream, present

    def norm(self, stream: Stream, norm: Norm | None, name: str) -> tuple[ir.Value, Stream]:
        """Add what has yet to be added, and norm the sum: (normed, the stream with nothing left to add)."""
        if stream.addend is None:
            return (stream.residual if norm is None else self.plain_norm(stream.residual, norm)), stream
        if norm is None:
            total = self.b.op("Add", [stream.addend, stream.residual], f"{name}/residual")
            return total, Stream(total)
        operator = "SkipSimplifiedLayerNormalization" if norm.kind == "rms" else "SkipLayerNormalization"
        normed, _, _, total = self.b.ops(
            operator,
            [stream.addend, stream.residual, *self._norm_weights(norm)],
            norm.name,
            domain=MICROSOFT,
            outputs=4,
            unused=(1, 2),  # mean and inverse deviation, for training
            epsilon=norm.eps,
        )
        return normed, Stream(total)

    def plain_norm(self, x: ir.Value, norm: Norm) -> ir.Value:
        """The norm of a value's last axis."""
        operator = "SimplifiedLayerNormalization" if norm.kind == "rms" else "LayerNormalization"
        return self.b.op(operator, [x, *self._norm_weights(norm)], norm.name, axis=-1, epsilon=norm.eps)

    def _norm_weights(self, norm: Norm) -> list[ir.Value]:
        weight = (self.weights.vector(Source(norm.weight, norm.size)) + np.float32(norm.offset)) * np.float32(
            norm.scale
        )
        values = [self.b.constant(norm.weight, weight.astype(self.b.float))]
        if norm.bias is not None:
            bias = self.weights.vector(Source(norm.bias, norm.size)) * np.float32(norm.scale)
            values.append(self.b.constant(norm.bias, bias.astype(self.b.float)))
        return values

    def linear(self, linear: Linear, x: ir.Value) -> ir.Value:
        """A body matrix, with its bias where it has one."""
        matrix = self.weights.pack(linear, self.formats.multiplied(linear))
        y = matrix.format.matmul(self.b, x, matrix, linear.name, self._bias(linear))
        return self._branch(linear, x, y) if self.branches else y

    def _branch(self, linear: Linear, x: ir.Value, y: ir.Value) -> ir.Value:
        """``y + x A B``, with A [inputs, rank] and B [rank, outputs] inputs that may be left out: rank 0, which adds nothing."""
        names, dtype, rank = lora_inputs(linear.name), self.b.float.name, f"{linear.name}.rank"
        shapes: list[list[int | str]] = [[linear.inputs, rank], [rank, linear.outputs]]
        empty = [np.zeros([0 if size == rank else int(size) for size in shape], self.b.float) for shape in shapes]
        a, b = (self.b.input(n, dtype, s, default=e) for n, s, e in zip(names, shapes, empty, strict=True))
        low = self.b.op("MatMul", [x, a], f"{linear.name}/lora_A")
        return self.b.op("Add", [y, self.b.op("MatMul", [low, b], f"{linear.name}/lora_B")], f"{linear.name}/lora")

    def _bias(self, linear: Linear) -> ir.Value | None:
        if not linear.biases:
            return None
        values = np.concatenate([self.weights.vector(source) for source in linear.biases]) * np.float32(linear.scale)
        return self.b.constant(f"{linear.name}.bias", values.astype(self.b.float))

    def mlp(self, name: str, mlp: Mlp, x: ir.Value) -> ir.Value:
        """The feed-forward; where it is gated, gate and up are one product."""
        up = self.linear(mlp.up, x)
        if not mlp.gated:
            return self.linear(mlp.down, self.activation(mlp.activation, up, f"{name}.mlp/act"))
        gate, up = self.b.ops("Split", [up], f"{name}.mlp/split", outputs=2, axis=-1, num_outputs=2)
        gate = self.activation(mlp.activation, gate, f"{name}.mlp/act")
        return self.linear(mlp.down, self.b.op("Mul", [gate, up], f"{name}.mlp/mul"))

    def activation(self, kind: Activation, x: ir.Value, name: str) -> ir.Value:
        """The activation function."""
        match kind:
            case "silu":  # x sigmoid(alpha x), one node at alpha = 1
                return self.b.op("QuickGelu", [x], name, domain=MICROSOFT, alpha=1.0)
            case "relu":
                return self.b.op("Relu", [x], name)
            case "relu2":
                positive = self.b.op("Relu", [x], f"{name}/relu")
                return self.b.op("Mul", [positive, positive], name)
            case "gelu":
                return self.b.op("Gelu", [x], name)
            case "gelu_tanh":
                return self.b.op("Gelu", [x], name, approximate="tanh")

    def hidden(self, stream: Stream, count: ir.Value) -> ir.Value:
        """The hidden states after the final norm at the last `count` positions, float32 [B, count, hidden]."""
        last = self._last(stream, count, HIDDEN)
        return (
            last
            if self.b.float == np.float32
            else self.b.op("Cast", [last], f"{HIDDEN}/cast", to=int(ir.DataType.FLOAT))
        )

    def _last(self, stream: Stream, count: ir.Value, name: str) -> ir.Value:
        """Final norm, and of that the last `count` positions."""
        b = self.b
        normed, _ = self.norm(stream, self.decoder.norm, "final")
        start = b.op("Neg", [count], f"{name}/start")
        return b.op("Slice", [normed, start, b.integers([_TO_THE_END]), b.integers([1])], f"{name}/last")

    def logits(self, stream: Stream, num_logits: ir.Value, head: Matrix) -> ir.Value:
        """Final norm and head on the last `num_logits` positions, float32 [B, num_logits, vocab]."""
        b, decoder = self.b, self.decoder
        last = self._last(stream, num_logits, "logits")
        logits = head.format.matmul(b, last, head, decoder.head.name, self._bias(decoder.head))
        if b.float != np.float32:
            logits = b.op("Cast", [logits], "logits/cast", to=int(ir.DataType.FLOAT))
        if cap := decoder.logits_softcap:
            limit = b.constant("logits/softcap", np.array(cap, np.float32))
            small = b.op("Tanh", [b.op("Div", [logits, limit], "logits/divided")], "logits/tanh")
            logits = b.op("Mul", [small, limit], "logits/capped")
        return logits

    def _scalar(self, name: str, value: float) -> ir.Value:
        return self.b.constant(name, np.array(value, self.b.float))


def shares_table(decoder: Decoder, formats: Formats) -> bool:
    """Whether the embedding is looked up from the head's bytes."""
    return decoder.tied and not decoder.headless and formats.head.can_gather(decoder.hidden)


def embedding_format(decoder: Decoder, formats: Formats) -> Format:
    """The format of an embedding of its own: the recipe's, or plain int8 rows where its blocks do not fit."""
    return table_format(formats.embedding, decoder.hidden)

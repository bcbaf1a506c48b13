"""Decoder + packed weights → the ONNX graph that the Engine, and onnxruntime-genai, run.

One graph for prefill and decode. In: ``input_ids [1, S]``, ``attention_mask [1, T]``, the cache of every
layer, and ``num_logits`` (default 1): for how many of the last positions logits are wanted.
Out: ``logits [1, num_logits, V]`` and the cache. Past and present are one buffer of a capacity >= T.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgelm.exporter.builder import MICROSOFT, Builder
from edgelm.exporter.decoder import Activation, Attention, Decoder, Layer, Linear, Mlp, Rope
from edgelm.exporter.formats import Format, Matrix

_TO_THE_END = np.iinfo(np.int64).max
_HEAD_MULTIPLE = 16  # GroupQueryAttention rotates heads of a multiple of 16 dimensions only


@dataclass(frozen=True)
class Formats:
    """The format of each role; the embedding's counts only where it is not tied to the head."""

    body: Format
    head: Format
    embedding: Format


@dataclass(frozen=True)
class Weights:
    """Where the builder gets weights from.

    Attributes:
        pack: (matrix, format) → the matrix in the data file, quantised.
        vector: (tensor name, size) → float32 [size].
    """

    pack: Callable[[Linear, Format], Matrix]
    vector: Callable[[str, int], np.ndarray]


@dataclass(frozen=True)
class _Shared:
    """Values that every attention layer reads."""

    seqlens: ir.Value  # int32 [1]: tokens in the cache after this step, minus one
    total: ir.Value  # int32 []: length of the attention mask
    context: int


def build(b: Builder, decoder: Decoder, formats: Formats, weights: Weights, context: int) -> None:
    """Add the whole decoder to `b`."""
    graph = _GraphBuilder(b, decoder, formats, weights)
    ids = b.input("input_ids", "int64", [1, "sequence_length"])
    mask = b.input("attention_mask", "int64", [1, "total_sequence_length"])
    shared = _shared(b, mask, context)
    stream, head = graph.embed(ids)
    residual: ir.Value | None = None  # None until there is something to add
    presents = []
    for index, layer in enumerate(decoder.layers):
        past = graph.past(index, layer.attention)
        stream, residual, present = graph.layer(layer, stream, residual, past, shared)
        presents.append(present)
    num_logits = b.input("num_logits", "int64", [1], default=np.array([1], np.int64))
    logits = graph.logits(stream, residual, num_logits, head)
    # A declared length of one position tells onnxruntime-genai that the prompt's other logits are left out.
    b.output(logits, "logits", "float32", [1, 1, decoder.vocab])
    for index, present in enumerate(presents):
        attention = decoder.layers[index].attention
        shape = cache_shape(attention)
        for kind, value in zip(("key", "value"), present, strict=True):
            b.output(value, f"present.{index}.{kind}", b.float.name, shape)


def cache_head_dim(attention: Attention) -> int:
    """Dimensions a head takes in the cache: zeros fill it up where the operator wants more."""
    return -(-attention.head_dim // _HEAD_MULTIPLE) * _HEAD_MULTIPLE


def cache_shape(attention: Attention) -> list[int | str]:
    """Shape of a layer's keys, and of its values."""
    return [1, attention.kv_heads, "capacity", cache_head_dim(attention)]


def _shared(b: Builder, mask: ir.Value, context: int) -> _Shared:
    count = b.op("ReduceSum", [mask, b.integers([1])], "attn_mask/count", keepdims=0)
    last = b.op("Sub", [count, b.integers([1])], "attn_mask/last")
    seqlens = b.op("Cast", [last], "attn_mask/seqlens_k", to=int(ir.DataType.INT32))
    length = b.op("Shape", [mask], "attn_mask/shape", start=1, end=2)
    scalar = b.op("Squeeze", [length, b.integers([0])], "attn_mask/length")
    total = b.op("Cast", [scalar], "attn_mask/total_sequence_length", to=int(ir.DataType.INT32))
    return _Shared(seqlens, total, context)


class _GraphBuilder:
    """Emits the parts of one decoder; `stream` is a block's output that `residual` has yet to be added to."""

    def __init__(self, b: Builder, decoder: Decoder, formats: Formats, weights: Weights) -> None:
        self.b = b
        self.decoder = decoder
        self.formats = formats
        self.weights = weights

    def embed(self, ids: ir.Value) -> tuple[ir.Value, Matrix]:
        """Token vectors [1, S, hidden], and the packed head."""
        decoder, formats = self.decoder, self.formats
        head = self.weights.pack(decoder.head, formats.head)
        if decoder.tied and formats.head.can_gather(decoder.hidden):
            return formats.head.gather(self.b, ids, head, decoder.embedding.name), head
        table = self.weights.pack(decoder.embedding, formats.embedding)
        return formats.embedding.gather(self.b, ids, table, decoder.embedding.name), head

    def past(self, index: int, attention: Attention) -> tuple[ir.Value, ir.Value]:
        """The cache of one layer as graph inputs."""
        shape = cache_shape(attention)
        dtype = self.b.float.name
        return (
            self.b.input(f"past_key_values.{index}.key", dtype, shape),
            self.b.input(f"past_key_values.{index}.value", dtype, shape),
        )

    def layer(
        self,
        layer: Layer,
        stream: ir.Value,
        residual: ir.Value | None,
        past: tuple[ir.Value, ir.Value],
        shared: _Shared,
    ) -> tuple[ir.Value, ir.Value, tuple[ir.Value, ir.Value]]:
        """One block: (its output, the residual to add it to, the layer's new cache)."""
        normed, residual = self.norm(stream, residual, layer.attention_norm)
        attended, present = self.attention(layer.name, layer.attention, normed, past, shared)
        normed, residual = self.norm(attended, residual, layer.mlp_norm)
        return self.mlp(layer.name, layer.mlp, normed), residual, present

    def norm(self, stream: ir.Value, residual: ir.Value | None, weight: str) -> tuple[ir.Value, ir.Value]:
        """RMS norm of stream + residual: (normed, the sum)."""
        name, epsilon = weight.removesuffix(".weight"), self.decoder.norm_eps
        scale = self.b.constant(weight, self.weights.vector(weight, self.decoder.hidden).astype(self.b.float))
        if residual is None:
            return self.b.op("SimplifiedLayerNormalization", [stream, scale], name, axis=-1, epsilon=epsilon), stream
        normed, _, _, total = self.b.ops(
            "SkipSimplifiedLayerNormalization",
            [stream, residual, scale],
            name,
            domain=MICROSOFT,
            outputs=4,
            unused=(1, 2),  # mean and inverse deviation, for training
            epsilon=epsilon,
        )
        return normed, total

    def linear(self, linear: Linear, x: ir.Value) -> ir.Value:
        """A body matrix, with its bias where it has one."""
        format = self.formats.body.fit(linear.inputs)
        bias = None
        if linear.biases:
            values = np.concatenate([self.weights.vector(name, size) for name, size in linear.biases])
            bias = self.b.constant(f"{linear.name}.bias", values.astype(self.b.float))
        return format.matmul(self.b, x, self.weights.pack(linear, format), linear.name, bias)

    def attention(
        self, name: str, attention: Attention, x: ir.Value, past: tuple[ir.Value, ir.Value], shared: _Shared
    ) -> tuple[ir.Value, tuple[ir.Value, ir.Value]]:
        """Attention with the rotary embedding inside: (output [1, S, hidden], the layer's new cache)."""
        width, heads = cache_head_dim(attention), attention.heads + 2 * attention.kv_heads
        qkv = self._reshape_heads(
            self.linear(attention.qkv, x), heads, attention.head_dim, width, f"{name}.self_attn/pad"
        )
        attributes: dict[str, Any] = {
            "num_heads": attention.heads,
            "kv_num_heads": attention.kv_heads,
            "scale": float(attention.scale or attention.head_dim**-0.5),
            # A window as long as the context hides nothing; without one the faster path is open.
            "local_window_size": attention.window if attention.window and attention.window < shared.context else -1,
            "do_rotary": int(attention.rope is not None),
        }
        tables = self._rope_tables(attention.rope, shared.context, width) if attention.rope is not None else []
        context, key, value = self.b.ops(
            "GroupQueryAttention",
            [qkv, None, None, *past, shared.seqlens, shared.total, *tables],
            f"{name}.self_attn",
            domain=MICROSOFT,
            outputs=3,
            **attributes,
        )
        context = self._reshape_heads(context, attention.heads, width, attention.head_dim, f"{name}.self_attn/unpad")
        return self.linear(attention.out, context), (key, value)

    def _rope_tables(self, rope: Rope, context: int, width: int) -> list[ir.Value]:
        """Cosines and sines [context, width / 2], one pair for all layers of the same rope."""
        label = f"rope/{rope.dim}_{rope.theta:g}" + (f"_{rope.scaling.kind}" if rope.scaling else "")
        padding = ((0, 0), (0, (width - rope.dim) // 2))
        tables = zip(("cos", "sin"), rope.tables(context), strict=True)
        return [self.b.constant(f"{label}.{k}", np.pad(t, padding).astype(self.b.float)) for k, t in tables]

    def _reshape_heads(self, x: ir.Value, heads: int, size: int, wanted: int, name: str) -> ir.Value:
        """Make every head of x [1, S, heads size] `wanted` wide by adding zeros, or cutting them off again.

        Both halves of a head grow alike: the rotary embedding turns dimension i of one with i of the other.
        """
        if size == wanted:
            return x
        b, old, new = self.b, size // 2, wanted // 2
        halves = b.op("Reshape", [x, b.integers([0, 0, 2 * heads, old])], f"{name}/split")
        if new > old:
            changed = b.op("Pad", [halves, b.integers([0, 0, 0, 0, 0, 0, 0, new - old])], name)
        else:
            changed = b.op("Slice", [halves, b.integers([0]), b.integers([new]), b.integers([3])], name)
        return b.op("Reshape", [changed, b.integers([0, 0, heads * wanted])], f"{name}/join")

    def mlp(self, name: str, mlp: Mlp, x: ir.Value) -> ir.Value:
        """The gated feed-forward; gate and up are one product."""
        both = self.linear(mlp.gate_up, x)
        gate, up = self.b.ops("Split", [both], f"{name}.mlp/split", outputs=2, axis=-1, num_outputs=2)
        return self.linear(
            mlp.down,
            self.b.op("Mul", [self.activation(mlp.activation, gate, f"{name}.mlp/act"), up], f"{name}.mlp/mul"),
        )

    def activation(self, kind: Activation, x: ir.Value, name: str) -> ir.Value:
        """The activation function."""
        match kind:
            case "silu":  # x sigmoid(alpha x), one node at alpha = 1
                return self.b.op("QuickGelu", [x], name, domain=MICROSOFT, alpha=1.0)
            case "relu":
                return self.b.op("Relu", [x], name)
            case "gelu":
                return self.b.op("Gelu", [x], name)
            case "gelu_tanh":
                return self.b.op("Gelu", [x], name, approximate="tanh")

    def logits(self, stream: ir.Value, residual: ir.Value | None, num_logits: ir.Value, head: Matrix) -> ir.Value:
        """Final norm and head on the last `num_logits` positions, float32 [1, num_logits, vocab]."""
        normed, _ = self.norm(stream, residual, self.decoder.norm)
        start = self.b.op("Neg", [num_logits], "logits/start")
        last = self.b.op("Slice", [normed, start, self.b.integers([_TO_THE_END]), self.b.integers([1])], "logits/last")
        logits = self.formats.head.matmul(self.b, last, head, self.decoder.head.name)
        if self.b.float != np.float32:
            logits = self.b.op("Cast", [logits], "logits/cast", to=int(ir.DataType.FLOAT))
        return logits

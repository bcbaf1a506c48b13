"""The attention of a layer: packed query, key and value into GroupQueryAttention, which also rotates and caches.

The operator rotates heads of a multiple of 16 dimensions, and of each a multiple of 16. Models with other sizes
are laid out anew: dimensions are moved, and zeros added, so that the same products and rotations come out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from edgelm.exporter.model.decoder import Attention, Linear, Norm
from edgelm.exporter.model.rope import Rope
from edgelm.exporter.onnx.builder import MICROSOFT, Builder

BATCH = "batch_size"  # the first axis of all that a graph reads and writes: texts that are read together
SLACK = 256  # tokens that a window's cache has room for beyond the window

_MULTIPLE = 16
_SCALES = 5  # inputs from the tables to the scales: positions, bias and sinks stand between


@dataclass(frozen=True)
class KVScales:
    """The scales of a layer's int8 keys and values: float32 [1, kv_heads, 1, head_dim] each.

    Of keys as they are after the rotary embedding, with the dimensions of the operator's head.
    """

    key: np.ndarray
    value: np.ndarray


@dataclass(frozen=True)
class KVLayout:
    """How a graph keeps keys and values.

    Attributes:
        context: tokens that there is room for.
        scales: of the layers that keep them as int8, by the layer's name.
        keeps_windows: whether layers that look back over less than the context keep their windows alone.
    """

    context: int
    scales: Mapping[str, KVScales] = field(default_factory=dict)
    keeps_windows: bool = False


def head_layout(head_dim: int, rope: Rope | None) -> tuple[int, ...]:
    """Which dimension of a head stands where in the operator's head; -1 stands for a zero.

    Rotated dimensions come first, in two halves of equal length. Where a half must be longer than the model's, it is
    filled with dimensions that are not rotated (their angle is zero), then with zeros.
    """
    if rope is None or rope.interleaved:  # pairs stand together, and what follows them is not rotated
        return (*range(head_dim), *[-1] * (_round_up(head_dim) - head_dim))
    rotary_dim, rotated = rope.dim, _round_up(rope.dim)
    half, fill = rotary_dim // 2, (rotated - rotary_dim) // 2
    rest = [*range(rotary_dim, head_dim)]
    rest += [-1] * (2 * fill - len(rest))
    layout = [*range(half), *rest[:fill], *range(half, rotary_dim), *rest[fill : 2 * fill], *rest[2 * fill :]]
    return (*layout, *[-1] * (_round_up(len(layout)) - len(layout)))


def cache_head_dim(attention: Attention) -> int:
    """Dimensions a head takes in the cache."""
    return len(head_layout(attention.head_dim, attention.rope))


def window_capacity(attention: Attention, context: int) -> int | None:
    """Tokens that a layer's cache has room for where it keeps its window alone; None where it keeps the whole context.

    The operator moves the window to the front of its buffer when that is full: with room for more it does so less often,
    and as many tokens can be taken back at no cost in between.
    """
    capacity = None if attention.window is None else attention.window + SLACK
    return capacity if capacity is not None and capacity < context else None


def cache_shape(attention: Attention, *, windowed: bool = False) -> list[int | str]:
    """Shape of a layer's keys, and of its values."""
    return [BATCH, attention.kv_heads, "window_capacity" if windowed else "capacity", cache_head_dim(attention)]


def rope_tables(rope: Rope, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines [context, rotated dimensions / 2]; what was added to the head is not rotated."""
    cos, sin = rope.tables(context)
    fill = ((0, 0), (0, (_round_up(rope.dim) - rope.dim) // 2))
    return np.pad(cos, fill, constant_values=1), np.pad(sin, fill)


class AttentionBuilder:
    """Emits attention layers; holds the values that all of them read."""

    def __init__(
        self,
        b: Builder,
        linear: Callable[[Linear, ir.Value], ir.Value],
        norm: Callable[[ir.Value, Norm], ir.Value],
        mask: ir.Value,
        count: ir.Value,
        kv: KVLayout,
    ) -> None:
        self.b = b
        self.kv = kv
        self.linear = linear
        self.norm = norm
        self._ropes: dict[Rope, list[ir.Value]] = {}
        last = b.op("Sub", [count, b.integers([1])], "attn_mask/last")
        self.seqlens = b.op("Cast", [last], "attn_mask/seqlens_k", to=int(ir.DataType.INT32))
        length = b.op("Shape", [mask], "attn_mask/shape", start=1, end=2)
        scalar = b.op("Squeeze", [length, b.integers([0])], "attn_mask/length")
        self.total = b.op("Cast", [scalar], "attn_mask/total_sequence_length", to=int(ir.DataType.INT32))

    def build(
        self, layer: str, attention: Attention, x: ir.Value, past: list[ir.Value]
    ) -> tuple[ir.Value, list[ir.Value]]:
        """Attention on x [B, S, hidden]: (output [B, S, hidden], the layer's new cache)."""
        b, name = self.b, f"{layer}.self_attn"
        layout = head_layout(attention.head_dim, attention.rope)
        attributes: dict[str, Any] = {
            "num_heads": attention.heads,
            "kv_num_heads": attention.kv_heads,
            "scale": float(attention.scale or attention.head_dim**-0.5),
            # A window as long as the context hides nothing; without one the faster path is open.
            "local_window_size": attention.window if attention.window and attention.window < self.kv.context else -1,
            "softcap": float(attention.softcap),
            "do_rotary": int(attention.rope is not None),
            "rotary_interleaved": int(attention.rope is not None and attention.rope.interleaved),
        }
        qkv, gate = self._project(name, attention, x, layout)
        tables: list[ir.Value | None] = [*self._tables(attention)]
        if self.kv.keeps_windows and window_capacity(attention, self.kv.context) is not None:
            attributes["sliding_window_cache"] = 1
        if (scales := self.kv.scales.get(layer)) is not None:
            attributes |= {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}
            constants: list[ir.Value | None] = [
                b.constant(f"{name}.{n}_scale", s) for n, s in (("k", scales.key), ("v", scales.value))
            ]
            tables = [*tables, *[None] * (_SCALES - len(tables)), *constants]
        context, key, value = self.b.ops(
            "GroupQueryAttention",
            [*qkv, *past, self.seqlens, self.total, *tables],
            name,
            domain=MICROSOFT,
            outputs=3,
            **attributes,
        )
        undo = tuple(layout.index(i) for i in range(attention.head_dim))  # values were laid out like queries and keys
        context = self._move(context, attention.heads, len(layout), undo, f"{name}/unpad")
        if gate is not None:
            context = self.b.op("Mul", [context, self.b.op("Sigmoid", [gate], f"{name}/sigmoid")], f"{name}/gate")
        return self.linear(attention.out, context), [key, value]

    def _project(
        self, name: str, attention: Attention, x: ir.Value, layout: tuple[int, ...]
    ) -> tuple[list[ir.Value | None], ir.Value | None]:
        """The operator's first three inputs, and the gate where there is one.

        All three are packed in the first, or one each where queries and keys are normed.
        """
        size = attention.head_dim
        heads: tuple[int, ...] = (attention.heads, attention.kv_heads, attention.kv_heads)
        norms: tuple[Norm | None, ...] = (attention.q_norm, attention.k_norm, None)
        if not any(norms):
            heads, norms = (sum(heads),), (None,)
        sizes = [count * size for count in (*heads, *([attention.heads] if attention.gated else []))]
        parts = [self.linear(attention.qkv, x)]
        if len(sizes) > 1:
            parts = [
                *self.b.ops("Split", [*parts, self.b.integers(sizes)], f"{name}/split", outputs=len(sizes), axis=-1)
            ]
        values: list[ir.Value | None] = []
        for part, count, norm in zip(parts, heads, norms, strict=False):
            label = name if len(heads) == 1 else f"{name}/{len(values)}"
            normed = part if norm is None else self._head_norm(part, count, size, norm, f"{label}/norm")
            values.append(self._move(normed, count, size, layout, f"{label}/pad"))
        return [*values, *[None] * (3 - len(values))], parts[-1] if attention.gated else None

    def _head_norm(self, x: ir.Value, heads: int, head_dim: int, norm: Norm, name: str) -> ir.Value:
        """A norm over every head by itself, or over all of them at once where it is as long as all."""
        if norm.size == heads * head_dim:
            return self.norm(x, norm)
        split = self.b.op("Reshape", [x, self.b.integers([0, 0, heads, head_dim])], f"{name}/heads")
        return self.b.op("Reshape", [self.norm(split, norm), self.b.integers([0, 0, heads * head_dim])], f"{name}/join")

    def _tables(self, attention: Attention) -> list[ir.Value]:
        """Cosines and sines [context, rotated dimensions / 2], one pair for all layers of the same rope."""
        rope = attention.rope
        if rope is None:
            return []
        if rope not in self._ropes:
            self._ropes[rope] = self._make_tables(rope)
        return self._ropes[rope]

    def _make_tables(self, rope: Rope) -> list[ir.Value]:
        cos, sin = rope_tables(rope, self.kv.context)
        tables = {"cos": cos, "sin": sin}
        return [self.b.constant(f"{_label(rope)}.{k}", t.astype(self.b.float)) for k, t in tables.items()]

    def _move(self, x: ir.Value, heads: int, size: int, layout: tuple[int, ...], name: str) -> ir.Value:
        """Heads of x [B, S, heads size] with dimension layout[i] at i, -1 for zero."""
        if layout == tuple(range(size)):
            return x
        b = self.b
        moved = b.op("Reshape", [x, b.integers([0, 0, heads, size])], f"{name}/split")
        if -1 in layout:  # a zero at the end of every head, to be taken wherever one is wanted
            moved = b.op("Pad", [moved, b.integers([0, 0, 0, 0, 0, 0, 0, 1])], f"{name}/zero")
            layout = tuple(size if i < 0 else i for i in layout)
        moved = b.op("Gather", [moved, b.integers(layout)], name, axis=3)
        return b.op("Reshape", [moved, b.integers([0, 0, heads * len(layout)])], f"{name}/join")


def _label(rope: Rope) -> str:
    kind = f"_{rope.scaling.kind}" if rope.scaling else ""
    return f"rope/{rope.dim}_{rope.theta:g}{kind}"


def _round_up(size: int) -> int:
    return -(-size // _MULTIPLE) * _MULTIPLE

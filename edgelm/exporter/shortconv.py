"""LFM2's short convolution: a causal filter a channel over gated inputs, with its last inputs kept as state."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from edgelm.exporter.builder import MICROSOFT, Builder
from edgelm.exporter.decoder import Linear, ShortConv, Source


class ShortConvBuilder:
    """Emits short convolutions."""

    def __init__(
        self,
        b: Builder,
        hidden: int,
        linear: Callable[[Linear, ir.Value], ir.Value],
        vector: Callable[[Source], np.ndarray],
        kernel: Callable[[str, tuple[int, ...]], np.ndarray],
    ) -> None:
        self.b = b
        self.hidden = hidden
        self.linear = linear
        self.vector = vector
        self.kernel = kernel

    def past(self, index: int, conv: ShortConv) -> list[tuple[str, list[int | str]]]:
        """Name and shape of a layer's state: the inputs of the tokens before."""
        return [(f"past_conv.{index}", [1, self.hidden, conv.length - 1])]

    def build(self, layer: str, conv: ShortConv, x: ir.Value, past: list[ir.Value]) -> tuple[ir.Value, list[ir.Value]]:
        """The convolution on x [1, S, hidden]: (output [1, S, hidden], the layer's new state)."""
        b, name = self.b, f"{layer}.conv"
        gate_in, gate_out, x = b.ops(
            "Split", [self.linear(conv.in_proj, x)], f"{name}/split", outputs=3, axis=-1, num_outputs=3
        )
        channels = b.op("Transpose", [b.op("Mul", [gate_in, x], f"{name}/gate_in")], f"{name}/channels", perm=[0, 2, 1])
        kernel = self.kernel(conv.kernel, (self.hidden, 1, conv.length)).astype(b.float)
        bias = (
            None
            if conv.bias is None
            else b.constant(conv.bias, self.vector(Source(conv.bias, self.hidden)).astype(b.float))
        )
        filtered, state = b.ops(
            "CausalConvWithState",
            [channels, b.constant(conv.kernel, kernel), bias, *past],
            name,
            domain=MICROSOFT,
            outputs=2,
            ndim=1,
        )
        tokens = b.op("Transpose", [filtered], f"{name}/tokens", perm=[0, 2, 1])
        return self.linear(conv.out, b.op("Mul", [gate_out, tokens], f"{name}/gate_out")), [state]

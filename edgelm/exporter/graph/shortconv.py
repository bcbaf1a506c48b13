"""LFM2's short convolution: a causal filter a channel over gated inputs, with its last inputs kept as state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import onnx_ir as ir

from edgelm.exporter.model.decoder import Linear, ShortConv
from edgelm.exporter.onnx.builder import MICROSOFT, Builder


class ShortConvBuilder:
    """Emits short convolutions."""

    def __init__(
        self,
        b: Builder,
        linear: Callable[[Linear, ir.Value], ir.Value],
        array: Callable[[str, tuple[int, ...]], np.ndarray],
    ) -> None:
        self.b = b
        self.linear = linear
        self.array = array

    def build(self, layer: str, conv: ShortConv, x: ir.Value, past: list[ir.Value]) -> tuple[ir.Value, list[ir.Value]]:
        """The convolution on x [B, S, hidden]: (output [B, S, hidden], the layer's new state)."""
        b, name = self.b, f"{layer}.conv"
        gate_in, gate_out, x = b.ops(
            "Split", [self.linear(conv.in_proj, x)], f"{name}/split", outputs=3, axis=-1, num_outputs=3
        )
        weights = [b.constant(n, self.array(n, shape).astype(b.float)) for n, shape in conv.tensors.items()]
        gated = b.op("Mul", [gate_in, x], f"{name}/gate_in")
        filtered, state = causal_conv(b, name, gated, weights, past[0], "none")
        return self.linear(conv.out, b.op("Mul", [gate_out, filtered], f"{name}/gate_out")), [state]


def causal_conv(
    b: Builder,
    name: str,
    x: ir.Value,
    weights: list[ir.Value],
    past: ir.Value,
    activation: Literal["none", "silu"],
) -> tuple[ir.Value, ir.Value]:
    """A causal filter a channel on x [B, S, channels], `weights` being kernel and maybe bias: (output, new state)."""
    kernel, bias = (*weights, None)[:2]
    filtered, state = b.ops(
        "CausalConvWithState",
        [x, kernel, bias, past],
        name,
        domain=MICROSOFT,
        outputs=2,
        ndim=1,
        channels_last=1,
        activation=activation,
    )
    return filtered, state

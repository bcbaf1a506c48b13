"""Linear attention by the gated delta rule, with the filter's last inputs and a matrix a head kept as state."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from edgelm.exporter.graph.shortconv import causal_conv
from edgelm.exporter.model.decoder import GatedDeltaNet, Linear, Norm
from edgelm.exporter.onnx.builder import MICROSOFT, Builder


class DeltaNetBuilder:
    """Emits gated delta nets."""

    def __init__(
        self,
        b: Builder,
        linear: Callable[[Linear, ir.Value], ir.Value],
        norm: Callable[[ir.Value, Norm], ir.Value],
        array: Callable[[str, tuple[int, ...]], np.ndarray],
    ) -> None:
        self.b = b
        self.linear = linear
        self.norm = norm
        self.array = array

    def build(
        self, layer: str, net: GatedDeltaNet, x: ir.Value, past: list[ir.Value]
    ) -> tuple[ir.Value, list[ir.Value]]:
        """Linear attention on x [B, S, hidden]: (output [B, S, hidden], the layer's new states)."""
        b, name, heads = self.b, f"{layer}.linear_attn", net.value_heads
        sizes = b.integers([net.channels, net.width, heads, heads])
        qkv, z, rate, decay = b.ops("Split", [self.linear(net.in_proj, x), sizes], f"{name}/split", outputs=4, axis=-1)
        kernel = b.constant(net.kernel, self.array(net.kernel, net.tensors[net.kernel]).astype(b.float))
        qkv, filtered = causal_conv(b, f"{name}.conv1d", qkv, [kernel], past[0], "silu")
        a_log, dt_bias = (b.constant(n, self.array(n, (heads,))) for n in (net.a_log, net.dt_bias))
        values, state = b.ops(
            "GatedDeltaNet",
            [qkv, None, None, None, decay, rate, past[1], a_log, dt_bias],
            name,
            domain=MICROSOFT,
            outputs=2,
            update_rule="gated_delta",
            gate_activation="softplus",
            beta_activation="sigmoid",
            qk_l2_norm=1,
        )
        normed = b.op("Reshape", [self.norm(values, net.norm), b.integers([0, 0, net.width])], f"{name}/join")
        gate = b.op("QuickGelu", [z], f"{name}/act", domain=MICROSOFT, alpha=1.0)  # silu
        return self.linear(net.out, b.op("Mul", [normed, gate], f"{name}/gate")), [filtered, state]

"""What a model is: a decoder-only transformer described by data.

A family file reads config.json into these; the graph builder reads nothing else. All sizes are in elements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]
RopeKind = Literal["linear", "dynamic", "llama3", "yarn"]


@dataclass(frozen=True)
class Linear:
    """A matrix product ``y = x Wᵀ + b``, packed from one or more checkpoint tensors stacked by rows.

    Attributes:
        name: of the packed matrix in the graph, as the checkpoint would name it.
        sources: (tensor name, rows) in the order they are stacked.
        inputs: columns of W.
        biases: (tensor name, size) in the same order; empty for no bias.
    """

    name: str
    sources: tuple[tuple[str, int], ...]
    inputs: int
    biases: tuple[tuple[str, int], ...] = ()

    @property
    def outputs(self) -> int:
        """Rows of W."""
        return sum(rows for _, rows in self.sources)


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched for longer contexts.

    Attributes:
        kind: ``linear``, ``dynamic``, ``llama3`` or ``yarn``.
        factor: by how much the context grew.
        original_context: the context of pre-training, in tokens.
        low_freq_factor, high_freq_factor: of llama3.
        beta_fast, beta_slow, attention_factor, truncate: of yarn.
    """

    kind: RopeKind
    factor: float
    original_context: int
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    truncate: bool = True


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding (Su et al., 2021, arXiv:2104.09864) on the first `dim` of a head's dimensions."""

    dim: int
    theta: float
    scaling: RopeScaling | None = None

    def tables(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and sines for positions 0 … length-1, each float32 [length, dim/2]."""
        positions = np.arange(length, dtype=np.float32)
        scaling = self.scaling
        if scaling is not None and scaling.kind == "dynamic" and length > scaling.original_context:
            # Beyond the original context the base depends on the length so far: as in token-by-token
            # decoding, where the key of position p is rotated when p + 1 tokens are known.
            angles: np.ndarray = np.stack([p * self._dynamic_frequencies(int(p) + 1) for p in positions])
            return np.cos(angles), np.sin(angles)
        angles = np.outer(positions, self.frequencies())
        amplitude = np.float32(scaling.attention_factor if scaling is not None and scaling.kind == "yarn" else 1.0)
        return np.cos(angles) * amplitude, np.sin(angles) * amplitude

    def frequencies(self) -> np.ndarray:
        """Radians a position, float32 [dim/2]."""
        inverse = self._inverse(self.theta)
        scaling = self.scaling
        if scaling is None or scaling.kind == "dynamic":
            return inverse
        if scaling.kind == "linear":
            return inverse / np.float32(scaling.factor)
        return _llama3(inverse, scaling) if scaling.kind == "llama3" else self._yarn(inverse, scaling)

    def _inverse(self, base: float) -> np.ndarray:
        exponents = np.arange(0, self.dim, 2, dtype=np.float32) / np.float32(self.dim)
        inverse: np.ndarray = (1.0 / np.float32(base) ** exponents).astype(np.float32)
        return inverse

    def _dynamic_frequencies(self, length: int) -> np.ndarray:
        """NTK-aware scaling: the base grows with the length so far beyond the original context."""
        assert self.scaling is not None
        ratio = max(length, self.scaling.original_context) / self.scaling.original_context
        stretch = self.scaling.factor * ratio - (self.scaling.factor - 1)
        return self._inverse(self.theta * stretch ** (self.dim / (self.dim - 2)))

    def _yarn(self, inverse: np.ndarray, scaling: RopeScaling) -> np.ndarray:
        """YaRN (Peng et al., 2023, arXiv:2309.00071): interpolate slow dimensions, keep fast ones, a ramp between."""

        def dimension(rotations: float) -> float:
            ratio = scaling.original_context / (rotations * 2 * math.pi)
            return self.dim * math.log(ratio) / (2 * math.log(self.theta))

        low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
        if scaling.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.dim - 1)
        span = high - low if high != low else 0.001
        ramp = np.clip((np.arange(self.dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(span), 0, 1)
        mixed: np.ndarray = (inverse / np.float32(scaling.factor) * ramp + inverse * (1 - ramp)).astype(np.float32)
        return mixed


def _llama3(inverse: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Llama 3.1's scaling: long wavelengths are divided by the factor, short ones kept, a ramp between.

    Source: meta-llama/llama-models, models/llama3/reference_impl/model.py.
    """
    wavelength = 2 * math.pi / inverse
    low_wavelength = scaling.original_context / scaling.low_freq_factor
    high_wavelength = scaling.original_context / scaling.high_freq_factor
    span = scaling.high_freq_factor - scaling.low_freq_factor
    smooth = (scaling.original_context / wavelength - scaling.low_freq_factor) / span
    slow = np.where(wavelength > low_wavelength, inverse / scaling.factor, inverse)
    between = (wavelength <= low_wavelength) & (wavelength >= high_wavelength)
    mixed = (1 - smooth) * inverse / scaling.factor + smooth * inverse
    return np.where(between, mixed, slow).astype(np.float32)


@dataclass(frozen=True)
class Attention:
    """Causal self-attention with grouped key/value heads.

    Attributes:
        heads, kv_heads, head_dim: the shape.
        qkv: query, key and value stacked: [(heads + 2 kv_heads) head_dim, hidden].
        out: [hidden, heads head_dim].
        rope: rotary embedding, or None.
        window: how many tokens back, itself included, a token sees; None for all.
        scale: of the scores; None for 1/sqrt(head_dim).
    """

    heads: int
    kv_heads: int
    head_dim: int
    qkv: Linear
    out: Linear
    rope: Rope | None = None
    window: int | None = None
    scale: float | None = None


@dataclass(frozen=True)
class Mlp:
    """Gated feed-forward ``down(act(gate(x)) * up(x))``; `gate_up` has gate and up stacked by rows."""

    gate_up: Linear
    down: Linear
    activation: Activation = "silu"


@dataclass(frozen=True)
class Layer:
    """A pre-norm block: RMS norm, attention, RMS norm, MLP, each added to the residual stream.

    `name`, `attention_norm` and `mlp_norm` are the checkpoint's names (the norms': of the weight tensors).
    """

    name: str
    attention_norm: str
    attention: Attention
    mlp_norm: str
    mlp: Mlp


@dataclass(frozen=True)
class Decoder:
    """A whole model.

    Attributes:
        family: the family file that described it.
        hidden, vocab: sizes.
        context: the longest input the model was made for, in tokens.
        layers: in order.
        norm: name of the last norm's weight; `norm_eps` of all.
        embedding: the table [vocab, hidden].
        head: [vocab, hidden]; the same tensor as `embedding` when tied.
    """

    family: str
    hidden: int
    vocab: int
    context: int
    layers: tuple[Layer, ...]
    norm: str
    norm_eps: float
    embedding: Linear
    head: Linear
    features: tuple[str, ...] = field(default=())

    @property
    def tied(self) -> bool:
        """Whether embedding and head are one tensor."""
        return self.embedding.sources == self.head.sources

    @property
    def context_limit(self) -> int:
        """The longest context to export for, in tokens."""
        scalings = [layer.attention.rope.scaling for layer in self.layers if layer.attention.rope is not None]
        # Dynamic scaling goes beyond max_position_embeddings; the other kinds count their stretch in it.
        dynamic = (s for s in scalings if s is not None and s.kind == "dynamic")
        return max([self.context, *(int(s.original_context * s.factor) for s in dynamic)])

    @property
    def linears(self) -> tuple[Linear, ...]:
        """Every body matrix, in graph order."""
        return tuple(
            m
            for layer in self.layers
            for m in (layer.attention.qkv, layer.attention.out, layer.mlp.gate_up, layer.mlp.down)
        )

    @property
    def parameters(self) -> int:
        """How many weights, norms and biases included, tied ones once."""
        body = sum(m.outputs * m.inputs + sum(size for _, size in m.biases) for m in self.linears)
        tables = self.vocab * self.hidden * (1 if self.tied else 2)
        return body + tables + self.hidden * (2 * len(self.layers) + 1)

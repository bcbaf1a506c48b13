"""Rotary position embedding: frequencies, and how they are stretched for longer contexts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

RopeKind = Literal["linear", "dynamic", "llama3", "yarn", "longrope"]


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched for longer contexts.

    Attributes:
        kind: which formula.
        factor: by how much the context grew.
        original_context: the context of pre-training, in tokens.
        low_freq_factor, high_freq_factor: of llama3.
        beta_fast, beta_slow, truncate: of yarn.
        short_factors, long_factors: of longrope, one a frequency: within the original context, and beyond it.
        attention_factor: by what yarn and longrope multiply cosines and sines.
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
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()

    @property
    def reach(self) -> int:
        """The longest context that it makes, in tokens; 0 for llama3 and longrope, whose files count it themselves."""
        return int(self.original_context * self.factor) if self.kind in ("dynamic", "linear", "yarn") else 0


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding (Su et al., 2021, arXiv:2104.09864) on the first `dim` of a head's dimensions.

    Dimension i turns with i + dim/2, or where `interleaved` 2i with 2i + 1.
    """

    dim: int
    theta: float
    scaling: RopeScaling | None = None
    interleaved: bool = False

    def tables(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and sines for positions 0 … length-1, each float32 [length, dim/2]."""
        positions = np.arange(length, dtype=np.float32)
        scaling = self.scaling
        if scaling is not None and scaling.kind == "dynamic" and length > scaling.original_context:
            # Beyond the original context the base depends on the length so far: as in token-by-token
            # decoding, where the key of position p is rotated when p + 1 tokens are known.
            angles: np.ndarray = np.stack([p * self._dynamic_frequencies(int(p) + 1) for p in positions])
            return np.cos(angles), np.sin(angles)
        angles = np.outer(positions, self.frequencies(length))
        amplitude = np.float32(scaling.attention_factor if scaling is not None else 1.0)
        return np.cos(angles) * amplitude, np.sin(angles) * amplitude

    def frequencies(self, length: int) -> np.ndarray:
        """Radians a position, float32 [dim/2], for contexts of `length` tokens."""
        inverse = self._inverse(self.theta)
        scaling = self.scaling
        if scaling is None:
            return inverse
        match scaling.kind:
            case "dynamic":
                return inverse
            case "linear":
                return inverse / np.float32(scaling.factor)
            case "llama3":
                return _llama3(inverse, scaling)
            case "yarn":
                return self._yarn(inverse, scaling)
            case "longrope":  # Ding et al., 2024, arXiv:2402.13753
                beyond = length > scaling.original_context
                return inverse / np.array(scaling.long_factors if beyond else scaling.short_factors, np.float32)

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

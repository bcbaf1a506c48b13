"""Activations made even before they are quantised on the fly (SmoothQuant, Xiao et al., 2022, arXiv:2211.10438).

DynamicQuantizeMatMul gives all inputs of a product one scale, MatMulNBits those of a block of a token: a channel that is
much larger than the others costs them their digits. Dividing channel j of the inputs by s_j and multiplying column j of
the matrix by it changes nothing but that. Where the division can be folded into what makes the inputs, exactly, it is
free at run time:

    the matrix after a norm that nothing else reads       s goes into the norm's weight and bias
    down, after a gated feed-forward, or after a ReLU     s goes into the rows of up
    out, after attention                                  s goes into the rows of value, the same for all queries of a head

``s_j = x_j^α / max |W_ij|^(1-α)``, x_j being the largest magnitude of the channel or its root mean square, whichever and
with the α, or none at all, for which the quantised product of a sample comes nearest to the exact one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import numpy as np

from edgelm.exporter.calibration import layer_runner
from edgelm.exporter.calibration.flow import Flow
from edgelm.exporter.formats.format import Format
from edgelm.exporter.formats.parallel import ordered_map, pieces_apart
from edgelm.exporter.graph.decoder_graph import Formats
from edgelm.exporter.model.decoder import Attention, Decoder, Layer, Linear, Norm
from edgelm.exporter.model.weights import Smoothing, WeightReader
from edgelm.exporter.progress import Progress

_ALPHAS = (0.5, 0.65, 0.8)
# Inputs on which the choice is made: of the text's beginning, and with those from all of it.
_BEGINNING, _SAMPLE = 128, 256
TOKENS = 2048  # that are read: these figures are found on fewer than a Hessian
_SMALLEST = 1e-5  # of a channel, as a share of the largest


def worthwhile(reader: WeightReader, decoder: Decoder, formats: Formats) -> bool:
    """Whether any matrix would be smoothed; one that keeps its codes of a GGUF file would not."""
    found = ((linear, formats.of(linear)) for linear in decoder.linears)
    return any(format.smooths and not format.holds(reader.code_type(linear)) for linear, format in found)


@dataclass
class Found:
    """What was found.

    Attributes:
        smoothing: for a `WeightReader`.
        before, after: error of the product of each matrix that gained, as a share of its square, by name.
    """

    smoothing: Smoothing = field(default_factory=Smoothing)
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)


@pieces_apart()
def smooth(
    reader: WeightReader,
    decoder: Decoder,
    formats: Formats,
    chunks: Sequence[np.ndarray],
    folder: Path,
    progress: Progress,
) -> Found:
    """Choose the scales of a decoder's layers on chunks, ids int64 [S] each, from all over a calibration text."""
    found, context = Found(), max(map(len, chunks))
    chunks = chunks[:: max(1, sum(map(len, chunks)) // TOKENS)]
    progress.start("smoothing", len(decoder.layers))
    embed = layer_runner.embedding(decoder, formats, reader, folder)
    flow = Flow(decoder, [embed(ids[None], {}) for ids in chunks])
    for index, layer in enumerate(decoder.layers):
        parts = layer_runner.parts(decoder, formats, index, reader, context, folder)
        places = {layer.linears[place.number].name: place for place in _places(layer)}
        for linear, inputs in flow.through(layer, parts):
            weight, place = reader.matrix(linear), places.get(linear.name)
            if place is not None and formats.of(linear).smooths and not _kept(reader, formats, linear, place.origin):
                _choose(found, linear, place, formats.multiplied(linear), weight, inputs)
            flow.multiply(linear, weight)
        progress.advance(1, layer.name)
    progress.finish()
    return found


@dataclass(frozen=True)
class _Place:
    """Where a matrix' inputs can be divided by something.

    Attributes:
        number: of the matrix in its layer.
        origin: what makes its inputs, and nobody else's.
        row: of a matrix that does, the first of the rows that make them.
        heads: (that the rows make, that read each): channels of the latter have one factor; None where every channel of
            the inputs is a row.
    """

    number: int
    origin: Norm | Linear
    row: int = 0
    heads: tuple[int, int] | None = None


def _places(layer: Layer) -> Iterator[_Place]:
    mixer, mlp = layer.attention, layer.mlp
    if layer.attention_norm is not None and not (layer.parallel and layer.mlp_norm is None):
        yield _Place(0, layer.attention_norm)
    if isinstance(mixer, Attention) and _plain(mixer.qkv):
        row = (mixer.heads + mixer.kv_heads) * mixer.head_dim
        yield _Place(1, mixer.qkv, row, (mixer.kv_heads, mixer.heads // mixer.kv_heads))
    if layer.mlp_norm is not None:
        yield _Place(2, layer.mlp_norm)
    if (mlp.gated or mlp.activation == "relu") and _plain(mlp.up):
        yield _Place(3, mlp.up, mlp.up.outputs - mlp.down.inputs)  # of gate and up, stacked, up comes second


def _plain(linear: Linear) -> bool:
    """Whether the values of its biases are those of whole tensors, in order."""
    return not any(source.every for source in linear.biases)


def _kept(reader: WeightReader, formats: Formats, linear: Linear, origin: Norm | Linear) -> bool:
    """Whether one of them has codes already, which stay as they are."""
    matrices = (linear, origin) if isinstance(origin, Linear) else (linear,)
    return any(bool(reader.codes(m)) or formats.of(m).holds(reader.code_type(m)) for m in matrices)


def _choose(
    found: Found, linear: Linear, place: _Place, format: Format, weight: np.ndarray, inputs: np.ndarray
) -> None:
    sample = _sample(inputs)
    exact = sample @ weight.T
    size = np.square(exact).sum(axis=1)
    if not size.any():
        return
    typical = np.maximum(size, max(float(np.median(size)), float(size.mean()) * _SMALLEST))

    def error(scale: np.ndarray) -> float:
        """Squared error of the product, every token's as a share of its square."""
        off = format.product(sample / scale, weight * scale) - exact
        return float((np.square(off).sum(axis=1) / typical).mean())

    before = error(np.ones(linear.inputs, np.float32))
    columns = _of_heads(np.abs(weight).max(axis=0), place.heads)
    levels = [_of_heads(level, place.heads) for level in _levels(format, inputs)]
    made = [channel_scales(level, columns, alpha) for level in levels for alpha in _ALPHAS]
    tried = [_for_all(scale, place.heads) for scale in made]
    after, number = min((after, number) for number, after in enumerate(ordered_map(error, tried)))
    if after >= before:
        return
    found.before[linear.name], found.after[linear.name] = before, after
    found.smoothing.columns[linear.name] = tried[number]
    _divide(found.smoothing, place, made[number])


def _of_heads(channels: np.ndarray, heads: tuple[int, int] | None) -> np.ndarray:
    """Of channels [heads * head_dim], those that several queries have in common: the largest."""
    if heads is None:
        return channels
    largest: np.ndarray = channels.reshape(*heads, -1).max(axis=1).ravel()
    return largest


def _for_all(scales: np.ndarray, heads: tuple[int, int] | None) -> np.ndarray:
    """The factors of all channels, by those that queries have in common."""
    return scales if heads is None else np.repeat(scales.reshape(heads[0], -1), heads[1], axis=0).ravel()


def _divide(smoothing: Smoothing, place: _Place, scale: np.ndarray) -> None:
    """What makes inputs makes them smaller."""
    origin = place.origin
    if isinstance(origin, Norm):
        smoothing.vectors[origin.weight] = (1 / scale, origin.offset)
        if origin.bias is not None:
            smoothing.vectors[origin.bias] = (1 / scale, 0.0)
        return
    factors = np.ones(origin.outputs, np.float32)
    factors[place.row : place.row + len(scale)] = 1 / scale
    smoothing.rows[origin.name] = factors
    starts = accumulate((source.rows for source in origin.biases), initial=0)
    for source, start in zip(origin.biases, starts, strict=False):
        smoothing.vectors[source.tensor] = (factors[start : start + source.rows], 0.0)


def _sample(inputs: np.ndarray) -> np.ndarray:
    """Inputs to choose on: a text's first tokens, some of which are unlike all others, and some from all over."""
    rest = inputs[_BEGINNING:]
    return np.concatenate([inputs[:_BEGINNING], rest[:: max(1, len(rest) // (_SAMPLE - _BEGINNING))]])


def _levels(format: Format, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each channel [k] the largest magnitude as the operator rounds it, and the root mean square of a token's share."""
    even = format.even(inputs)
    power = np.square(inputs)
    shares = power / np.maximum(power.mean(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return np.maximum(even.max(axis=0), -even.min(axis=0)), np.sqrt(shares.mean(axis=0))


def channel_scales(inputs: np.ndarray, weights: np.ndarray, alpha: float) -> np.ndarray:
    """SmoothQuant's scales, float32 [k], their geometric mean being 1.

    Args:
        inputs: level of each channel [k].
        weights: of each column of the matrix [k].
        alpha: how much of the trouble is moved into the weights, 0 … 1.
    """
    x, w = (np.maximum(v, _SMALLEST * max(float(v.max()), 1e-30)).astype(np.float64) for v in (inputs, weights))
    logs = alpha * np.log(x) - (1 - alpha) * np.log(w)
    scales: np.ndarray = np.exp(logs - logs.mean()).astype(np.float32)
    return scales

"""The scales of an int8 KV cache: per channel, the same for all tokens, found on a text.

The text goes through the layers in fp32, one after the other, as in calibration of weights; what is held is one layer.
The scale of a channel is its largest magnitude, and a twentieth more, over 127. Nothing is clipped to make the scales
finer: the largest keys are often those of the first token, which all later ones lean on. On stories260K scales of 0.8
of that cost thirty times the divergence, one scale for all channels four times.

A key is rotated by its place, so that a channel whose pair turns slowly has another range at place 10,000 than in the
text. Rotations add up: keys of the text, turned on by as many places as the context has room for, are the keys that the
same words have further on, and their range is what counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgelm.bundle.origins import KVCalibration
from edgelm.exporter.calibration import layer_runner
from edgelm.exporter.graph.attention import KVScales, rope_tables
from edgelm.exporter.graph.decoder_graph import Formats
from edgelm.exporter.model.decoder import Attention, Decoder
from edgelm.exporter.model.rope import Rope
from edgelm.exporter.model.weights import WeightReader
from edgelm.exporter.progress import Progress

TOKENS = 4096  # of text at most: ranges are found sooner than codes of weights
_CODES, _MARGIN = 127, 1.05  # another text goes a little further
_TURNS = 16  # how far on keys are turned, between not at all and the end of the context
_SMALLEST = 1e-4  # scale of a channel, as a share of the largest of its layer's: a channel may be silent in the text


@dataclass(frozen=True)
class KVRanges:
    """What was found.

    Attributes:
        scales: by the name of the layer.
        facts: on what, for the manifest.
    """

    scales: dict[str, KVScales]
    facts: KVCalibration


def find_scales(
    reader: WeightReader,
    decoder: Decoder,
    formats: Formats,
    chunks: Sequence[np.ndarray],
    context: int,
    folder: Path,
    progress: Progress,
) -> dict[str, KVScales]:
    """The scales of every layer's keys and values, by the layer's name.

    Args:
        reader: of the weights.
        decoder: of the model.
        formats: of its roles; the embedding's counts alone.
        chunks: ids of the text, int64 [S] each; every chunk is a text of its own.
        context: of the bundle, in tokens.
        folder: for graphs that are gone when this returns.
        progress: is called with every layer.
    """
    progress.start("ranges of keys and values", len(decoder.layers))
    found: dict[str, KVScales] = {}
    embed = layer_runner.embedding(decoder, formats, reader, folder)
    hidden = [embed(ids[None], {})[None] for ids in chunks]
    del embed
    for index, layer in enumerate(decoder.layers):
        matrices = {linear.name: reader.matrix(linear) for linear in layer.linears}
        run = layer_runner.layer_and_cache(decoder, formats, index, reader, context, folder)
        highest: list[np.ndarray] = []
        for number, x in enumerate(hidden):  # in place, so that only one layer's are held
            hidden[number], *cache = run(x, matrices)
            if isinstance(layer.attention, Attention):
                ranges = [_key_range(cache[0], layer.attention, context), np.abs(cache[1]).max(axis=2)]
                highest = [np.maximum(a, b) for a, b in zip(highest or ranges, ranges, strict=True)]
        if highest:
            found[layer.name] = KVScales(*map(_steps, highest))
        progress.advance(1, layer.name)
    progress.finish()
    return found


def memory(decoder: Decoder) -> int:
    """Bytes that finding the scales takes about: hidden states twice, a layer twice."""
    layer = max(sum(m.outputs * m.inputs for m in layer.linears) for layer in decoder.layers)
    return 8 * TOKENS * decoder.hidden + 8 * layer


def _steps(highest: np.ndarray) -> np.ndarray:
    """Scales [1, H, 1, D] of channels that reach `highest` [1, H, D]."""
    least = _SMALLEST * float(highest.max()) or 1.0
    scales: np.ndarray = (_MARGIN * np.maximum(highest, least) / _CODES).astype(np.float32)
    return scales[:, :, None]


def _key_range(keys: np.ndarray, attention: Attention, context: int) -> np.ndarray:
    """The largest magnitude [1, H, D] that a channel of keys [1, H, S, D] has anywhere in the context."""
    turned = [keys] if attention.rope is None else turn(keys, attention.rope, context)
    highest: np.ndarray = np.stack([np.abs(each).max(axis=2) for each in turned]).max(axis=0)
    return highest


def turn(keys: np.ndarray, rope: Rope, context: int) -> Sequence[np.ndarray]:
    """Rotated keys [1, H, S, D] of places 0 … S - 1, as they are further on, up to the end of the context."""
    cos, sin = rope_tables(rope, context)
    amplitude = np.hypot(cos, sin)  # YaRN and others scale what they rotate: it is in the keys already
    cos, sin = cos / amplitude, sin / amplitude
    half = cos.shape[1]
    first, second = (
        (slice(0, 2 * half, 2), slice(1, 2 * half, 2)) if rope.interleaved else (slice(0, half), slice(half, 2 * half))
    )
    turned = []
    for place in np.unique(np.linspace(0, max(0, context - keys.shape[2]), _TURNS).astype(int)):
        moved = keys.copy()
        moved[..., first] = keys[..., first] * cos[place] - keys[..., second] * sin[place]
        moved[..., second] = keys[..., second] * cos[place] + keys[..., first] * sin[place]
        turned.append(moved)
    return turned

"""What a checkpoint's file must hold for a decoder, what it may hold beside that, and what tells of another model."""

from __future__ import annotations

import math
import re

import numpy as np

from edgelm.errors import CheckpointError
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.checkpoint.names import HEADS, bare, head_of
from edgelm.exporter.model.decoder import Decoder
from edgelm.exporter.progress import Progress

# What older exports keep beside their weights and is computed here: rotary tables, masks, positions.
_BUFFERS = re.compile(
    r"(.*\.)?("
    r"(rotary_emb|rotary_pos_emb|rotary|rope|rotary_emb_local|rotary_embs)\.\w+|inv_freq|freqs_cis|rope_freqs\.weight"
    r"|(attn|attention)\.(bias|masked_bias|mask|causal_mask)|causal_mask|position_ids"
    r")"
)
# Scales for keys and values in 8 bits, which other runtimes keep; here they are floats, or have scales found anew.
_CACHE_SCALES = re.compile(
    r"(.*\.)?([kqv]|kv|kv_cache|prob)_(cache_)?(scales?|scaling_factor|zero_point)|.*\.[kv]_proj\.output_scale"
)


def expect_tensors(checkpoint: Checkpoint, decoder: Decoder, progress: Progress) -> None:
    """Every tensor of the decoder is there with its shape, and its modules have no others that would count.

    What is redundant (buffers, biases of zero, scales of other runtimes' caches, tensors without a value) is passed over,
    and what else there is, such as parts for images, is told.

    Raises:
        CheckpointError: a tensor is missing, has another shape, or belongs to a model that config.json does not describe.
    """
    expected = decoder.tensors
    for name, shape in expected.items():
        checkpoint.expect(name, shape)
    known = {checkpoint.key(name) for name in expected}
    extra = [name for name in checkpoint.names() if name not in known and not _redundant(checkpoint, name)]
    layers = bare(decoder.layers[0].name).rpartition(".")[0] + "."
    modules = {bare(name).rpartition(".")[0] for name in expected}
    modules |= {name.removesuffix(".weight") for name in HEADS}  # also where the head itself is the embedding
    if foreign := [n for n in extra if bare(n).startswith(layers) or _belongs(n, modules)]:
        raise CheckpointError(
            f"{checkpoint.path}: tensor {_some(foreign)} has no place in a {decoder.family} model of this config.json",
            hint="config.json belongs to another model, or try --exporter optimum",
        )
    if beside := [n for n in extra if not (decoder.tied and head_of([n]))]:
        progress.say(f"left out, as a {decoder.family} decoder has no place for it: {_some(beside)}")


def _belongs(name: str, modules: set[str]) -> bool:
    """Whether a tensor is a part of one of the `modules`, other than its weight."""
    module, _, part = bare(name).rpartition(".")
    return module in modules and part != "weight"


def _redundant(checkpoint: Checkpoint, name: str) -> bool:
    """Whether the result is the same without this tensor."""
    shape = checkpoint.shape(name)
    if _BUFFERS.fullmatch(name) or math.prod(shape) == 0:
        return True
    if _CACHE_SCALES.fullmatch(name):
        return math.prod(shape) == 1 or len(shape) <= 1
    # GPTQ's first tools wrote a bias of zeros beside every matrix.
    return name.endswith(".bias") and not np.any(checkpoint.tensor(name).read())


def _some(names: list[str]) -> str:
    return f"'{names[0]}'" + (f" and {len(names) - 1} more" if len(names) > 1 else "")

"""Claims of config.json that the tensors of the file can contradict: where they do, the file is right."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgelm.errors import UnsupportedModelError
from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.checkpoint.names import bare, embedding_of, head_of
from edgelm.exporter.checkpoint.tensors import Readable, Tensor

_TIED = "tie_word_embeddings"
_ELEMENTS = 1 << 20  # of one comparison
# What classifiers and reward models have in a head's place.
_SCORES = (
    *("score.weight", "classifier.weight", "classifier.out_proj.weight", "qa_outputs.weight", "reward_head.weight"),
    *("score.0.weight", "score.2.weight", "regression_layer.weight", "regression_head.weight"),
)


def settle_tables(config: Config, tensors: Mapping[str, Readable]) -> tuple[Config, str | None]:
    """config.json with what the file says about head and embedding, and a remark where it said otherwise.

    A file without a head has tied tables, unless config.json denies it. A head that differs from the embedding is one of
    its own whatever config.json claims.
    """
    head, embedding = head_of(tensors), embedding_of(tensors)
    claimed = _claims(config)
    if head is None:
        bare_model = next((name for name in architectures(config) if name.endswith("Model") and "LM" not in name), None)
        if bare_model is None:
            return config.with_defaults(tie_word_embeddings=True), None
        return config, f"{bare_model} is a model without a head: its embedding serves as one"
    if embedding is None:
        return config, None
    if claimed == [False]:
        return with_tables(config, tied=False), None
    if equal(tensors[head], tensors[embedding]):
        return with_tables(config, tied=True), None
    remark = (
        f"config.json says {_TIED}, but '{head}' is another matrix than '{embedding}': both are kept"
        if True in claimed
        else None
    )
    return with_tables(config, tied=False), remark


def with_tables(config: Config, *, tied: bool) -> Config:
    """config.json that says whether head and embedding are one matrix, also in the part on the text model."""
    inner = config.get("text_config")
    nested = {"text_config": {**inner, _TIED: tied}} if isinstance(inner, dict) else {}
    return Config({**config.values, _TIED: tied, **nested}, config.path)


def equal(one: Readable, other: Readable) -> bool:
    """Whether two tensors hold the same values; the codes of one that is quantised are never those of a plain one."""
    if one.shape != other.shape or type(one) is not type(other):
        return False
    if isinstance(one, Tensor) and isinstance(other, Tensor) and one.kind == other.kind:
        return one.same_bytes(other)
    if not one.shape:
        return np.array_equal(one.read(), other.read())
    rows = one.shape[0]
    step = max(1, _ELEMENTS * rows // max(1, math.prod(one.shape)))
    ranges = [(first, min(rows, first + step)) for first in range(0, rows, step)]
    return all(np.array_equal(*pair) for pair in zip(one.slices(ranges), other.slices(ranges), strict=True))


def architectures(config: Config) -> list[str]:
    """The class names of ``architectures``; empty where the key is missing."""
    value = config.get("architectures", [])
    value = [value] if isinstance(value, str) else value
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def expect_generator(config: Config, tensors: Mapping[str, Any]) -> None:
    """UnsupportedModelError for a classifier, a reward model or an encoder, whose weights would make a chat model of noise.

    `config` says it in ``architectures``; where that is missing, the names of the `tensors` do.
    """
    for key, odd in (("is_encoder_decoder", True), ("is_causal", False), ("use_bidirectional_attention", True)):
        if any(table is not None and table.get(key) is odd for table in (config, config.nested("text_config"))):
            raise UnsupportedModelError(
                f"{config.path}: a model with {key}: {str(odd).lower()} does not write one token after the other",
                hint="give the checkpoint of a causal language model",
            )
    named = architectures(config)
    other = next((name for name in named if not _generates(name)), None)
    if other is not None and not any(_generates(name) for name in named):
        raise UnsupportedModelError(
            f"{config.path}: {other} is no model that generates text",
            hint="give the checkpoint of a causal language model, whose architecture ends in ForCausalLM",
        )
    if not named and head_of(tensors) is None:
        score = next((name for name in tensors if bare(name) in _SCORES), None)
        if score is not None:
            raise UnsupportedModelError(
                f"{config.path.parent}: tensor '{score}' in place of a head tells a classifier or reward model, "
                "which generates no text",
                hint="give the checkpoint of a causal language model",
            )


def _generates(architecture: str) -> bool:
    """Whether a class of transformers has a language model's head. A bare ``…Model`` may have one that is tied."""
    _, separator, task = architecture.partition("For")
    if separator:
        return task.startswith(("CausalLM", "ConditionalGeneration", "Vision2Seq", "ImageTextToText", "TextGeneration"))
    return not architecture.endswith(("EncoderModel", "BidirectionalModel", "RewardModel", "EmbeddingModel"))


def tables_tied(config: Config) -> bool:
    """Whether config.json says so, once it is settled."""
    return True in _claims(config)


def _claims(config: Config) -> list[bool]:
    """What config.json says about tied tables, in the part on the text model and outside it."""
    inner = config.get("text_config")
    found = [config.get(_TIED), inner.get(_TIED) if isinstance(inner, dict) else None]
    return list(dict.fromkeys(value for value in found if isinstance(value, bool)))

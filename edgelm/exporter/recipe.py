"""A target's recipe → the Format of each role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgelm.bundle.format_spec import Recipe, StoredFormat
from edgelm.errors import ExportError, OptionError
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.checkpoint.codes import CodeType
from edgelm.exporter.formats.format import Format
from edgelm.exporter.formats.registry import PREFILL, make_format
from edgelm.exporter.graph.decoder_graph import Formats, shares_table
from edgelm.exporter.model.decoder import Decoder
from edgelm.exporter.model.weights import WeightReader
from edgelm.target.target import FormatSpec, RecipeSpec, Target

_LEAST_BLOCK = 32
INT8_KV = FormatSpec("GroupQueryAttention", 8)
INT8_PREFILL = PREFILL.spec


@dataclass(frozen=True)
class RoleCodes:
    """Codes of one matrix, None where it has none, and the role whose format it has: ``body``, ``up``, ``head`` or ``embedding``."""

    role: str
    type: CodeType | None


@dataclass(frozen=True)
class Choices:
    """What an export may choose whatever the recipe; None leaves it to the recipe.

    Attributes:
        kv: type of the KV cache; see `with_kv`.
        prefill: the prefill graph; see `with_prefill`.
        codes: that the matrices of a GGUF file have, of all by name; see `with_codes`.
    """

    kv: str | None = None
    prefill: str | None = None
    codes: Mapping[str, RoleCodes] = field(default_factory=dict, hash=False)

    def of(self, recipe: RecipeSpec, target: Target) -> RecipeSpec:
        """The recipe with them; raises as `with_kv` and `with_prefill` do."""
        return with_codes(with_prefill(with_kv(recipe, self.kv, target), self.prefill, target), self.codes, target)

    @property
    def names(self) -> list[str]:
        """For a folder's name."""
        chosen = (("kv", self.kv), ("prefill", self.prefill))
        return [text for key, value in chosen if value is not None for text in (key, value)]


AS_IT_IS = Choices()


@dataclass(frozen=True)
class GraphPlan:
    """What a native graph is built from, but its weights.

    Attributes:
        decoder: what the model is.
        spec: how its weights, keys and values are stored, and the prefill graph.
        target: the board.
        context: longest prompt plus answer in tokens.
        lora_ready: whether every body matrix has a place for an adapter's.
    """

    decoder: Decoder
    spec: RecipeSpec
    target: Target
    context: int
    lora_ready: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "spec", named(self.spec, self.decoder))

    @property
    def formats(self) -> Formats:
        """The format of each role."""
        return formats(self.spec, self.decoder.hidden)

    @property
    def activations(self) -> np.dtype[Any]:
        """The numpy type of activations."""
        return activations(self.spec, self.target)

    @property
    def cache_type(self) -> np.dtype[Any]:
        """The numpy type of keys and values as they are kept."""
        return cache_type(self.spec, self.target)

    @property
    def quantised_kv(self) -> bool:
        """Whether keys and values are kept in 8 bits."""
        return quantised_kv(self.spec)

    @property
    def tied(self) -> bool:
        """Whether the embedding is looked up from the head's bytes."""
        return shares_table(self.decoder, self.formats)

    @property
    def keeps_windows(self) -> bool:
        """Whether layers that look back over a window may keep that alone."""
        return keeps_windows(self.target)

    def recipe(self) -> Recipe:
        """The recipe as it is used, for the manifest."""
        return replace(
            used(self.formats, self.tied, used_kv(self.spec, self.target)),
            prefill=None if self.spec.prefill is None else StoredFormat(self.spec.prefill),
            matrices=used_matrices(self.spec, self.decoder),
        )


def formats(recipe: RecipeSpec, hidden: int) -> Formats:
    """The formats of a recipe; those of head and embedding with their blocks fitted to rows of `hidden` values."""
    return Formats(
        body=make_format(recipe.body),
        head=make_format(recipe.head).fit(hidden),
        embedding=make_format(recipe.embedding).fit(hidden),
        matrices={name: make_format(spec) for name, spec in recipe.matrices.items()},
    )


def named(spec: RecipeSpec, decoder: Decoder) -> RecipeSpec:
    """The recipe of a model: where it tells the feed-forwards' first matrices apart, each matrix by its name."""
    if spec.up is None:
        return spec
    first = {layer.mlp.up.name for layer in decoder.layers}
    return replace(spec, up=None, matrices={m.name: spec.up if m.name in first else spec.body for m in decoder.linears})


def is_mixture(spec: RecipeSpec, decoder: Decoder) -> bool:
    """Whether matrices have formats of their own, beyond that of the feed-forwards' first ones."""
    first = {layer.mlp.up.name for layer in decoder.layers}
    kinds = {(linear.name in first, spec.matrices.get(linear.name, spec.body)) for linear in decoder.linears}
    return len(kinds) > 2


def activations(recipe: RecipeSpec, target: Target) -> np.dtype[Any]:
    """The numpy type of activations: the target's, but float32 where the weights are kept in float32."""
    full = make_format(recipe.body).exact
    return np.dtype("float16" if target.runtime.activations == "fp16" and not full else "float32")


def with_kv(recipe: RecipeSpec, kv: str | None, target: Target) -> RecipeSpec:
    """The recipe with a KV cache of ``int8`` or ``float``, the type of the activations; None is its own choice.

    Raises:
        OptionError: neither of them.
        ExportError: int8, and the target's provider is not the CPU, for which alone it was checked.
    """
    if kv not in (None, "float", "int8"):
        raise OptionError(f"kv must be float or int8, not {kv!r}")
    if kv == "float":
        return replace(recipe, kv=FormatSpec("none", 8 * activations(recipe, target).itemsize))
    chosen = recipe if kv is None else replace(recipe, kv=INT8_KV)
    if quantised_kv(chosen) and target.runtime.provider != "cpu":
        raise ExportError(
            f"{'a recipe with an int8 KV cache' if kv is None else '--kv int8'} is for targets that compute on the "
            f"CPU, and {target.name} has provider {target.runtime.provider!r}",
            hint="--kv float keeps them in 16 bits" if kv is None else "leave it out: the KV cache is in 16 bits there",
        )
    return chosen


def with_prefill(recipe: RecipeSpec, prefill: str | None, target: Target) -> RecipeSpec:
    """The recipe with prompts read by ``int8`` matrices of their own, or by the ``same`` as decode; None is its own choice.

    Raises:
        OptionError: neither of them.
        ExportError: int8, and the target computes elsewhere than on the CPU, or in fp16.
    """
    if prefill not in (None, "same", "int8"):
        raise OptionError(f"prefill must be same or int8, not {prefill!r}")
    chosen = recipe if prefill is None else replace(recipe, prefill=INT8_PREFILL if prefill == "int8" else None)
    if chosen.prefill is not None and (target.runtime.provider != "cpu" or activations(recipe, target) != np.float32):
        raise ExportError(
            f"--prefill int8 is for targets that compute in fp32 on the CPU, and {target.name} has provider "
            f"{target.runtime.provider!r} and activations in {target.runtime.activations}",
            hint="leave it out: prompts are read by the matrices that decode reads",
        )
    return chosen


def with_codes(recipe: RecipeSpec, codes: Mapping[str, RoleCodes], target: Target) -> RecipeSpec:
    """The recipe in which matrices keep the codes they have, where its format for them has as many bits and such blocks.

    Blocks of 16 take half as much memory again as those of 32: they are kept where the recipe has blocks of 16 itself. A
    recipe that tells all matrices apart is left as it is.
    """
    if recipe.matrices:
        return recipe
    half = activations(recipe, target) == np.float16
    roles = {"head": recipe.head, "embedding": recipe.embedding, "body": recipe.body, "up": recipe.up or recipe.body}
    held = {name: _holding(roles[kept.role], kept.type, half=half) for name, kept in codes.items()}
    tables = {kept.role: held[name] for name, kept in codes.items() if kept.role in ("head", "embedding")}
    body = {name: held[name] for name, kept in codes.items() if kept.role in ("body", "up")}
    head, embedding = tables.get("head", recipe.head), tables.get("embedding", recipe.embedding)
    found, kinds = replace(recipe, head=head, embedding=embedding), set(body.values())
    if all(held[name] == roles[codes[name].role] for name in body):
        return found
    return replace(found, body=kinds.pop(), up=None) if len(kinds) == 1 else replace(found, matrices=body, up=None)


def _holding(spec: FormatSpec, codes: CodeType | None, *, half: bool) -> FormatSpec:
    """The format that holds such codes in the place of `spec`; `spec` where it is of another kind, or there are none."""
    blocks = spec.op in ("MatMulNBits", "GatherBlockQuantized")
    if codes is None or not blocks or spec.bits != codes.bits or (half and not codes.half):
        return spec
    kept = codes.block >= _LEAST_BLOCK or codes.block == spec.block
    wide = codes.half and not half  # such scales are float16 in the file: they stay that
    return FormatSpec(spec.op, codes.bits, codes.block, half_scales=wide or None) if kept else spec


def keeping_codes(choices: Choices, checkpoint: Checkpoint, decoder: Decoder | None) -> Choices:
    """The choices with the codes that the matrices of a GGUF file have; those of another checkpoint are left alone."""
    if checkpoint.gguf is None or decoder is None:
        return choices
    reader, up = WeightReader(checkpoint), {layer.mlp.up.name for layer in decoder.layers}
    roles = {linear.name: "up" if linear.name in up else "body" for linear in decoder.linears}
    tables = (
        {decoder.head.name: "head"}
        if decoder.tied
        else {decoder.head.name: "head", decoder.embedding.name: "embedding"}
    )
    matrices = (*decoder.linears, decoder.head, decoder.embedding)
    codes = {m.name: RoleCodes(role, reader.code_type(m)) for m in matrices if (role := (roles | tables).get(m.name))}
    return replace(choices, codes=codes)


def quantised_kv(recipe: RecipeSpec) -> bool:
    """Whether the KV cache is in 8 bits."""
    return recipe.kv.op == INT8_KV.op


def cache_type(recipe: RecipeSpec, target: Target) -> np.dtype[Any]:
    """The numpy type of the KV cache."""
    return np.dtype(np.int8) if quantised_kv(recipe) else activations(recipe, target)


def keeps_windows(target: Target) -> bool:
    """Whether layers may keep a window alone: on CUDA the operator has no room beyond the window."""
    return target.runtime.provider == "cpu"


def used_kv(recipe: RecipeSpec, target: Target) -> FormatSpec:
    """The KV cache's format, for the manifest."""
    return INT8_KV if quantised_kv(recipe) else FormatSpec("none", 8 * activations(recipe, target).itemsize)


def used(chosen: Formats, tied: bool, kv: FormatSpec) -> Recipe:
    """The recipe as it was used, for the manifest; a tied embedding is read from the head's bytes."""
    embedding: Format = chosen.head if tied else chosen.embedding
    return Recipe(
        body=StoredFormat(chosen.body.spec),
        head=StoredFormat(chosen.head.spec),
        embedding=StoredFormat(embedding.spec, "head" if tied else None),
        kv=StoredFormat(kv),
    )


def used_matrices(recipe: RecipeSpec, decoder: Decoder) -> dict[str, StoredFormat] | None:
    """For the manifest of a mixed recipe: name → format and shape [n, k]; None for one of roles alone."""
    if not recipe.matrices:
        return None
    chosen = formats(recipe, decoder.hidden)
    return {
        linear.name: StoredFormat(chosen.of(linear).spec, shape=(linear.outputs, linear.inputs))
        for linear in decoder.linears
    }

"""Parts of the manifest: where a bundle comes from, and what was measured on the way.

Fields have the names and the order of the JSON keys; unknown keys are kept in `extra`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgelm.bundle.json_table import BITS, COUNT, FLAT, LEFT_OUT, SIZE, TOKEN, JsonTable, names


@dataclass(frozen=True)
class Text:
    """A text that something was measured on: its name, and the SHA-256 of its bytes."""

    name: str
    sha256: str
    extra: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)

    @classmethod
    def read(cls, table: JsonTable) -> Text:
        """From JSON."""
        return cls(table.text("name"), table.text("sha256"), table.others(names(cls)))


@dataclass(frozen=True)
class Quantized:
    """How a checkpoint was quantised already.

    Attributes:
        method: ``gptq``, ``awq``, ``gguf`` …
        bits: of a code.
        group_size: columns a scale; -1 for all.
        types: of a GGUF file: how many values there are of each element type.
        kept: how many of each the bundle holds by the codes they have there; the others are rounded anew.
    """

    method: str
    bits: int | None = field(default=None, metadata=LEFT_OUT)
    group_size: int | None = field(default=None, metadata=LEFT_OUT)
    types: Mapping[str, int] | None = field(default=None, metadata=LEFT_OUT)
    kept: Mapping[str, int] | None = field(default=None, metadata=LEFT_OUT)
    extra: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)

    @classmethod
    def read(cls, table: JsonTable) -> Quantized:
        """From JSON."""
        bits = table.integer("bits", *BITS) if table.has("bits") else None
        group = table.integer("group_size", -1, SIZE[1]) if table.has("group_size") else None
        types, kept = (table.counts(key) if table.has(key) else None for key in ("types", "kept"))
        return cls(table.text("method"), bits, group, types, kept, table.others(names(cls)))


@dataclass(frozen=True)
class MergedAdapter:
    """A LoRA adapter that is in the weights, with the SHA-256 of its files."""

    id: str
    revision: str | None
    rank: int
    alpha: float
    rank_stabilised: bool
    sources: Mapping[str, str]
    extra: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)

    @classmethod
    def read(cls, table: JsonTable) -> MergedAdapter:
        """From JSON."""
        return cls(
            id=table.text("id"),
            revision=table.text("revision") if table.has("revision") else None,
            rank=table.integer("rank", *SIZE),
            alpha=table.number("alpha"),
            rank_stabilised=table.flag("rank_stabilised"),
            sources=table.texts("sources"),
            extra=table.others(names(cls)),
        )


@dataclass(frozen=True, kw_only=True)
class Model:
    """The model a bundle was made from; `sources` is the SHA-256 of config.json and of the weights, by file."""

    id: str
    revision: str | None = None
    type: str
    exporter: str = "native"
    parameters: int
    quantized: Quantized | None = None
    adapter: MergedAdapter | None = None
    licence: str | None = None
    sources: Mapping[str, str]
    extra: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)

    @classmethod
    def read(cls, table: JsonTable) -> Model:
        """From JSON."""
        return cls(
            id=table.text("id"),
            type=table.text("type"),
            parameters=table.integer("parameters", *COUNT),
            sources=table.texts("sources"),
            revision=table.text("revision") if table.has("revision") else None,
            exporter=table.text("exporter") if table.has("exporter") else "native",
            quantized=Quantized.read(table.table("quantized")) if table.has("quantized") else None,
            adapter=MergedAdapter.read(table.table("adapter")) if table.has("adapter") else None,
            licence=table.text("licence") if table.has("licence") else None,
            extra=table.others(names(cls)),
        )


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """On what, and by which `method`, matrices were rounded (or smoothed: `smoothed` of them besides)."""

    method: str
    matrices: int
    smoothed: int | None = field(default=None, metadata=LEFT_OUT)
    text: Text
    tokens: int
    extra: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)

    @classmethod
    def read(cls, table: JsonTable) -> Calibration:
        """From JSON."""
        return cls(
            method=table.text("method"),
            matrices=table.integer("matrices", *TOKEN),
            text=Text.read(table.table("text")),
            tokens=table.integer("tokens", *COUNT),
            smoothed=table.integer("smoothed", *TOKEN) if table.has("smoothed") else None,
            extra=table.others(names(cls)),
        )


@dataclass(frozen=True)
class KVCalibration:
    """On what the scales of int8 keys and values were found."""

    text: Text
    tokens: int
    extra: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)

    @classmethod
    def read(cls, table: JsonTable) -> KVCalibration:
        """From JSON."""
        return cls(Text.read(table.table("text")), table.integer("tokens", *COUNT), table.others(names(cls)))


@dataclass(frozen=True)
class Budget:
    """What a mixed recipe had to keep: bytes, and mean KL divergence in nats."""

    max_size: int | None = field(default=None, metadata=LEFT_OUT)
    max_kld: float | None = field(default=None, metadata=LEFT_OUT)
    extra: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)

    @classmethod
    def read(cls, table: JsonTable) -> Budget:
        """From JSON."""
        size = table.integer("max_size", *COUNT) if table.has("max_size") else None
        kld = table.number("max_kld") if table.has("max_kld") else None
        return cls(size, kld, table.others(names(cls)))


@dataclass(frozen=True)
class Mixed:
    """How the formats of a mixed recipe were chosen; `sensitivity` is the predicted loss of each matrix, in nats."""

    text: Text
    tokens: int
    budget: Budget
    sensitivity: Mapping[str, float]
    extra: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)

    @classmethod
    def read(cls, table: JsonTable) -> Mixed:
        """From JSON."""
        losses = table.table("sensitivity")
        return cls(
            Text.read(table.table("text")),
            table.integer("tokens", *COUNT),
            Budget.read(table.table("budget")),
            {name: losses.number(name) for name in losses.data},
            table.others(names(cls)),
        )


@dataclass(frozen=True)
class CompiledPromptFacts:
    """The beginning of prompts that was read while the bundle was made: so many `tokens`, of the file `text`."""

    tokens: int
    text: Text
    extra: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)

    @classmethod
    def read(cls, table: JsonTable) -> CompiledPromptFacts:
        """From JSON."""
        return cls(table.integer("tokens", *SIZE), Text.read(table.table("text")), table.others(names(cls)))


@dataclass(frozen=True)
class TokensPerWord:
    """Of the domain's text, with the whole vocabulary and with the trimmed one."""

    before: float
    after: float
    extra: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)

    @classmethod
    def read(cls, table: JsonTable) -> TokensPerWord:
        """From JSON."""
        return cls(table.number("before"), table.number("after"), table.others(names(cls)))


@dataclass(frozen=True)
class Coverage:
    """How the domain's text is encoded by a trimmed vocabulary.

    Attributes:
        tokens: of the text, with the whole vocabulary.
        unchanged: share of them.
        tokens_per_word: None for a text without words.
        expected_unseen: share of the tokens of new text that will be missed.
    """

    tokens: int
    unchanged: float
    tokens_per_word: TokensPerWord | None
    expected_unseen: float | None = field(default=None, metadata=LEFT_OUT)
    extra: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)

    @classmethod
    def read(cls, table: JsonTable) -> Coverage:
        """From JSON."""
        return cls(
            table.integer("tokens", *COUNT),
            table.number("unchanged"),
            TokensPerWord.read(table.table("tokens_per_word")) if table.has("tokens_per_word") else None,
            table.number("expected_unseen") if table.has("expected_unseen") else None,
            table.others(names(cls)),
        )


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """A trimmed vocabulary: `tokens` of `of`, kept for `texts` and `languages`; `saved_bytes` of embedding and head."""

    tokens: int
    of: int
    texts: tuple[Text, ...] | None = field(default=None, metadata=LEFT_OUT)
    languages: tuple[str, ...] | None = field(default=None, metadata=LEFT_OUT)
    coverage: Coverage
    saved_bytes: int
    extra: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)

    @classmethod
    def read(cls, table: JsonTable) -> Vocabulary:
        """From JSON."""
        return cls(
            tokens=table.integer("tokens", *SIZE),
            of=table.integer("of", *SIZE),
            texts=tuple(map(Text.read, table.tables("texts"))) if table.has("texts") else None,
            languages=table.text_list("languages") if table.has("languages") else None,
            coverage=Coverage.read(table.table("coverage")),
            saved_bytes=table.integer("saved_bytes", -COUNT[1], COUNT[1]),
            extra=table.others(names(cls)),
        )

"""How a matrix is stored, as a target file and a manifest write it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgelm.bundle.json_table import BITS, FLAT, LEFT_OUT, SIZE, JsonTable, names, plain


@dataclass(frozen=True)
class FormatSpec:
    """How one kind of matrix is stored: the operator that reads it, bits a weight, weights a scale.

    `block` is None where the operator has none (one scale per row, or no scale at all). `rounding` is ``nearest`` where
    the scales of 4-bit blocks are not searched: for comparison, since it gives worse weights of the same size and speed.
    `zero_points` is True where every block has a code of its own for zero, and None where that is the middle one.
    `half_scales` is True where the scales of blocks are stored as float16 although activations are wider: they are made as
    wide when a model is loaded, and None where they have the type of the activations.
    """

    op: str
    bits: int
    block: int | None = field(default=None, metadata=LEFT_OUT)
    rounding: str | None = field(default=None, metadata=LEFT_OUT)
    zero_points: bool | None = field(default=None, metadata=LEFT_OUT)
    half_scales: bool | None = field(default=None, metadata=LEFT_OUT)

    @property
    def kernel(self) -> str:
        """What its speed depends on, as targets name it: ``MatMulNBits 4-bit block 32``."""
        return f"{self.op} {self.bits}-bit" + (f" block {self.block}" if self.block else "")

    @property
    def stored_bits(self) -> float:
        """Bits that a weight takes, its share of a float scale and of a zero point included."""
        scale = 16 if self.half_scales else 32
        return self.bits + ((scale + (self.bits if self.zero_points else 0)) / self.block if self.block else 0)

    def nbytes(self, n: int, k: int, scale: int = 4) -> int:
        """Bytes of a stored matrix [n, k]: of floats, or of codes and a scale of `scale` bytes for each block, the row being
        the block where the operator has none; zero points, where there are any, are packed as codes are. Half scales take
        two bytes whatever `scale` is.
        """
        if self.bits >= 16:
            return n * k * self.bits // 8
        block = self.block or k
        blocks = -(-k // block)
        zeros = -(-blocks * self.bits // 8) if self.zero_points else 0
        return n * (blocks * (block * self.bits // 8 + (2 if self.half_scales else scale)) + zeros)

    def __str__(self) -> str:
        more = [text for text, has in (("zero points", self.zero_points), ("16-bit scales", self.half_scales)) if has]
        return self.kernel + (f" with {' and '.join(more)}" if more else "")

    def to_dict(self) -> dict[str, Any]:
        """``{"op": …, "bits": …}``, with ``"block"``, ``"rounding"``, ``"zero_points"`` and ``"half_scales"`` where there
        are any.
        """
        found: dict[str, Any] = plain(self)
        return found


@dataclass(frozen=True)
class StoredFormat:
    """How matrices are stored.

    Attributes:
        spec: the operator, its bits and its block.
        shared_with: the role whose bytes these are, or None.
        shape: [n, k] of a single matrix.
    """

    spec: FormatSpec = field(metadata=FLAT)
    shared_with: str | None = field(default=None, metadata=LEFT_OUT)
    shape: tuple[int, int] | None = field(default=None, metadata=LEFT_OUT)
    extra: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)

    @classmethod
    def read(cls, table: JsonTable) -> StoredFormat:
        """From JSON."""
        spec = FormatSpec(
            table.text("op"),
            table.integer("bits", *BITS),
            table.integer("block", *SIZE) if table.has("block") else None,
            table.text("rounding") if table.has("rounding") else None,
            *(True if table.has(name) and table.flag(name) else None for name in ("zero_points", "half_scales")),
        )
        shared = table.text("shared_with") if table.has("shared_with") else None
        shape: tuple[int, int] | None = None
        if table.has("shape"):
            sizes = table.integers("shape", *SIZE)
            if len(sizes) != 2:
                table.wrong("shape", "two whole numbers")
            shape = sizes[0], sizes[1]
        return cls(spec, shared, shape, table.others({*names(FormatSpec), "shared_with", "shape"}))


@dataclass(frozen=True)
class Recipe:
    """How each role is stored, and each single matrix of a mixed recipe; `prefill` is None where decode's read prompts."""

    body: StoredFormat
    head: StoredFormat
    embedding: StoredFormat | None = field(default=None, metadata=LEFT_OUT)
    kv: StoredFormat | None = field(default=None, metadata=LEFT_OUT)
    prefill: StoredFormat | None = field(default=None, metadata=LEFT_OUT)
    matrices: Mapping[str, StoredFormat] | None = field(default=None, metadata=LEFT_OUT)
    extra: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)

    @classmethod
    def read(cls, table: JsonTable) -> Recipe:
        """From JSON."""
        embedding, kv, prefill = (
            StoredFormat.read(table.table(role)) if table.has(role) else None for role in ("embedding", "kv", "prefill")
        )
        matrices = None
        if table.has("matrices"):
            parts = table.each("matrices")
            matrices = {name: StoredFormat.read(part) for name, part in parts.items()}
            if nameless := next((name for name, format in matrices.items() if format.shape is None), None):
                parts[nameless].fail("shape", "is missing")
        body, head = (StoredFormat.read(table.table(role)) for role in ("body", "head"))
        return cls(body, head, embedding, kv, prefill, matrices, table.others(names(cls)))

    @property
    def roles(self) -> dict[str, StoredFormat]:
        """The formats by role; those of single matrices are not among them."""
        found = {role: getattr(self, role) for role in ("body", "head", "embedding", "kv", "prefill")}
        return {role: format for role, format in found.items() if format is not None}

    @property
    def decode_operators(self) -> set[str]:
        """Those of the products that make a token's logits."""
        return {format.spec.op for format in (self.body, self.head, *(self.matrices or {}).values())}

    @property
    def operators(self) -> set[str]:
        """Those that are used."""
        return {format.spec.op for format in (*self.roles.values(), *(self.matrices or {}).values())} - {"none"}

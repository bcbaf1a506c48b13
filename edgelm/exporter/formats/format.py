"""A matrix of the model in its stored form, and what every form of storing one answers to.

A matrix W [n, k] serves as a linear layer (``x Wᵀ``), as an embedding table (``W[ids]``), or, when a model's
embedding and head are tied, as both from one copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import onnx_ir as ir

from edgelm.exporter.checkpoint.codes import Codes, CodeType
from edgelm.exporter.checkpoint.prequantized import Scheme
from edgelm.exporter.formats.parallel import ordered_map
from edgelm.exporter.onnx.builder import Builder
from edgelm.exporter.onnx.store import Stored
from edgelm.target.operators import OPERATORS
from edgelm.target.target import FormatSpec, Target

Parts = Mapping[str, np.ndarray]
"""Some rows of a matrix as they are stored: the name of each part, such as codes or scales → that many rows of it."""

PartShapes = Mapping[str, tuple[tuple[int, ...], Any]]
"""Part → (shape, numpy type) of a whole matrix, in the order of the file."""


@dataclass(frozen=True)
class Matrix:
    """A packed matrix [n, k] in a format: its parts in the data file, under the names the graph gives them."""

    format: Format
    name: str
    n: int
    k: int
    parts: dict[str, Stored]

    def value(self, b: Builder, part: str, *shape: int, suffix: str = "") -> ir.Value:
        """A part as an initializer, under another shape where one is given."""
        tensor = self.parts[part]
        return b.stored(f"{self.name}.{part}{suffix}", tensor.viewed(*shape) if shape else tensor)


class Format(Protocol):
    """What a recipe chooses for a role. A storage format derives from this and overrides what differs.

    Without an answer of its own, a format stores rows that nothing is shared between, takes as much memory as it does
    in the file, and gains nothing from calibration.
    """

    # What it is called

    @classmethod
    def of(cls, spec: FormatSpec) -> Self | None:
        """The format that a recipe's entry names; None where it names another kind."""

    @property
    def spec(self) -> FormatSpec:
        """The format as a recipe writes it."""

    # What it suits

    def fit(self, k: int) -> Self:
        """This format with its block made to suit rows of `k` values."""
        return self

    @property
    def lookup(self) -> Format:
        """The format of a table that is looked up alone, where a recipe stores matrices in this one."""
        return self

    @property
    def uneven(self) -> Format:
        """The format of a matrix that reads what is not normed: tokens of very different size."""
        return self

    @property
    def scoring(self) -> Format:
        """The format of a head, which reads one token, or several where a text is scored."""
        return self

    def can_gather(self, k: int) -> bool:
        """Whether a table of rows of `k` values can be looked up from the bytes a product reads."""
        return True

    def falls_back(self, target: Target) -> bool:
        """Whether its operator has only slow kernels on the target's core."""
        operator = OPERATORS[self.spec.op]
        return operator.falls_back(target.cpu.arch, target.runtime.provider, target.has_dotprod)

    def suits(self, target: Target) -> bool:
        """Whether mixed precision may choose it for this target."""
        return not self.falls_back(target)

    # What it takes

    def nbytes(self, n: int, k: int) -> int:
        """Bytes of a packed [n, k] matrix."""
        return self.spec.nbytes(n, k)

    def resident_bytes(self, n: int, k: int, target: Target, itemsize: int) -> int:
        """Bytes of a packed [n, k] matrix in the target's memory; `itemsize` is of its activations."""
        return self.nbytes(n, k)

    def packing_bytes(self, n: int, k: int) -> int:
        """Bytes that an export holds of an [n, k] matrix until the whole is packed."""
        return 0

    # How it rounds

    @property
    def exact(self) -> bool:
        """Whether float32 weights are left as they are."""
        return False

    @property
    def calibrates(self) -> bool:
        """Whether rounding on data (see `rounder`) is worth it."""
        return False

    @property
    def smooths(self) -> bool:
        """Whether products gain from SmoothQuant, since the operator rounds its activations coarsely (see `product`)."""
        return False

    def quantize(self, rows: np.ndarray) -> Parts:
        """Float32 rows [m, k] as they are stored."""

    def rounder(self, hessian: np.ndarray) -> Callable[[np.ndarray], Parts] | None:
        """What does the same as `quantize` on data, ``Xᵀ X`` [k, k] of a matrix' inputs; None where these say nothing."""
        return None

    def values(self, parts: Parts, k: int) -> np.ndarray:
        """The float32 rows [m, k] that stored ones stand for."""

    def rounded(self, rows: np.ndarray) -> np.ndarray:
        """The float32 rows [m, k] that are left of `rows` once they are packed."""
        return self.values(self.quantize(rows), rows.shape[1])

    def even(self, x: np.ndarray) -> np.ndarray:
        """Activations x [s, k] as the operator rounds them to 8 bits, where a token's are scaled before."""
        return x

    def read(self, x: np.ndarray) -> np.ndarray:
        """Activations x [s, k] about as the operator rounds them before it multiplies."""
        return x

    def product(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """``x Wᵀ`` [s, n] about as the operator computes it, from x [s, k] and W [n, k]."""
        product: np.ndarray = self.read(x) @ self.rounded(weight).T
        return product

    # How it is written

    def adopting(self, scheme: Scheme, k: int) -> CodeFormat | None:
        """What stores the codes of a quantised checkpoint, in rows of `k`, where a recipe chose this format; None for
        nothing: the values are rounded again.
        """
        return None

    def holds(self, codes: CodeType | None) -> bool:
        """Whether it stores such codes as they are (see `coded`); never where there are none."""
        return False

    def coded(self, codes: Codes) -> Parts:
        """Rows of codes as they are stored; nothing is rounded."""
        raise AssertionError(f"{self.spec} holds no codes")

    def pack(self, b: Builder, name: str, n: int, k: int, rows: Iterable[np.ndarray]) -> Matrix:
        """Write the matrix, which arrives as float32 slices of rows, to the data file."""
        return self.pack_parts(b, name, n, k, ordered_map(self.quantize, rows))

    def pack_parts(self, b: Builder, name: str, n: int, k: int, pieces: Iterable[Parts]) -> Matrix:
        """Write a matrix that arrives in slices of rows, as `quantize` gives them."""

    def matmul(self, b: Builder, x: ir.Value, m: Matrix, name: str, bias: ir.Value | None = None) -> ir.Value:
        """Nodes for ``x Wᵀ + bias``; x is [..., k], the result [..., n]."""

    def gather(self, b: Builder, ids: ir.Value, m: Matrix, name: str) -> ir.Value:
        """Nodes for ``W[ids]``; ids is int64 [1, s], the result [1, s, k]."""


class CodeFormat(Format, Protocol):
    """A format that can store the codes of a quantised checkpoint as they are."""

    def pack_codes(self, b: Builder, name: str, pieces: Sequence[Codes]) -> Matrix:
        """Write codes that are there already, stacked by rows; nothing is rounded."""


def append_parts(b: Builder, shapes: PartShapes, pieces: Iterable[Parts]) -> dict[str, Stored]:
    """Write parts that arrive together, in slices of rows, one after another: the first as it comes, the rest once it is
    written, so that what they hold should be little.

    Args:
        b: whose data file they go to.
        shapes: of the whole.
        pieces: of all parts.
    """
    first, *rest = shapes
    waiting: dict[str, list[np.ndarray]] = {part: [] for part in rest}

    def streamed() -> Iterator[np.ndarray]:
        for piece in pieces:
            for part in rest:
                waiting[part].append(piece[part].astype(shapes[part][1]))
            yield piece[first]

    stored = {first: b.data.append_rows(streamed(), *shapes[first])}
    for part in rest:
        stored[part] = b.data.append_rows(waiting[part], *shapes[part])
    return stored


def cast(b: Builder, value: ir.Value, name: str) -> ir.Value:
    """`value` in the type of the activations."""
    return b.op("Cast", [value], name, to=int(ir.DataType.from_numpy(b.float)))

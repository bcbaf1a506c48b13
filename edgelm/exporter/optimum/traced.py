"""What stands in a graph traced from transformers: its constant matrices, and the nodes that multiply or look up.

Weights appear in many dresses: as they are (GPT-2's Conv1D), behind a Transpose (every Linear), behind an Identity
where the tracer found two tensors alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

_SMALLEST = 16  # rows or columns of a matrix worth packing; smaller ones are tables of positions, routers and the like
_SLICE_BYTES = 16 << 20  # fp32 bytes of one slice of rows
_POINTWISE = ("Add", "Sub", "Mul", "Div", "Tanh", "Cast", "Identity")  # may stand between the head and the logits
_RESHAPING = ("Reshape", "Cast", "Identity")  # may stand between the ids and the embedding


@dataclass(frozen=True)
class Weight:
    """A constant matrix W [n, k], n outputs or table rows of k values each.

    Attributes:
        value: the initializer.
        columns: whether it is stored the other way round, [k, n].
    """

    value: ir.Value
    columns: bool

    @property
    def name(self) -> str:
        """The layer's name in the checkpoint."""
        return str(self.value.name).removesuffix(".weight")

    @property
    def n(self) -> int:
        """Outputs, or rows of the table."""
        return self._stored()[1 if self.columns else 0]

    @property
    def k(self) -> int:
        """Values a row."""
        return self._stored()[0 if self.columns else 1]

    def rows(self) -> Iterator[np.ndarray]:
        """W as float32 slices of rows."""
        array = array_of(self.value)
        table = array.T if self.columns else array
        step = max(1, _SLICE_BYTES // (4 * self.k))
        for start in range(0, self.n, step):
            yield np.ascontiguousarray(table[start : start + step], dtype=np.float32)

    def equals(self, other: Weight) -> bool:
        """Whether both are the same matrix, by their contents."""
        if (self.value, self.columns) == (other.value, other.columns):
            return True
        if (self.n, self.k) != (other.n, other.k):
            return False
        return all(np.array_equal(a, b) for a, b in zip(self.rows(), other.rows(), strict=True))

    def _stored(self) -> tuple[int, int]:
        shape = _shape(self.value)
        return shape[0], shape[1]


@dataclass(frozen=True)
class Product:
    """``x Wᵀ + bias``.

    Attributes:
        node: the MatMul or Gemm.
        weight: W.
        bias: an initializer of n values, or None.
        result: the value to replace; the sum where the bias is added by a node of its own.
    """

    node: ir.Node
    weight: Weight
    bias: ir.Value | None
    result: ir.Value

    @property
    def x(self) -> ir.Value:
        """What is multiplied, [..., k]."""
        value = self.node.inputs[0]
        assert value is not None
        return value


@dataclass(frozen=True)
class Lookup:
    """``W[ids]`` of the ids that the graph is given."""

    node: ir.Node
    weight: Weight

    @property
    def ids(self) -> ir.Value:
        """The ids, [1, s]."""
        value = self.node.inputs[1]
        assert value is not None
        return value


def load(path: Path) -> ir.Graph:
    """Read a traced graph, weights memory-mapped where they stand in a file of their own, and tidy it up."""
    model = ir.load(path)
    ir.passes.Sequential(
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.IdentityEliminationPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
    )(model)
    return model.graph


def find_products(graph: ir.Graph) -> list[Product]:
    """Every product with a constant matrix, in order."""
    return [product for node in graph if (product := _product(node)) is not None]


def find_lookups(graph: ir.Graph) -> list[Lookup]:
    """Every look-up of input ids in a constant table, in order: the token embedding."""
    return [lookup for node in graph if (lookup := _lookup(node)) is not None]


def find_head(logits: ir.Value, products: list[Product]) -> Product | None:
    """The product that makes the logits, where nothing but pointwise operations stands between."""
    made = {product.result: product for product in products}
    value = logits
    while value not in made:
        node = value.producer()
        if node is None or node.domain != "" or node.op_type not in _POINTWISE:
            return None
        varying = [v for v in node.inputs if v is not None and constant_of(v) is None]
        if len(varying) != 1:
            return None
        value = varying[0]
    return made[value]


def constant_of(value: ir.Value) -> tuple[ir.Value, bool] | None:
    """The initializer behind `value`, and whether it is seen transposed; None where there is none."""
    swapped = False
    while (node := value.producer()) is not None:
        source = node.inputs[0] if node.inputs else None
        if source is None or node.domain != "" or not _keeps_content(node):
            return None
        swapped ^= node.op_type == "Transpose"
        value = source
    return (value, swapped) if value.const_value is not None and not value.is_graph_input() else None


def array_of(value: ir.Value) -> np.ndarray:
    """The contents of an initializer."""
    assert value.const_value is not None
    return value.const_value.numpy()


def _keeps_content(node: ir.Node) -> bool:
    match node.op_type:
        case "Identity":
            return True
        case "Cast":
            return node.attributes.get_int("to") == ir.DataType.FLOAT
        case "Transpose":
            return list(node.attributes.get_ints("perm") or []) == [1, 0]
    return False


def _product(node: ir.Node) -> Product | None:
    if node.domain != "" or node.op_type not in ("MatMul", "Gemm"):
        return None
    attributes = node.attributes
    gemm = node.op_type == "Gemm"
    weight = _matrix(node.inputs[1], columns=not (gemm and attributes.get_int("transB") == 1))
    if weight is None:
        return None
    result = node.outputs[0]
    if not gemm:
        bias, result = _bias_after(result, weight.n)
        return Product(node, weight, bias, result)
    plain = attributes.get_int("transA") != 1 and attributes.get_float("alpha", 1.0) == 1.0
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return Product(node, weight, None, result) if plain else None
    bias = _bias(node.inputs[2], weight.n)
    plain = plain and bias is not None and attributes.get_float("beta", 1.0) == 1.0
    return Product(node, weight, bias, result) if plain else None


def _lookup(node: ir.Node) -> Lookup | None:
    if node.domain != "" or node.op_type != "Gather" or node.attributes.get_int("axis", 0) != 0:
        return None
    value = node.inputs[1]
    while value is not None and (made_by := value.producer()) is not None:
        if made_by.op_type not in _RESHAPING:
            return None
        value = made_by.inputs[0]
    weight = _matrix(node.inputs[0], columns=False)
    given = value is not None and value.is_graph_input() and value.name == "input_ids"
    return Lookup(node, weight) if given and weight is not None else None


def _matrix(value: ir.Value | None, *, columns: bool) -> Weight | None:
    """The weight behind `value`, which the operator reads as [k, n] where `columns` says so."""
    found = constant_of(value) if value is not None else None
    if found is None:
        return None
    initializer, swapped = found
    shape = _shape(initializer)
    if len(shape) != 2 or min(shape) < _SMALLEST or initializer.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
        return None
    return Weight(initializer, columns != swapped)


def _bias_after(product: ir.Value, n: int) -> tuple[ir.Value | None, ir.Value]:
    """The bias that the only reader of `product` adds, and the sum; otherwise None and the product."""
    uses = list(product.uses())
    if len(uses) == 1 and not product.is_graph_output() and uses[0].node.op_type == "Add":
        adding = uses[0].node
        bias = _bias(adding.inputs[1 - uses[0].idx], n)
        if bias is not None:
            return bias, adding.outputs[0]
    return None, product


def _bias(value: ir.Value | None, n: int) -> ir.Value | None:
    """The initializer behind `value` where it holds one number for each of `n` outputs."""
    found = constant_of(value) if value is not None else None
    if found is None:
        return None
    initializer, swapped = found
    shape = _shape(initializer)
    fits = bool(shape) and shape[-1] == n and int(np.prod(shape)) == n and not swapped
    return initializer if fits and initializer.dtype == ir.DataType.FLOAT else None


def _shape(value: ir.Value) -> tuple[int, ...]:
    assert value.const_value is not None
    return tuple(value.const_value.shape.numpy())

"""A traced graph → the graph that the Engine runs: matrices stored as a recipe wants, the head on the last positions.

The rest of the graph stays as it was traced; its past grows with every step.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from edgelm.bundle.format_spec import FormatSpec, Recipe
from edgelm.bundle.manifest import Graph
from edgelm.errors import CheckpointError, UnsupportedModelError
from edgelm.exporter import recipe
from edgelm.exporter.formats.format import Format, Matrix
from edgelm.exporter.formats.registry import table_format
from edgelm.exporter.graph.decoder_graph import Formats
from edgelm.exporter.onnx.builder import IR_VERSION, MICROSOFT, OPSET, Builder
from edgelm.exporter.onnx.store import DataFile
from edgelm.exporter.optimum import traced
from edgelm.exporter.optimum.traced import Lookup, Product, Weight
from edgelm.exporter.progress import Progress
from edgelm.target.target import RecipeSpec
from edgelm.version import __version__

_TO_THE_END = np.iinfo(np.int64).max
_CACHE = re.compile(r"past_key_values\.\d+\.(key|value)")
# Input → its shape; those of the cache have a shape each.
_INPUTS: dict[str, list[int | str]] = {
    "input_ids": [1, "sequence_length"],
    "attention_mask": [1, "total_sequence_length"],
    "position_ids": [1, "sequence_length"],
}
# Operators that mean something else in OPSET than in the traced 18; all others only learnt new types.
_CHANGED = {"AveragePool", "DFT", "GridSample", "GroupNormalization", "Resize"}


@dataclass(frozen=True)
class Rewritten:
    """Facts of the new graph.

    Attributes:
        graph: what the Engine must know.
        recipe: role → format as used.
        weight_bytes: weights read for every decoded token.
        kv_bytes: kept for every token of context.
    """

    graph: Graph
    recipe: Recipe
    weight_bytes: int
    kv_bytes: int


def rewrite(trace: Path, model: Path, data: DataFile, spec: RecipeSpec, source: Path, progress: Progress) -> Rewritten:
    """Rewrite the graph `trace` of the checkpoint `source` into `model` and `data`, a tensor at a time.

    Raises:
        UnsupportedModelError: the graph has inputs that the Engine does not feed, or a cache of another form.
        CheckpointError: a weight is not finite.
    """
    graph = traced.load(trace)
    cache = _cache_shapes(graph, source)
    products, lookups = traced.find_products(graph), traced.find_lookups(graph)
    head = traced.find_head(_output(graph, "logits"), products)
    if not lookups:
        raise UnsupportedModelError(f"{source}: Optimum's graph does not look its input_ids up in an embedding")
    surgery = _Surgery(graph, data, _formats(spec, lookups, head), head, source, progress)
    progress.start("weights", sum(weight.n * weight.k for weight in _distinct(products, lookups)))
    surgery.embed(lookups)
    surgery.multiply(products)
    surgery.prune()
    surgery.finish()
    progress.finish()
    vocab = head.weight.n if head is not None else lookups[0].weight.n
    _declare_shapes(graph, cache, vocab)
    _save(graph, model)
    heads, head_dim = next(iter(cache.values()))
    return Rewritten(
        graph=Graph(
            cache="growing",
            layers=len(cache) // 2,
            kv_heads=heads,
            head_dim=head_dim,
            hidden=head.weight.k if head is not None else lookups[0].weight.k,
            vocab=vocab,
            activations="float32",
            tied=surgery.tied,
        ),
        recipe=recipe.used(surgery.formats, surgery.tied, FormatSpec("none", 32)),
        weight_bytes=surgery.bytes_read,
        kv_bytes=sum(4 * h * d for h, d in cache.values()),
    )


class _Splice(Builder):
    """A builder whose nodes go into a graph that is there already."""

    def __init__(self, data: DataFile, graph: ir.Graph) -> None:
        super().__init__(data)
        self._graph = graph
        self._anchor: ir.Node | None = None

    def before(self, node: ir.Node | None) -> _Splice:
        """From now on, add nodes in front of this one; at the end for None."""
        self._anchor = node
        return self

    def ops(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        *,
        domain: str = "",
        outputs: int = 1,
        unused: Sequence[int] = (),
        **attributes: Any,
    ) -> Sequence[ir.Value]:
        """Add a node; all its outputs."""
        made = super().ops(op_type, inputs, name, domain=domain, outputs=outputs, unused=unused, **attributes)
        node = self._nodes.pop()
        if self._anchor is None:
            self._graph.append(node)
        else:
            self._graph.insert_before(self._anchor, node)
        return made

    def kept(self, value: ir.Value) -> ir.Value:
        """An initializer of the graph, its bytes moved to the data file where they are many."""
        array, name = traced.array_of(value), str(value.name)
        known = self._initializers.get(name)
        if known is not None and (known.shape != value.shape or array.ndim > 1):
            name += "/traced"  # a packed matrix has taken the name
        return self.constant(name, array)

    def finish(self) -> None:
        """Give the graph the inputs and initializers that were made."""
        self._graph.inputs.extend(self._inputs)
        for value in self._initializers.values():
            self._graph.register_initializer(value)


class _Surgery:
    """Replaces nodes one by one.

    Attributes:
        formats: the format of each role, as used.
        tied: whether the embedding is looked up in the head's bytes.
        bytes_read: of weights, for every token.
    """

    def __init__(
        self, graph: ir.Graph, data: DataFile, formats: Formats, head: Product | None, source: Path, progress: Progress
    ) -> None:
        self.formats = formats
        self.tied = False
        self.bytes_read = 0
        self._graph = graph
        self._b = _Splice(data, graph)
        self._head = head
        self._source = source
        self._progress = progress
        self._packed: dict[tuple[ir.Value, bool, Format], Matrix] = {}
        self._num_logits = self._b.input("num_logits", "int64", [1], default=np.array([1], np.int64))

    def embed(self, lookups: Sequence[Lookup]) -> None:
        """Look ids up in packed tables: in the head's, where it holds the same."""
        head, format = self._head, self.formats.head
        for lookup in lookups:
            table, b = lookup.weight, self._b.before(lookup.node)
            if head is not None and format.can_gather(table.k) and table.equals(head.weight):
                self.tied = True
                rows = format.gather(b, lookup.ids, self._pack(head.weight, format), _name(lookup.node))
            else:
                own = self.formats.embedding
                rows = own.gather(b, lookup.ids, self._pack(table, own), _name(lookup.node))
            _replace(lookup.node.outputs[0], rows)

    def multiply(self, products: Sequence[Product]) -> None:
        """Multiply with packed matrices; the head on the last positions alone."""
        for product in products:
            b, weight, x = self._b.before(product.node), product.weight, product.x
            format = self.formats.body.fit(weight.k)
            if product is self._head:
                format, x = self.formats.head, self._last(x)
            bias = None
            if product.bias is not None:
                bias = b.constant(str(product.bias.name), traced.array_of(product.bias).reshape(weight.n))
            matrix = self._pack(weight, format)
            self.bytes_read += format.nbytes(weight.n, weight.k)
            _replace(product.result, format.matmul(b, x, matrix, _name(product.node), bias))

    def prune(self) -> None:
        """Cut the logits themselves, where the product that makes them could not be told."""
        if self._head is None:
            logits = _output(self._graph, "logits")
            self._b.before(None)
            last = self._last(logits)
            self._graph.outputs[self._graph.outputs.index(logits)] = last
            logits.name, last.name = "logits/all", "logits"

    def finish(self) -> None:
        """Drop what is no longer used, and take over what is."""
        RemoveUnusedNodesPass()(ir.Model(self._graph, ir_version=IR_VERSION))
        for value in list(self._graph.initializers.values()):
            if value.dtype is not None and value.dtype.is_floating_point() and not _only_looked_up(value):
                self.bytes_read += traced.array_of(value).nbytes
            value.replace_all_uses_with(self._b.kept(value))
            del self._graph.initializers[str(value.name)]
        self._b.finish()

    def _last(self, x: ir.Value) -> ir.Value:
        """The last `num_logits` positions of x [..., s, k]."""
        b = self._b
        start = b.op("Neg", [self._num_logits], "logits/start")
        return b.op("Slice", [x, start, b.integers([_TO_THE_END]), b.integers([-2])], "logits/last")

    def _pack(self, weight: Weight, format: Format) -> Matrix:
        key = (weight.value, weight.columns, format)
        if key not in self._packed:
            name, taken = weight.name, {matrix.name for matrix in self._packed.values()}
            if name in taken:  # packed in two ways: a tied table that cannot be looked up in the head's format
                name = f"{name}/{len(taken)}"
            self._packed[key] = format.pack(self._b, name, weight.n, weight.k, self._rows(weight))
        return self._packed[key]

    def _rows(self, weight: Weight) -> Iterator[np.ndarray]:
        for piece in weight.rows():
            # A sum is finite only if every addend is.
            if not np.isfinite(piece.sum(dtype=np.float64)):
                raise CheckpointError(
                    f"{self._source}: tensor '{weight.value.name}' holds values that are not finite",
                    hint="the checkpoint is damaged; download it again",
                )
            yield piece
            self._progress.advance(piece.size, weight.name)


def _formats(spec: RecipeSpec, lookups: Sequence[Lookup], head: Product | None) -> Formats:
    """The recipe's formats, head and embedding fitted to their own widths."""
    table = lookups[0].weight.k
    formats = recipe.formats(spec, head.weight.k if head is not None else table)
    return replace(formats, embedding=table_format(recipe.formats(spec, table).embedding, table))


def _distinct(products: Sequence[Product], lookups: Sequence[Lookup]) -> set[Weight]:
    return {product.weight for product in products} | {lookup.weight for lookup in lookups}


def _replace(old: ir.Value, new: ir.Value) -> None:
    """Let `new` be read in place of `old`; as a graph output, it takes over the name."""
    if old.is_graph_output():
        old.name, new.name = f"{old.name}/traced", old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def _name(node: ir.Node) -> str:
    """The traced node's name, as others are written: without a slash in front."""
    return str(node.name).lstrip("/")


def _only_looked_up(value: ir.Value) -> bool:
    return all(use.node.op_type == "Gather" and use.idx == 0 for use in value.uses())


def _output(graph: ir.Graph, name: str) -> ir.Value:
    return next(value for value in graph.outputs if value.name == name)


def _cache_shapes(graph: ir.Graph, source: Path) -> dict[str, tuple[int, int]]:
    """Cache input → (heads, dimensions of a head); UnsupportedModelError for a graph that the Engine cannot feed."""
    found: dict[str, tuple[int, int]] = {}
    for value in graph.inputs:
        name, shape = str(value.name), list(value.shape or ())
        if _CACHE.fullmatch(name) and len(shape) == 4 and isinstance(shape[1], int) and isinstance(shape[3], int):
            found[name] = (shape[1], shape[3])
        elif name not in _INPUTS:
            raise UnsupportedModelError(
                f"{source}: Optimum's graph has an input {name} {shape}, which edgelm cannot feed"
            )
    missing = {"logits", *(name.replace("past_key_values", "present") for name in found)}
    missing -= {str(value.name) for value in graph.outputs}
    if missing or not found:
        raise UnsupportedModelError(f"{source}: Optimum's graph has no {min(missing, default='past_key_values')}")
    return found


def _declare_shapes(graph: ir.Graph, cache: dict[str, tuple[int, int]], vocab: int) -> None:
    """Batch 1, and names for what varies; nothing about values in between, whose traced shapes no longer hold."""
    shapes: dict[str, list[int | str]] = {**_INPUTS, "num_logits": [1], "logits": [1, 1, vocab]}
    for name, (heads, size) in cache.items():
        shapes[name] = [1, heads, "past_sequence_length", size]
        shapes[name.replace("past_key_values", "present")] = [1, heads, "total_sequence_length", size]
    for node in graph:
        for value in node.outputs:
            value.shape = None
            if not value.is_graph_output():
                value.type = None
    for value in (*graph.inputs, *graph.outputs):
        value.shape = ir.Shape(shapes[str(value.name)])
        value.type = value.type or ir.TensorType(ir.DataType.FLOAT)


def _save(graph: ir.Graph, path: Path) -> None:
    """Write model.onnx; the same graph gives the same bytes."""
    graph.name = "decoder"
    if not any(node.op_type in _CHANGED for node in graph):
        graph.opset_imports[""] = max(OPSET, graph.opset_imports[""])
    graph.opset_imports[MICROSOFT] = 1
    model = ir.Model(
        graph,
        ir_version=IR_VERSION,
        producer_name="edgelm",
        producer_version=__version__,
        metadata_props={"exporter": "optimum"},
    )
    path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))

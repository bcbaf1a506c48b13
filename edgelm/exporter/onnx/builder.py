"""A thin layer over onnx-ir: nodes are added in order and named, values flow from one to the next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgelm.exporter.onnx.store import DataFile, Stored
from edgelm.version import __version__

OPSET = 21
IR_VERSION = 10
MICROSOFT = "com.microsoft"
_INLINE_BYTES = 1024  # smaller constants stand in model.onnx itself


class Builder:
    """The graph under construction.

    Attributes:
        data: where large tensors go.
        float: the numpy type of activations, norms and scales.
    """

    def __init__(self, data: DataFile, activations: str = "float32", beside: Builder | None = None) -> None:
        """Large constants that a graph in the same folder, `beside`, has under the same name are read from its file."""
        self.data = data
        self.float = np.dtype(activations)
        self._constants: dict[str, Stored] = {} if beside is None else dict(beside._constants)
        self._nodes: list[ir.Node] = []
        self._inputs: list[ir.Value] = []
        self._outputs: list[ir.Value] = []
        self._initializers: dict[str, ir.Value] = {}
        self._widened: dict[str, ir.Value] = {}

    def input(self, name: str, dtype: str, shape: Sequence[int | str], default: np.ndarray | None = None) -> ir.Value:
        """A graph input; with a `default` it may be left out at run time."""
        value = _typed(name, dtype, shape)
        self._inputs.append(value)
        if default is not None:
            value.const_value = ir.tensor(default, name=name)
            self._initializers[name] = value
        return value

    def output(self, value: ir.Value, name: str, dtype: str, shape: Sequence[int | str]) -> None:
        """Name `value` as a graph output."""
        value.name, value.type, value.shape = name, ir.TensorType(_dtype(dtype)), ir.Shape(shape)
        self._outputs.append(value)

    def op(
        self, op_type: str, inputs: Sequence[ir.Value | None], name: str, *, domain: str = "", **attributes: Any
    ) -> ir.Value:
        """Add a node with one output; that output."""
        return self.ops(op_type, inputs, name, domain=domain, **attributes)[0]

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
        """Add a node; all its outputs. Optional ones that nobody reads are `unused`, by index: they stay unnamed."""
        values = [ir.Value(name="" if i in unused else f"{name}/output_{i}") for i in range(outputs)]
        node = ir.node(op_type, inputs, attributes, domain=domain, outputs=values, name=name)
        self._nodes.append(node)
        return node.outputs

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        """An initializer; the same name gives the same value again."""
        if name not in self._initializers:
            array = np.asarray(array)
            if array.nbytes > _INLINE_BYTES:
                if name not in self._constants:
                    self._constants[name] = self.data.append(array)
                return self.stored(name, self._constants[name])
            value = _typed(name, array.dtype.name, array.shape)
            value.const_value = ir.tensor(array, name=name)
            self._initializers[name] = value
        return self._initializers[name]

    def stored(self, name: str, tensor: Stored) -> ir.Value:
        """An initializer whose bytes are in a data file already."""
        if name not in self._initializers:
            value = _typed(name, tensor.dtype, tensor.shape)
            value.const_value = ir.ExternalTensor(
                tensor.file, tensor.offset, tensor.length, _dtype(tensor.dtype), shape=ir.Shape(tensor.shape), name=name
            )
            self._initializers[name] = value
        return self._initializers[name]

    def widened(self, value: ir.Value) -> ir.Value:
        """An initializer in the type of the activations, by one node for all who ask."""
        assert value.name is not None
        if value.dtype == _dtype(self.float.name):
            return value
        if value.name not in self._widened:
            to = int(_dtype(self.float.name))
            self._widened[value.name] = self.op("Cast", [value], f"{value.name}/widened", to=to)
        return self._widened[value.name]

    def integers(self, values: Sequence[int] | int) -> ir.Value:
        """A small int64 constant, shared by all who need the same."""
        array = np.asarray(values, dtype=np.int64)
        return self.constant(
            "const/" + "_".join(map(str, np.atleast_1d(array))) + ("" if array.ndim else "/scalar"), array
        )

    def prune(self) -> None:
        """Leave out nodes, inputs and initializers of which no output is made."""
        wanted, needed = list(self._outputs), set[int]()
        while wanted:
            value = wanted.pop()
            node = value.producer()
            if id(value) not in needed and node is not None:
                wanted += [each for each in node.inputs if each is not None]
                needed |= {id(each) for each in node.outputs} - {id(value)}
            needed.add(id(value))
        self._nodes = [node for node in self._nodes if any(id(value) in needed for value in node.outputs)]
        self._inputs = [value for value in self._inputs if id(value) in needed]
        self._initializers = {name: value for name, value in self._initializers.items() if id(value) in needed}

    def save(self, path: Path, metadata: dict[str, str]) -> None:
        """Write the graph; the same one gives the same bytes."""
        path.write_bytes(self.serialized(metadata))

    def serialized(self, metadata: dict[str, str]) -> bytes:
        """The graph's file."""
        graph = ir.Graph(
            self._inputs,
            self._outputs,
            nodes=self._nodes,
            initializers=list(self._initializers.values()),
            opset_imports={"": OPSET, MICROSOFT: 1},
            name="decoder",
        )
        model = ir.Model(
            graph, ir_version=IR_VERSION, producer_name="edgelm", producer_version=__version__, metadata_props=metadata
        )
        proto = ir.to_proto(model)
        content: bytes = proto.SerializeToString(deterministic=True)
        return content


def _dtype(name: str) -> ir.DataType:
    return ir.DataType.from_numpy(np.dtype(name))


def _typed(name: str, dtype: str, shape: Sequence[int | str]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(_dtype(dtype)), shape=ir.Shape(shape))

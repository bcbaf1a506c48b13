"""Just enough of ONNX's file format to take a graph apart and to put its weights elsewhere.

The device has no `onnx` package; a graph is a protobuf message, and what is needed of it is small: the nodes as they are,
and where each initializer's bytes lie. Field numbers are those of onnx.proto3. What is not looked at is kept byte for
byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MODEL_IR, _MODEL_GRAPH, _MODEL_OPSET = 1, 7, 8
_GRAPH_NODE, _GRAPH_NAME, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 2, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP, _NODE_ATTRIBUTE = 1, 2, 3, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_TYPE, _INT = 1, 3, 20, 2  # the last of AttributeProto.AttributeType
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW, _TENSOR_EXTERNAL, _TENSOR_PLACE = 1, 2, 8, 9, 13, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_MODEL_WIRES = {_MODEL_IR: _VARINT, _MODEL_GRAPH: _BYTES, _MODEL_OPSET: _BYTES}
_GRAPH_WIRES = dict.fromkeys((_GRAPH_NODE, _GRAPH_NAME, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT), _BYTES)
_NODE_WIRES = dict.fromkeys((_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP, _NODE_ATTRIBUTE), _BYTES)
_TENSOR_WIRES = dict.fromkeys((_TENSOR_TYPE, _TENSOR_PLACE), _VARINT) | dict.fromkeys(
    (_TENSOR_NAME, _TENSOR_RAW, _TENSOR_EXTERNAL), _BYTES
)  # its dims come either way
_ENTRY_WIRES = {_ENTRY_KEY: _BYTES, _ENTRY_VALUE: _BYTES}
_STEP = 256  # outputs of a slice are a multiple of it, so that kernels tile them as they do the whole
_EXTERNAL = 1  # of TensorProto.DataLocation
_FLOAT, _FLOATS, _INT64 = 1, (1, 10, 11, 16), 7  # of TensorProto.DataType: float32, and all with a point
_SIZES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}  # bytes of each DataType

Fields = list[tuple[int, int, Any]]
"""Number, wire type and value of each field of a message; the value is a whole number or bytes."""


def parse(data: bytes | memoryview, wires: Mapping[int, int] = MappingProxyType({})) -> Fields:
    """The fields of a message, in order.

    Args:
        data: the message.
        wires: the wire types of the fields that will be looked at.

    Raises:
        ValueError: it is no message, or one of `wires` is of another type.
    """
    view, fields, at = memoryview(data), Fields(), 0
    while at < len(view):
        tag, at = _read_varint(view, at)
        number, wire = tag >> 3, tag & 7
        if wires.get(number, wire) != wire:
            raise ValueError("no protobuf message of this kind")
        if wire == _VARINT:
            value, at = _read_varint(view, at)
            fields.append((number, wire, value))
            continue
        length = {_FIXED64: 8, _FIXED32: 4}.get(wire)
        if wire == _BYTES:
            length, at = _read_varint(view, at)
        if length is None or at + length > len(view):
            raise ValueError("no protobuf message")
        fields.append((number, wire, view[at : at + length]))
        at += length
    return fields


def encode(fields: Iterable[tuple[int, int, Any]]) -> bytes:
    """The message of these fields."""
    out = bytearray()
    for number, wire, value in fields:
        out += _varint(number << 3 | wire)
        if wire == _VARINT:
            out += _varint(value)
        else:
            out += (_varint(len(value)) if wire == _BYTES else b"") + value
    return bytes(out)


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(view) and shift < 64:
        byte = view[at]
        at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, at
    raise ValueError("no protobuf message")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _texts(fields: Fields, number: int) -> list[str]:
    return [bytes(value).decode() for n, _, value in fields if n == number]


@dataclass(frozen=True)
class Tensor:
    """An initializer.

    Attributes:
        name, dims, type: of it; the type is ONNX's number.
        inline: its bytes where they are in the graph's own file, else None.
        external: what the graph says of its bytes elsewhere: ``location``, ``offset``, ``length``, ``prepacked_0``, …
    """

    name: str
    dims: tuple[int, ...]
    type: int
    inline: memoryview | bytes | None
    external: dict[str, str]

    @classmethod
    def read(cls, data: bytes | memoryview) -> Tensor | None:
        """Parse a TensorProto; None for one whose values are not plain bytes."""
        fields = parse(data, _TENSOR_WIRES)
        dims: list[int] = []
        for number, wire, value in fields:
            if number == _TENSOR_DIMS:
                dims += [value] if wire == _VARINT else _packed(value)
        numbers = {number: value for number, _, value in fields}
        pairs = (parse(value, _ENTRY_WIRES) for number, _, value in fields if number == _TENSOR_EXTERNAL)
        external = {_texts(pair, _ENTRY_KEY)[0]: _texts(pair, _ENTRY_VALUE)[0] for pair in pairs}
        inline = numbers.get(_TENSOR_RAW)
        if (inline is None and not external) or numbers.get(_TENSOR_TYPE) not in _SIZES:
            return None
        return cls(_texts(fields, _TENSOR_NAME)[0], tuple(dims), numbers[_TENSOR_TYPE], inline, external)

    @property
    def is_float(self) -> bool:
        """Whether its values are floats."""
        return self.type in _FLOATS

    @property
    def may_move(self) -> bool:
        """Whether its bytes may be in another file; whole numbers may be a shape, which must be in the graph."""
        return self.type != _INT64

    @cached_property
    def nbytes(self) -> int:
        """How many bytes its values are."""
        count = _SIZES[self.type]
        for size in self.dims:
            count *= size
        return count

    def at(self, location: str, offset: int, **more: str) -> Tensor:
        """The same, its bytes at `offset` of the file `location`."""
        external = {"location": location, "offset": str(offset), "length": str(self.nbytes), **more}
        return replace(self, inline=None, external=external)

    def rows(self, name: str, start: int, end: int) -> Tensor:
        """A part of it, by its first dimension, as a tensor of another name."""
        size = self.nbytes // self.dims[0]
        dims = (end - start, *self.dims[1:])
        if self.inline is not None:
            return Tensor(name, dims, self.type, self.inline[start * size : end * size], {})
        offset = int(self.external.get("offset", "0")) + start * size
        return Tensor(name, dims, self.type, None, {}).at(self.external["location"], offset)

    def encode(self) -> bytes:
        """The TensorProto."""
        fields: Fields = [(_TENSOR_DIMS, _VARINT, size) for size in self.dims]
        fields += [(_TENSOR_TYPE, _VARINT, self.type), (_TENSOR_NAME, _BYTES, self.name.encode())]
        if self.inline is not None:
            return encode([*fields, (_TENSOR_RAW, _BYTES, self.inline)])
        for key, value in self.external.items():
            pair: Fields = [(_ENTRY_KEY, _BYTES, key.encode()), (_ENTRY_VALUE, _BYTES, value.encode())]
            fields.append((_TENSOR_EXTERNAL, _BYTES, encode(pair)))
        return encode([*fields, (_TENSOR_PLACE, _VARINT, _EXTERNAL)])


def _packed(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _read_varint(data, at)
        yield value


@dataclass(frozen=True)
class Node:
    """A node.

    Attributes:
        op: its operator.
        inputs, outputs: names; an input that is left out is ``""``.
        data: the NodeProto.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    data: memoryview

    @classmethod
    def read(cls, data: memoryview) -> Node:
        """Parse a NodeProto."""
        fields = parse(data, _NODE_WIRES)
        inputs, outputs = tuple(_texts(fields, _NODE_INPUT)), tuple(_texts(fields, _NODE_OUTPUT))
        return cls(_texts(fields, _NODE_OP)[0], inputs, outputs, data)


class Graph:
    """A parsed ModelProto: `nodes`, and `tensors`, the initializers by name whose values are plain bytes.

    Raises:
        ValueError: `data` is no model.
    """

    def __init__(self, data: bytes) -> None:
        try:
            self._read(data)
        except (LookupError, StopIteration, TypeError, OverflowError, RecursionError):  # what is not as it must be
            raise ValueError("no ONNX model") from None

    def _read(self, data: bytes) -> None:
        self._model = parse(data, _MODEL_WIRES)
        (graph,) = (value for number, _, value in self._model if number == _MODEL_GRAPH)
        self._graph = parse(graph, _GRAPH_WIRES)
        self.nodes = [Node.read(value) for number, _, value in self._graph if number == _GRAPH_NODE]
        found = (Tensor.read(value) for number, _, value in self._graph if number == _GRAPH_INITIALIZER)
        inputs = {_texts(parse(value, {1: _BYTES}), 1)[0] for number, _, value in self._graph if number == _GRAPH_INPUT}
        # One that is an input too is a default value, and no constant.
        self.tensors = {tensor.name: tensor for tensor in found if tensor is not None and tensor.name not in inputs}

    def with_tensors(self, tensors: dict[str, Tensor], first: Node | None = None) -> bytes:
        """The model with other initializers, by name, and with the node `first` written before all others."""
        graph = Fields() if first is None else [(_GRAPH_NODE, _BYTES, first.data)]
        for number, wire, value in self._graph:
            if number == _GRAPH_NODE and first is not None and value == first.data:
                continue
            if number == _GRAPH_INITIALIZER:
                tensor = Tensor.read(value)
                if tensor is not None and tensor.name in tensors:
                    value = tensors[tensor.name].encode()
            graph.append((number, wire, value))
        body = encode(graph)
        return encode((n, w, body if n == _MODEL_GRAPH else value) for n, w, value in self._model)

    def in_slices(self, most: int) -> bytes:
        """The model with every MatMulNBits whose weights are more than `most` bytes cut by its outputs, into nodes of
        about as much that come first, and the join of what they give.
        """
        cut = {bytes(node.data): found for node in self.nodes if (found := self._slices(node, most)) is not None}
        made = [part for slices, _ in cut.values() for part in slices]
        tensors = [tensor for _, parts in cut.values() for tensor in parts]
        left = {name for node in self.nodes if bytes(node.data) not in cut for name in node.inputs}
        used = {name for node in self.nodes for name in node.inputs}
        graph: Fields = [(_GRAPH_NODE, _BYTES, part) for part in made]
        for number, wire, value in self._graph:
            if number == _GRAPH_NODE and bytes(value) in cut:
                continue
            if number == _GRAPH_INITIALIZER:
                tensor = Tensor.read(value)
                if tensor is not None and tensor.name in used - left:
                    continue
            graph.append((number, wire, value))
        graph += [(_GRAPH_INITIALIZER, _BYTES, tensor.encode()) for tensor in tensors]
        body = encode(graph)
        return encode((n, w, body if n == _MODEL_GRAPH else value) for n, w, value in self._model)

    def _slices(self, node: Node, most: int) -> tuple[list[bytes], list[Tensor]] | None:
        """The nodes and initializers in place of a node; None where it stays."""
        if node.op != "MatMulNBits" or not all(name in self.tensors for name in node.inputs[1:] if name):
            return None
        weights, fields = self.tensors[node.inputs[1]], parse(node.data)
        outputs = weights.dims[0]
        held = {name: self.tensors[name] for name in node.inputs[1:] if name}
        if weights.nbytes <= most or any(tensor.dims[0] % outputs for tensor in held.values()):
            return None
        step = -(-outputs // -(-weights.nbytes // most))
        step += -step % _STEP
        nodes, tensors, names = [], list[Tensor](), []
        for start in range(0, outputs, step):
            end = min(outputs, start + step)
            for name, tensor in held.items():
                per = tensor.dims[0] // outputs
                tensors.append(tensor.rows(f"{name}/{start}", start * per, end * per))
            names.append(f"{node.outputs[0]}/{start}")
            renamed = {name: f"{name}/{start}" for name in held} | {node.outputs[0]: names[-1]}
            nodes.append(encode(_slice(fields, renamed, start, end - start)))
        join: Fields = [(_NODE_INPUT, _BYTES, name.encode()) for name in names]
        join += [(_NODE_OUTPUT, _BYTES, node.outputs[0].encode()), (_NODE_OP, _BYTES, b"Concat")]
        join.append((_NODE_ATTRIBUTE, _BYTES, _attribute("axis", (1 << 64) - 1)))  # -1, the last one
        return [*nodes, encode(join)], tensors

    def single(self, node: Node) -> bytes:
        """A model of one node with its initializers; its other inputs, and its outputs, are floats of any shape."""
        kept = {name: self.tensors[name] for name in node.inputs if name in self.tensors}
        kind = next((tensor.type for tensor in kept.values() if tensor.is_float), _FLOAT)
        graph: Fields = [(_GRAPH_NODE, _BYTES, node.data), (_GRAPH_NAME, _BYTES, b"single")]
        graph += [(_GRAPH_INITIALIZER, _BYTES, tensor.encode()) for tensor in kept.values()]
        free = dict.fromkeys(name for name in node.inputs if name and name not in kept)
        graph += [(_GRAPH_INPUT, _BYTES, _value(name, kind)) for name in free]
        graph += [(_GRAPH_OUTPUT, _BYTES, _value(name, kind)) for name in node.outputs if name]
        model = [field for field in self._model if field[0] in (_MODEL_IR, _MODEL_OPSET)]
        return encode([*model, (_MODEL_GRAPH, _BYTES, encode(graph))])


def _slice(fields: Fields, renamed: dict[str, str], start: int, outputs: int) -> Fields:
    """A MatMulNBits with other names, and as many outputs."""
    found = Fields()
    for number, wire, value in fields:
        if number in (_NODE_INPUT, _NODE_OUTPUT):
            name = bytes(value).decode()
            value = renamed.get(name, name).encode()
        elif number == _NODE_NAME:
            value = bytes(value) + f"/{start}".encode()
        elif number == _NODE_ATTRIBUTE and _texts(parse(value), _ATTRIBUTE_NAME) == ["N"]:
            value = _attribute("N", outputs)
        found.append((number, wire, value))
    return found


def _attribute(name: str, value: int) -> bytes:
    """An AttributeProto of a whole number."""
    number: Fields = [(_ATTRIBUTE_INT, _VARINT, value), (_ATTRIBUTE_TYPE, _VARINT, _INT)]
    return encode([(_ATTRIBUTE_NAME, _BYTES, name.encode()), *number])


def _value(name: str, kind: int) -> bytes:
    """A ValueInfoProto: a tensor of that type, its rank and shape unknown."""
    tensor = encode([(1, _VARINT, kind)])
    return encode([(1, _BYTES, name.encode()), (2, _BYTES, encode([(1, _BYTES, tensor)]))])

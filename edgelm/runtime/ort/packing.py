"""Weights as onnxruntime's kernels lay them out, in a file that can be mapped.

When a session is made, kernels such as MatMulNBits copy their weights into a layout of their own, on the heap. onnxruntime
can write these copies to a file and map them when the model is loaded again: what was memory of the process becomes pages
of a file, which several processes share and which can be dropped when memory is short. It packs all the same, one matrix
at a time, and compares: only a file that holds the very bytes that the kernel would make is used, any other is refused.
So outputs do not change, no damage goes unnoticed, and what is saved is memory much more than time.

The writing is done a node at a time, in a model of that node alone, so that it takes the memory of one matrix. What is
written is the graph as onnxruntime optimised it, and one file of the packed copies: the weights themselves stay in the
bundle. onnxruntime looks for all of them under one folder, the root of the file system.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgelm.files import open_regular
from edgelm.runtime.ort.onnxfile import Graph, Node, Tensor
from edgelm.runtime.ort.session import open_optimized, save_optimized, save_packed
from edgelm.runtime.ort.workers import Workers

GRAPH, PACKED = "graph.onnx", "packed.bin"
_ROOT = Path(os.sep)
_SMALL = 32 << 10  # bytes of weights that are not worth a try
_LARGE = 48 << 20  # bytes of weights from which a product is cut into several, for a load has the largest three times
_INLINE = 1 << 10  # bytes of constants that stay in the graph
_PAGE = 4096  # where prepacked weights begin, so that they can be mapped
_PIECE = 4 << 20
_KEY = "prepacked_"
_NEVER = frozenset(("Gather", "GatherBlockQuantized", "GroupQueryAttention"))  # hold tables, which are not packed

OnBytes = Callable[[int, int], None]
"""Called with (bytes of weights done, bytes in all)."""


@dataclass(frozen=True)
class Packed:
    """What `pack` wrote.

    Attributes:
        matrices: how many were packed.
        bytes, crc32: of the file of prepacked weights.
    """

    matrices: int
    bytes: int
    crc32: int


def pack(model: Path, folder: Path, final: Path, on_bytes: OnBytes | None = None) -> Packed:
    """Write the optimised graph of `model` and its prepacked weights into `folder`.

    Args:
        model: the graph of a bundle.
        folder: an empty folder.
        final: what `folder` will be called: the graph says where its weights are.
        on_bytes: is called with how far it is.

    Raises:
        OSError: the folder cannot be written.
        Exception: what onnxruntime raises.
    """
    optimized = folder / "optimized.onnx"
    save_optimized(model, optimized)
    graph = Graph(Graph(optimized.read_bytes()).in_slices(_LARGE))
    optimized.unlink()
    nodes = [node for node in graph.nodes if _weight(graph, node) >= _SMALL]
    total, done = sum(_weight(graph, node) for node in nodes), 0
    blobs: dict[str, str] = {}  # key → parts, as onnxruntime writes them
    with (folder / PACKED).open("wb") as file:
        out = _Out(file)
        for node in nodes:
            if on_bytes is not None:
                on_bytes(done, total)
            for key, parts in _pack_node(graph, node, model.parent, folder).items():
                if key not in blobs:
                    blobs[key] = "|".join(out.copy(*part) for part in parts)
            done += _weight(graph, node)
        if on_bytes is not None:
            on_bytes(done, total)
        shutil.rmtree(folder / "node", ignore_errors=True)
        tensors = _place(graph, out, model.parent, final, blobs)
    # A load packs nodes in the order of the file, and keeps the mapped copies that it has compared. The largest matrix,
    # which is there three times while that is done, comes before all others. What order nodes run in is another matter.
    largest = max(nodes, key=lambda node: _weight(graph, node), default=None)
    (folder / GRAPH).write_bytes(graph.with_tensors(tensors, largest))
    return Packed(len(blobs), out.end, out.crc32)


def open_packed(graph: bytes, threads: int | Workers, **entries: str) -> Any:
    """A session of a graph that `pack` wrote; `entries` are settings of onnxruntime.

    Raises:
        Exception: what onnxruntime raises: prepacked weights that are not those of this machine are such a case.
    """
    return open_optimized(graph, _ROOT, threads, **entries)


def moved(graph: bytes, old: Path, new: Path) -> bytes:
    """The graph, with the weights in the folder `new` that were in `old`."""
    before, after = Path(_location(old)), Path(_location(new))
    if before == after:
        return graph
    parsed, tensors = Graph(graph), dict[str, Tensor]()
    for name, tensor in parsed.tensors.items():
        place = Path(tensor.external.get("location", ""))
        if place.parent == before:
            tensors[name] = replace(tensor, external=tensor.external | {"location": str(after / place.name)})
    return parsed.with_tensors(tensors)


class _Out:
    """Appends to the file of prepacked weights."""

    def __init__(self, file: Any) -> None:
        self._file, self.end, self.crc32 = file, 0, 0

    def write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self.crc32, self.end = zlib.crc32(data, self.crc32), self.end + len(data)

    def begin(self) -> int:
        """Go to the next page."""
        self.write(bytes(-self.end % _PAGE))
        return self.end

    def copy(self, path: Path, start: int, length: int) -> str:
        """Append a part of another file; where it is now, in onnxruntime's form."""
        begin = self.begin()
        with open_regular(path) as source:
            source.seek(start)
            while self.end < begin + length:
                piece = source.read(min(_PIECE, begin + length - self.end))
                if not piece:
                    raise OSError(f"{path} is too short")
                self.write(piece)
        return f"{begin};{length};0"


def _weight(graph: Graph, node: Node) -> int:
    """Bytes of the weights of a node that may be packed."""
    if node.op in _NEVER:
        return 0
    return max((graph.tensors[name].nbytes for name in node.inputs if name in graph.tensors), default=0)


def _pack_node(graph: Graph, node: Node, data: Path, folder: Path) -> dict[str, list[tuple[Path, int, int]]]:
    """Key → parts (file, start, length) of what the node's kernel makes of its weights; empty where it makes nothing."""
    made = folder / "node"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    try:
        save_packed(graph.single(node), data, made / "model.onnx", "data")
    except MemoryError:
        raise
    except Exception:  # not a node of floats alone, or its shapes are not known: it packs when the model is loaded
        return {}
    found = {}
    for tensor in Graph((made / "model.onnx").read_bytes()).tensors.values():
        for name, value in tensor.external.items():
            if name.startswith(_KEY):
                key, *parts = value.split("|")
                spans = (part.split(";") for part in parts)
                found[key] = [(made / "data", int(span[0]), int(span[1])) for span in spans]
    return found


def _place(graph: Graph, out: _Out, data: Path, final: Path, blobs: dict[str, str]) -> dict[str, Tensor]:
    """Where all tensors are: in the bundle still, or, where folding made them, in the file of prepacked weights.

    A tensor in that file must name the packed copies: the smallest one is copied there for it.
    """
    packed, tensors = _location(final / PACKED), {}
    for name, tensor in graph.tensors.items():
        if tensor.inline is None:
            tensors[name] = tensor.at(_location(data / tensor.external["location"]), int(tensor.external["offset"]))
        elif tensor.nbytes >= _INLINE and tensor.may_move:
            begin = out.begin()
            out.write(tensor.inline)
            tensors[name] = tensor.at(packed, begin)
    if blobs:
        bearer = min((tensor for tensor in graph.tensors.values() if tensor.is_float), key=lambda t: t.nbytes)
        begin = out.begin()
        out.write(_values(bearer, data))
        named = {f"{_KEY}{i}": f"{key}|{parts}" for i, (key, parts) in enumerate(blobs.items())}
        tensors[bearer.name] = bearer.at(packed, begin, **named)
    return tensors


def _values(tensor: Tensor, data: Path) -> bytes:
    if tensor.inline is not None:
        return bytes(tensor.inline)
    with open_regular(data / tensor.external["location"]) as file:
        file.seek(int(tensor.external["offset"]))
        return file.read(tensor.nbytes)


def _location(path: Path) -> str:
    """A path as seen from the root."""
    return str(Path(os.path.realpath(path)).relative_to(_ROOT))

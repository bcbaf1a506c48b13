"""The headers of a GGUF file that lies elsewhere: in its place stands a sparse file with its first bytes, of its size."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from edgelm.exporter.checkpoint.gguf.header import CutShortError, Header, read_header
from edgelm.exporter.checkpoint.gguf.rope import FACTORS

_FIRST = 1 << 20  # bytes that are asked for; the next time twice as many
_MOST = 256 << 20  # of a header; those of the largest vocabularies take 20 MB

Read = Callable[[int, int], tuple[bytes, int]]
"""(first byte, how many) → those bytes, fewer at the end of the file; and the size of the file."""


def write_stub(read: Read, path: Path) -> None:
    """Write what `read_header` and the configuration need of a file to `path`; of its weights there are only holes.

    Raises:
        EdgeLMError: as `read` and `read_header` do.
    """
    data, size = read(0, _FIRST)
    with path.open("wb") as file:
        file.write(data)
    while (header := _header(path, size, len(data))) is None:
        more, _ = read(len(data), min(len(data), size - len(data)))
        data += more
        with path.open("ab") as file:
            file.write(more)
    with path.open("r+b") as file:
        file.truncate(size)
        for tensor in (header.tensors[name] for name in FACTORS if name in header.tensors):
            file.seek(tensor.offset)
            length = math.prod(tensor.shape) // tensor.type.size * tensor.type.bytes
            file.write(read(tensor.offset, length)[0])


def _header(path: Path, size: int, there: int) -> Header | None:
    """The header, or None where more of the file is needed for it."""
    try:
        return read_header(path, size)
    except CutShortError:
        if there >= min(size, _MOST):
            raise
        return None

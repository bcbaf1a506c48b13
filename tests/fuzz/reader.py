"""A kind of file that the harness damages."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Reader:
    """A kind of file.

    Attributes:
        name: of the file.
        make: its sound content, made in an empty folder.
        read: reads it; a sound one without an error.
        json: whether it is JSON, whose values are damaged, too.
    """

    name: str
    make: Callable[[Path], bytes]
    read: Callable[[Path], object]
    json: bool = False


def dumped(value: object) -> Callable[[Path], bytes]:
    return lambda folder: json.dumps(value).encode()

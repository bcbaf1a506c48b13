"""The checksum that manifest.json carries of itself, as its last line: SHA-256 of the file without that line.

A manifest that does not end in such a line was made before there was one, and is believed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgelm.errors import BundleError

KEY = "sha256"
_BEFORE, _END = ',\n  "', "\n}\n"  # of the last line of a JSON object with an indent of 2
_LINE = re.compile(rb'([^"\n]*)": "([^"\n]*)"\n}\n')


def sealed(text: str) -> str:
    """JSON text of an indent of 2 with the checksum, in hex, as its last key."""
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    return f'{text.removesuffix(_END)}{_BEFORE}{KEY}": "{digest}"{_END}'


def expect_whole(data: bytes, parsed: Mapping[str, Any], path: Path) -> None:
    """Compare a manifest with its checksum.

    Args:
        data: the file's bytes.
        parsed: what they say.
        path: of the file, for the error.

    Raises:
        BundleError: it was changed since it was written.
    """
    text, _, last = data.rpartition(_BEFORE.encode())
    line = _LINE.fullmatch(last)
    if line is None and KEY not in parsed:
        return
    expected = "" if line is None else line[2].decode("utf-8", "replace")
    found = hashlib.sha256(text + _END.encode()).hexdigest()
    if line is None or line[1] != KEY.encode() or expected != found:
        raise BundleError(
            f"{path} was changed: SHA-256 {found[:12]}… without its last line, which says {expected[:12] or 'nothing'}",
            hint="copy the bundle again, or export it again",
        )

"""A ceiling on memory: how long a context fits beneath it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edgelm.errors import BundleError, DeviceError, OptionError

SHORTEST = 64  # tokens of a context that is still of use


def fit(manifest: Mapping[str, Any], max_memory_mb: float) -> tuple[int, int]:
    """The context that fits, and the bytes that keys and values may take.

    Weights, runtime, activations and one row of logits come first, by the manifest's figures (see `edgelm inspect`);
    what is left is for keys and values.

    Args:
        manifest: of the bundle.
        max_memory_mb: the ceiling, in 10^6 bytes.

    Raises:
        OptionError: the ceiling is no number above 0.
        DeviceError: it leaves room for fewer than `SHORTEST` tokens, or fewer than the whole of a shorter context.
        BundleError: the manifest holds no figures.
    """
    if (
        isinstance(max_memory_mb, bool)
        or not isinstance(max_memory_mb, int | float)
        or not 0 < max_memory_mb < math.inf
    ):
        raise OptionError(f"max_memory_mb must be a number above 0, not {max_memory_mb!r}")
    try:
        context, memory = int(manifest["context"]), manifest["memory"]
        copies = 1 if manifest["graph"]["cache"] == "shared" else 2  # a step that returns a longer copy holds both
        fixed = int(memory["total_bytes"]) - copies * int(memory["kv_bytes"])
        per_token = copies * max(1, int(memory["kv_bytes_per_token"]))
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"manifest.json does not say what memory it needs ({error})", hint="export the bundle again"
        ) from None
    room = int(max_memory_mb * 1e6) - fixed
    fits, least = min(context, room // per_token), min(context, SHORTEST)
    if fits < least:
        raise DeviceError(
            f"{max_memory_mb:,.0f} MB are too little: this bundle needs {(fixed + least * per_token) / 1e6:,.0f} MB with a "
            f"context of {least} tokens",
            hint="allow for more memory, or export a smaller model or fewer bits",
        )
    return fits, room

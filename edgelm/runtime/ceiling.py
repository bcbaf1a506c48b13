"""A ceiling on memory: how long a context fits beneath it."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

from edgelm.errors import BundleError, DeviceError, OptionError
from edgelm.runtime.windows import windows_bytes

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
        fixed = int(memory["total_bytes"]) - copies * int(memory["kv_bytes"]) - int(memory.get("window_bytes", 0))
        per_token = copies * int(memory["kv_bytes_per_token"])
        windows = manifest["graph"].get("windows", {}).values()
        sizes = [(int(w["capacity"]), int(w["bytes_per_token"])) for w in windows]
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"manifest.json does not say what memory it needs ({error})", hint="export the bundle again"
        ) from None

    def taken(tokens: int) -> int:
        return per_token * tokens + windows_bytes(sizes, tokens)

    room = int(max_memory_mb * 1e6) - fixed
    fits, least = bisect_right(range(1, context + 1), room, key=taken), min(context, SHORTEST)
    if fits < least:
        raise DeviceError(
            f"{max_memory_mb:,.0f} MB are too little: this bundle needs {(fixed + taken(least)) / 1e6:,.0f} MB with a "
            f"context of {least} tokens",
            hint="allow for more memory, or export a smaller model or fewer bits",
        )
    return fits, room

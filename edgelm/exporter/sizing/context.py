"""How long a context an export is for."""

from __future__ import annotations

from edgelm.errors import ExportError, OptionError
from edgelm.target.target import Target


def choose_context(wanted: int | None, target: Target, limit: int) -> int:
    """The context to export for: what is wanted, or the target's choice; at most `limit`, the model's.

    Raises:
        OptionError: less than a token.
        ExportError: more than the model was made for.
    """
    if wanted is not None and wanted < 1:
        raise OptionError(f"context must be at least 1 token, not {wanted}")
    if wanted is not None and wanted > limit:
        raise ExportError(
            f"context {wanted:,} is more than the model was made for ({limit:,} tokens)",
            hint=f"use --context {limit} or less",
        )
    return wanted or min(target.runtime.context, limit)

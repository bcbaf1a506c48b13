"""How long a context an export is for."""

from __future__ import annotations

from edgelm.errors import EdgeLMError, ExportError, OptionError
from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.families.rope import read_scaling
from edgelm.target.target import Target

# What the architectures call their longest context.
_CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length")
_DEFAULT_CONTEXT = 2048


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


def context_limit(config: Config) -> int:
    """The longest context the model was made for, in tokens; 2048 where config.json does not say."""
    for table in (config, config.nested("text_config")):
        for key in _CONTEXT:
            if table is not None and table.get(key) is not None:
                return max(table.integer(key), _reach(table))
    return _DEFAULT_CONTEXT


def _reach(config: Config) -> int:
    """The context that a scaled rotary embedding makes, where it is one of those that are known."""
    try:
        scaling = read_scaling(config)
    except EdgeLMError:
        return 0
    return 0 if scaling is None else scaling.reach

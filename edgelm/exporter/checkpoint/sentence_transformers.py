"""What sentence-transformers says about a checkpoint: modules.json, the pooling's config.json, prompts.

The layout is that of sentence-transformers 2 to 5: modules.json lists what a text passes through, by folder and class.
"""

from __future__ import annotations

from pathlib import Path

from edgelm.bundle.embedding import Embedding
from edgelm.bundle.json_table import JsonTable, is_file_name
from edgelm.errors import CheckpointError, UnsupportedModelError
from edgelm.exporter.checkpoint.config import read_json
from edgelm.files import read_text
from edgelm.json_text import json_value

MODULES, PROMPTS = "modules.json", "config_sentence_transformers.json"
_LONGEST = 1 << 20  # bytes of modules.json
_MODES = {
    "pooling_mode_lasttoken": "last",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_weightedmean_tokens": "weighted_mean",
    "pooling_mode_cls_token": "cls",
}
_HINT = "download the checkpoint again"


def read_embedding(checkpoint: Path) -> Embedding | None:
    """How the model in a folder pools; None for one without modules.json, such as a GGUF file.

    Raises:
        CheckpointError: a file is damaged.
        UnsupportedModelError: it pools in a way, or has a part, that bundles have no place for.
    """
    if not checkpoint.is_dir() or not (checkpoint / MODULES).exists():
        return None
    pooling, normalized = None, False
    for kind, folder in _modules(checkpoint / MODULES):
        if kind == "Pooling":
            pooling = _pooling(checkpoint / folder / "config.json")
        elif kind == "Normalize":
            normalized = True
        elif kind != "Transformer":
            raise UnsupportedModelError(
                f"{checkpoint / MODULES}: there is a module {kind!r} behind the transformer, which a bundle has no place for",
                hint="models of Transformer, Pooling and Normalize alone can be exported",
            )
    if pooling is None:
        raise UnsupportedModelError(
            f"{checkpoint / MODULES} names no Pooling: that is no model of one vector for a text"
        )
    prompts, default = _prompts(checkpoint / PROMPTS)
    return Embedding(pooling=pooling, normalized=normalized, prompts=prompts, default_prompt=default)


def _modules(path: Path) -> list[tuple[str, str]]:
    """(Class without its package, folder) of each module in turn; the only JSON file here that holds a list."""
    try:
        listed = json_value(read_text(path, _LONGEST), constants=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}", hint=_HINT) from None
    tables = JsonTable(path, {"modules": listed}, error=CheckpointError, hint=_HINT).tables("modules")
    found = [(table.text("type").rpartition(".")[2], table.text("path")) for table in tables]
    for kind, folder in found:
        if folder and not is_file_name(folder):
            raise CheckpointError(f"{path}: {kind} is in {folder!r}, which is no folder of the checkpoint", hint=_HINT)
    return found


def _pooling(path: Path) -> str:
    config = read_json(path)
    chosen = [name for name, value in config.items() if name.startswith("pooling_mode_") and value is True]
    if isinstance(mode := config.get("pooling_mode"), str):
        chosen = [f"pooling_mode_{ {'mean': 'mean_tokens', 'cls': 'cls_token'}.get(mode, mode) }"]
    if len(chosen) != 1 or chosen[0] not in _MODES:
        what = " and ".join(name.removeprefix("pooling_mode_") for name in chosen) or "none"
        raise UnsupportedModelError(
            f"{path}: bundles cannot pool by {what}", hint=f"they can by one of {', '.join(_MODES.values())}"
        )
    return _MODES[chosen[0]]


def _prompts(path: Path) -> tuple[dict[str, str], str | None]:
    if not path.exists():
        return {}, None
    table = JsonTable(path, read_json(path), error=CheckpointError, hint=_HINT)
    prompts = table.texts("prompts") if table.has("prompts") else {}
    return prompts, table.text("default_prompt_name", tuple(prompts)) if table.has("default_prompt_name") else None

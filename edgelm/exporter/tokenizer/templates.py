"""Chat templates of a checkpoint: one or several, by name, in one of five places."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from edgelm import files
from edgelm.errors import CheckpointError
from edgelm.exporter.tokenizer.added_tokens import optional_json

_DEFAULT = "default"
_LONGEST = 16 << 20  # bytes of a template
_FOLDER = "additional_chat_templates"


class Templates(NamedTuple):
    """What a checkpoint has of them.

    Attributes:
        default: source of the one that is used where none is named; None for a model without any.
        others: sources by name.
        remarks: what should be told of them.
    """

    default: str | None
    others: dict[str, str]
    remarks: tuple[str, ...] = ()


def read_templates(source: Path, settings: Mapping[str, Any]) -> Templates:
    """The chat templates in a checkpoint's folder; files of their own count more than tokenizer_config.json (`settings`),
    and that more than the files of a processor.

    Raises:
        CheckpointError: a file cannot be read, or is not of the form it should have.
    """
    found: dict[str, str] = {}
    for name in ("processor_config.json", "chat_template.json"):
        found |= _named(source / name, optional_json(source / name).get("chat_template"))
    found |= _named(source / "tokenizer_config.json", settings.get("chat_template"))
    if (path := source / "chat_template.jinja").exists():
        found[_DEFAULT] = _read(path)
    for path in sorted((source / _FOLDER).glob("*.jinja")):
        found[path.stem] = _read(path)
    if not found:
        return Templates(None, {})
    remarks: tuple[str, ...] = ()
    first = _DEFAULT
    if _DEFAULT not in found:
        first = next((name for name in found if name != "tool_use"), next(iter(found)))
        remarks = (f"no chat template is named default: '{first}' is taken as the one",) if len(found) > 1 else ()
    others = {name: text for name, text in found.items() if name != _DEFAULT and (name != first or len(found) > 1)}
    return Templates(found[first], dict(sorted(others.items())), remarks)


def _named(path: Path, value: Any) -> dict[str, str]:
    """Sources by name: of a string, a list of objects with name and template, or an object; {} for nothing."""
    if value is None or value == "" or value == []:
        return {}
    if isinstance(value, str):
        return {_DEFAULT: value}
    pairs = list(value.items()) if isinstance(value, dict) else None
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        pairs = [(entry.get("name"), entry.get("template")) for entry in value]
    if pairs is None or not all(isinstance(part, str) for pair in pairs for part in pair):
        raise CheckpointError(f"{path}: key 'chat_template' is not a string or a list of named templates")
    return dict(pairs)


def _read(path: Path) -> str:
    try:
        return files.read_text(path, _LONGEST)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", hint="download the checkpoint again") from None

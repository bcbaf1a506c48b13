"""The rows of a sweep so far, in a file: an interrupted sweep goes on from there.

A file belongs to one sweep: the same model, board, text, task and version of edgelm. It is written aside and renamed
after every row.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgelm.errors import ExportError
from edgelm.files import read_text, replacing
from edgelm.json_text import json_value
from edgelm.sweep.rows import Row

FORMAT = 1
NAME = "sweep.json"


@dataclass
class Record:
    """The rows in a file.

    Attributes:
        path: the file.
        settings: of the sweep, as JSON.
        rows: by the candidate's name.
    """

    path: Path
    settings: Mapping[str, Any]
    rows: dict[str, Row] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> Record:
        """The record in a file, or an empty one for it; with `overwrite` an empty one in any case.

        Raises:
            ExportError: the file is of another sweep, or damaged.
        """
        if overwrite or not path.exists():
            return cls(path, settings)
        hint = "choose another folder with -o, or pass --overwrite"
        try:
            content = json_value(read_text(path), constants=True)
            rows = [Row.from_dict(row) for row in content["rows"]]
            before = content["settings"]
            if content["format"] != FORMAT or not isinstance(before, dict):
                raise ValueError(f"format {content['format']}")
        except (OSError, ValueError, KeyError, TypeError, ExportError) as error:
            raise ExportError(f"{path} cannot be read as a sweep: {error}", hint=hint) from None
        now = json.loads(json.dumps(settings))
        if before != now:
            other = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
            raise ExportError(f"{path} is of a sweep with another {', '.join(other)}", hint=hint)
        return cls(path, settings, {row.name: row for row in rows})

    def add(self, row: Row) -> None:
        """Keep a row, on disk too."""
        self.rows[row.name] = row
        self.keep()

    def keep(self) -> None:
        """Write the file, so that a sweep that is interrupted before its first row is known as one."""
        content = {"format": FORMAT, "settings": self.settings, "rows": [r.to_dict() for r in self.rows.values()]}
        write_aside(self.path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)


def write_aside(path: Path, text: str) -> None:
    """Write a text file as a whole or not at all; one that is there is replaced.

    Raises:
        ExportError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, 0o644) as file:
            file.write(text.encode("utf-8"))
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error.strerror or error}") from None


def kept_file(settings: Mapping[str, Any]) -> Path:
    """Where the record of a sweep whose bundles are not kept lies meanwhile: under ``$XDG_CACHE_HOME``, or ``~/.cache``."""
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    base = os.environ.get("XDG_CACHE_HOME") or ""
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "edgelm" / "sweep" / f"{key}.json"

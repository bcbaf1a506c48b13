"""A finding: one thing that was looked at, how it stands, what to do about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """`what` was looked at and how it stands (`detail`); `todo` is what the user can do about it, or None."""

    level: Level
    what: str
    detail: str
    todo: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def gigabytes(size: int) -> str:
    """A size for people, in decimal units as everywhere: ``8.3 GB``, ``412 MB``."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"

"""Sentence templates kept as text, many to a file: `[key]` lines and, below each, one template a line.

There are so many since no two people say a thing alike; `templates` explains the notation. What sets a device stands
under `[device.attr]`, what asks for one value of it in words of its own under `[device.attr=value]`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "phrases"


@cache
def read(*names: str) -> dict[str, list[str]]:
    """Templates by key of the files `phrases/NAME.txt`; blank lines and those that begin with `#` are skipped.

    An underscore in a key stands for a space.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        section: list[str] | None = None
        for number, line in enumerate((FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines(), 1):
            text = line.strip()
            if text.startswith("[") and text.endswith("]") and " " not in text and "|" not in text:
                section = found.setdefault(text[1:-1].replace("_", " "), [])
            elif text and not text.startswith("#"):
                if section is None:
                    raise ValueError(f"{name}.txt, line {number}: a template before the first [key]")
                section.append(text)
    return found


def words(*names: str) -> dict[str, str]:
    """The lists `[words.KIND]` of the files, each as one string of words joined by "|"."""
    start = "words."
    return {key.removeprefix(start): "|".join(lines) for key, lines in read(*names).items() if key.startswith(start)}

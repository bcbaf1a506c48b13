"""Code blocks of README.md and docs/, as the tests read them.

``sh`` blocks are run by bash, ``python`` ones by Python, block after block of a page in one folder; ``text`` is output
or a pattern, ``json``, ``toml`` and ``ini`` are data. ``<!-- skip: why -->`` on the line before a block leaves it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "examples").rglob("*.md")),
    *sorted(p for p in (ROOT / "docs").rglob("*.md") if "notes" not in p.parts),
]
NOTES = sorted((ROOT / "docs" / "notes").rglob("*.md"))
LANGUAGES = {"sh", "python", "text", "json", "toml", "ini", "cpp", "kotlin"}
_FENCE = re.compile(r"(?:^<!-- skip: (?P<skip>.+?) -->\n)?^```(?P<language>[\w+-]*)\n(?P<code>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: where it stands.
        line: of its first line of code.
        language: as named behind the fence; "" where none is.
        skip: why it is not run; None where it is.
    """

    page: Path
    line: int
    language: str
    code: str
    skip: str | None

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    text = page.read_text()
    return [
        Block(page, text.count("\n", 0, m.start("code")) + 1, m["language"], m["code"], m["skip"])
        for m in _FENCE.finditer(text)
    ]


def commands(block: Block) -> Iterator[list[str]]:
    """The arguments of every `edgelm` command in a block of shell, a transcript or a pattern."""
    joined = block.code.replace("\\\n", " ")
    for line in joined.splitlines():
        line = line.removeprefix("$ ").strip()
        if not line.startswith("edgelm "):
            continue
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # a transcript's line that is no command
            continue
        for end in ("|", "&&", ">", "<"):
            words = words[: words.index(end)] if end in words else words
        yield words[1:]

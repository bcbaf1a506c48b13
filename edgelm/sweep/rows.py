"""What a sweep finds of each recipe, and which of them are worth having."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from edgelm.bundle.json_table import COUNT, JsonTable
from edgelm.bundle.reader import Bundle
from edgelm.errors import ExportError
from edgelm.evaluate.divergence import Divergence
from edgelm.evaluate.outcome import Score
from edgelm.evaluate.perplexity import Perplexity

_SCORES = ("score", "score_error")  # none without a task


@dataclass(frozen=True)
class Row:
    """A recipe, measured.

    Attributes:
        name: the candidate's.
        bytes: of the bundle.
        memory_bytes: what the board needs with the context full, and
        fits: whether it has that much for a model.
        tokens: scored.
        perplexity, kld: of the text; `kld` and `same_top` against the model in fp32; each with its standard error.
        score: of the task's first metric, or None without a task.
    """

    name: str
    bytes: int
    memory_bytes: int
    fits: bool
    tokens: int
    perplexity: float
    perplexity_error: float
    kld: float
    kld_error: float
    same_top: float
    same_top_error: float
    score: float | None = None
    score_error: float | None = None

    @classmethod
    def of(cls, name: str, bundle: Bundle, usable: int, found: Perplexity | Divergence, score: Score | None) -> Row:
        """From what was measured; a perplexity alone is that of the model in fp32, which differs from itself in nothing.

        Args:
            name: the candidate's.
            bundle: made by it.
            usable: bytes the board has for a model.
            found: on the text.
            score: on the task.
        """
        memory = bundle.manifest.memory.total_bytes
        perplexity = found if isinstance(found, Perplexity) else found.quantised
        kld = (0.0, 0.0, 1.0, 0.0)
        if isinstance(found, Divergence):
            kld = (found.mean, found.error, found.same_top, found.same_top_error)
        scored = (None, None) if score is None else (score.value, score.error)
        ppl = (perplexity.value, perplexity.error)
        return cls(name, bundle.size, memory, memory <= usable, perplexity.tokens, *ppl, *kld, *scored)

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Row:
        """What `to_dict` gave.

        Raises:
            ExportError: it is something else.
        """
        table = JsonTable("a row", facts, error=ExportError)
        found: dict[str, Any] = {"name": table.text("name"), "fits": table.flag("fits")}
        found |= {key: table.integer(key, *COUNT) for key in ("bytes", "memory_bytes", "tokens")}
        for key in (each.name for each in fields(cls) if each.name not in found):
            value = facts.get(key)
            whole = isinstance(value, float) or (value is None and key in _SCORES)  # of a broken model: inf, nan
            found[key] = value if whole else table.number(key)
        return cls(**found)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def frontier(rows: Sequence[Row]) -> list[Row]:
    """The rows than which none is both smaller and nearer to the original, by size; of equals the first."""
    kept: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.bytes, row.kld)):
        if not kept or row.kld < kept[-1].kld:
            kept.append(row)
    return kept

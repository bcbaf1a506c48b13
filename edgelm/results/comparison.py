"""Are two results comparable, and is the one faster than the other beyond what repetitions vary by?

Another machine, test or way of computing makes them incomparable; another version, another number of threads or another
bundle is what one compares, and is named. The difference of means is held against its standard error (Welch's test, 95 %).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgelm.results.row import Row

Verdict = Literal["faster", "slower", "same", "unknown", "incomparable"]
_MUST_AGREE = {
    "test": "another test",
    "board": "another machine",
    "arch": "another architecture",
    "cores": "another number of cores",
    "emulated": "one of them is emulated",
    "provider": "another provider",
    "model": "another model",
}
_MAY_DIFFER = (
    "quant", "target", "bundle", "adapter", "edgelm", "onnxruntime", "python", "threads", "prefill_threads", "packed", "profile", "place",
)  # fmt: skip
_ALIKE = ("threads", "prefill_threads", "profile")  # of the result that one compares with, if nothing else is asked for
_HOT = 0.05  # of the time throttled, from which a figure tells of heat
# The 97.5 % point of Student's t, by degrees of freedom.
_T = {
    1: 12.71,
    2: 4.30,
    3: 3.18,
    4: 2.78,
    5: 2.57,
    6: 2.45,
    7: 2.36,
    8: 2.31,
    9: 2.26,
    10: 2.23,
    15: 2.13,
    20: 2.09,
    30: 2.04,
}


@dataclass(frozen=True)
class Comparison:
    """Two results of a test.

    Attributes:
        before, after: the results.
        verdict: of `after`; ``unknown`` where a single repetition does not tell the spread.
        ratio: tokens a second of `after` over those of `before`.
        margin: by how much the ratio must differ from 1 to be beyond the spread; None where not known.
        why: what makes them incomparable, or doubtful.
        changed: what differs otherwise: (name, before, after).
    """

    before: Row
    after: Row
    verdict: Verdict
    ratio: float
    margin: float | None
    why: tuple[str, ...]
    changed: tuple[tuple[str, Any, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "test": self.after.test,
            "before": {"run": self.before.run, "avg_ts": self.before.avg_ts, "stddev_ts": self.before.stddev_ts},
            "after": {"run": self.after.run, "avg_ts": self.after.avg_ts, "stddev_ts": self.after.stddev_ts},
            "verdict": self.verdict,
            "ratio": self.ratio,
            "margin": self.margin,
            "why": list(self.why),
            "changed": {name: [one, other] for name, one, other in self.changed},
        }


def compare(before: Row, after: Row) -> Comparison:
    """Hold `after` against `before`."""
    apart = [why for name, why in _MUST_AGREE.items() if getattr(before, name) != getattr(after, name)]
    changed = tuple(
        (name, one, other) for name in _MAY_DIFFER if (one := getattr(before, name)) != (other := getattr(after, name))
    )
    doubts = [f"{name}: {doubt}" for name, row in (("before", before), ("after", after)) for doubt in _doubts(row)]
    ratio = after.avg_ts / before.avg_ts if before.avg_ts else math.inf
    margin = _margin(before, after)
    if apart:
        return Comparison(before, after, "incomparable", ratio, margin, tuple(apart), changed)
    verdict: Verdict = "unknown"
    if margin is not None:
        verdict = "same" if abs(ratio - 1) <= margin else "faster" if ratio > 1 else "slower"
    return Comparison(before, after, verdict, ratio, margin, tuple(doubts), changed)


def against_last(rows: Sequence[Row], run: str) -> list[Comparison]:
    """Each test of a run against the newest comparable result before it, of those with as many threads and the same profile
    where there are such; those that were never measured are left out.

    Args:
        rows: the oldest first.
        run: the run.
    """
    found = []
    for index, row in enumerate(rows):
        if row.run != run:
            continue
        earlier = [r for r in rows[:index] if r.run != run and r.quant == row.quant and r.adapter == row.adapter]
        # Of those that are as much alike the newest stays last.
        earlier.sort(key=lambda r: [getattr(r, name) == getattr(row, name) for name in _ALIKE])
        compared = (compare(other, row) for other in reversed(earlier))
        if (last := next((c for c in compared if c.verdict != "incomparable"), None)) is not None:
            found.append(last)
    return found


def between(before: Iterable[Row], after: Iterable[Row]) -> list[Comparison]:
    """The tests that two runs share."""
    first = {row.test: row for row in before}
    return [compare(first[row.test], row) for row in after if row.test in first]


def _doubts(row: Row) -> list[str]:
    found = ["its repetitions vary widely, or other programs computed meanwhile"] if row.unreliable else []
    if row.throttled_share is not None and row.throttled_share > _HOT:
        found.append(f"throttled for {row.throttled_share:.0%} of the time")
    return found


def _margin(before: Row, after: Row) -> float | None:
    """How far the ratio may be from 1 by chance."""
    counts = before.repetitions, after.repetitions
    if min(counts) < 2 or not before.avg_ts:
        return None
    parts = before.stddev_ts**2 / counts[0], after.stddev_ts**2 / counts[1]
    error = math.sqrt(sum(parts))
    if error == 0:
        return 0.0
    freedom = sum(parts) ** 2 / sum(part**2 / (count - 1) for part, count in zip(parts, counts, strict=True))
    return student(freedom) * error / before.avg_ts


def student(freedom: float) -> float:
    """The 97.5 % point of Student's t; that of the nearest number of degrees of freedom that is not larger."""
    known = [point for degrees, point in _T.items() if degrees <= freedom]
    return 1.96 if freedom > 60 else known[-1] if known else _T[1]

"""Two models on one task, item by item: what quantisation changed, and whether that is more than chance.

Both answer the same items, so that what is compared is their difference on each. Its standard error is
``sqrt(variance / n)`` of these differences; the interval is the 95 % percentile interval of a paired bootstrap, which
draws items with replacement (Efron and Tibshirani 1993, chapter 13).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgelm.evaluate.outcome import Metric, Outcome, Score, TaskResult

RESAMPLES = 2000
_AT_ONCE = 1 << 22  # draws in memory: 32 MB


@dataclass(frozen=True)
class Difference:
    """A metric of two models.

    Attributes:
        base, quantised: of the original, and of the model that is judged.
        value, error: quantised - base, and its standard error.
        interval: 95 % of the resamples lie in it.
    """

    base: Score
    quantised: Score
    value: float
    error: float
    interval: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        difference = {"value": self.value, "stderr": self.error, "interval_95": list(self.interval)}
        return {"base": self.base.to_dict(), "quantised": self.quantised.to_dict(), "difference": difference}


@dataclass(frozen=True)
class Comparison:
    """The results of two models on the same items.

    Attributes:
        base, quantised: of the original, and of the model that is judged.
        seed: of the bootstrap.
    """

    base: TaskResult
    quantised: TaskResult
    seed: int = 0

    @property
    def changed(self) -> list[tuple[Outcome, Outcome]]:
        """(Of the original, of the other) where they answer differently."""
        pairs = zip(self.base.outcomes, self.quantised.outcomes, strict=True)
        return [(base, other) for base, other in pairs if base.answer != other.answer]

    @property
    def lost(self) -> int:
        """Changed answers that were right before."""
        return sum(base.correct is True and other.correct is False for base, other in self.changed)

    @property
    def gained(self) -> int:
        """Changed answers that are right now."""
        return sum(base.correct is False and other.correct is True for base, other in self.changed)

    def difference(self, metric: Metric) -> Difference:
        """Of a metric over all items."""
        before, after = (
            np.array([outcome.scores[metric.name] for outcome in result.outcomes])
            for result in (self.base, self.quantised)
        )
        change = after - before
        found = Score.of(list(change))
        low, high = _interval(change, self.seed)
        return Difference(self.base.score(metric), self.quantised.score(metric), found.value, found.error, (low, high))

    def parts(self, grouping: str) -> dict[str, Comparison]:
        """The same for each value of a grouping."""
        return {
            value: Comparison(self.base.at(places), self.quantised.at(places), self.seed)
            for value, places in self.quantised.groups().get(grouping, {}).items()
        }

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without the outcomes."""
        groups = {
            name: {value: part._figures() for value, part in self.parts(name).items()}
            for name in self.quantised.groups()
        }
        note = {"note": self.quantised.note} if self.quantised.note else {}
        return {"format": self.quantised.format, **self._figures(), "groups": groups, "seed": self.seed, **note}

    def _figures(self) -> dict[str, Any]:
        metrics = {metric.name: self.difference(metric).to_dict() for metric in self.quantised.metrics}
        counts = {"changed": len(self.changed), "lost": self.lost, "gained": self.gained}
        return {"total": len(self.quantised.outcomes), **counts, "metrics": metrics}


def _interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """The 95 % percentile interval of the mean of values [n], by bootstrap."""
    if not values.any():
        return 0.0, 0.0
    random = np.random.default_rng(seed)
    step = max(1, _AT_ONCE // len(values))
    sizes = [min(step, RESAMPLES - start) for start in range(0, RESAMPLES, step)]
    means: Sequence[np.ndarray] = [
        values[random.integers(0, len(values), (size, len(values)))].mean(axis=1) for size in sizes
    ]
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
    return float(low), float(high)

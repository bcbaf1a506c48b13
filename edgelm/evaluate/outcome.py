"""What comes out of a task: an outcome for every item, and means with their errors over all and over groups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True)
class Metric:
    """A figure that every item of a task has.

    Attributes:
        name: of the field, as in JSON.
        unit: ``share``, from 0 to 1, or ``nats``.
    """

    name: str
    unit: Literal["share", "nats"] = "share"


@dataclass(frozen=True)
class Outcome:
    """What a model made of an item.

    Attributes:
        line: of the item in its file.
        groups: those it belongs to, such as ``{"kind": "command"}``.
        scores: metric → value.
        answer: what the model answered or chose; models are compared by it.
        correct: whether that is right; None where there is no right.
        asked, expected, answered: in words.
        finish_reason: of a generated answer.
    """

    line: int
    groups: Mapping[str, str]
    scores: Mapping[str, float]
    answer: str | int
    correct: bool | None
    asked: str
    expected: str
    answered: str
    finish_reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        facts = {"line": self.line, **self.groups, "asked": self.asked, "expected": self.expected}
        facts |= {"answered": self.answered, "correct": self.correct, "scores": dict(self.scores)}
        return facts | ({"finish_reason": self.finish_reason} if self.finish_reason is not None else {})


@dataclass(frozen=True)
class Score:
    """A mean over `total` items, and its standard error: ``sqrt(variance / n)``, for shares ``sqrt(p (1 - p) / n)``."""

    value: float
    error: float
    total: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Score:
        """The mean of values, at least one."""
        return cls(float(np.mean(values)), math.sqrt(float(np.var(values)) / len(values)), len(values))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"value": self.value, "stderr": self.error}


@dataclass(frozen=True)
class TaskResult:
    """The outcomes of a task.

    Attributes:
        format: what kind of task it is, in words.
        metrics: its metrics, the one that counts first.
        outcomes: in the order of the items.
        note: what is to be known of its figures, or None.
    """

    format: str
    metrics: tuple[Metric, ...]
    outcomes: tuple[Outcome, ...] = field(repr=False)
    note: str | None = None

    @property
    def accuracy(self) -> Score:
        """The metric that counts, over all items."""
        return self.score(self.metrics[0])

    @property
    def wrong(self) -> list[Outcome]:
        """Those that were not correct, in order."""
        return [outcome for outcome in self.outcomes if outcome.correct is False]

    def score(self, metric: Metric) -> Score:
        """A metric over all items."""
        return Score.of([outcome.scores[metric.name] for outcome in self.outcomes])

    def groups(self) -> dict[str, dict[str, list[int]]]:
        """Name of a grouping → value → the places of its outcomes; values by name, groupings in the items' order."""
        found: dict[str, dict[str, list[int]]] = {}
        for place, outcome in enumerate(self.outcomes):
            for name, value in outcome.groups.items():
                found.setdefault(name, {}).setdefault(value, []).append(place)
        return {name: dict(sorted(values.items())) for name, values in found.items()}

    def by(self, grouping: str, metric: Metric | None = None) -> dict[str, Score]:
        """A metric, by default the one that counts, for each value of a grouping; empty where there is none."""
        return {value: part.score(metric or self.metrics[0]) for value, part in self.parts(grouping).items()}

    def parts(self, grouping: str) -> dict[str, TaskResult]:
        """The result for each value of a grouping."""
        return {value: self.at(places) for value, places in self.groups().get(grouping, {}).items()}

    def at(self, places: Sequence[int]) -> TaskResult:
        """Of some outcomes alone."""
        return TaskResult(self.format, self.metrics, tuple(self.outcomes[place] for place in places), self.note)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without the outcomes."""
        groups = {
            name: {value: self.at(places)._figures() for value, places in values.items()}
            for name, values in self.groups().items()
        }
        note = {"note": self.note} if self.note else {}
        return {"format": self.format, **self._figures(), "groups": groups, **note}

    def _figures(self) -> dict[str, Any]:
        metrics = {metric.name: self.score(metric).to_dict() for metric in self.metrics}
        return {"total": len(self.outcomes), "metrics": metrics}

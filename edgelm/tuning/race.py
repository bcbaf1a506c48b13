"""A race: candidates are measured in turn, round by round, and those that are surely slower leave.

Each round measures every candidate that is left once, in another order, so that what slows the machine down slows all of
them. Two candidates are compared by the ratios of their scores in the same rounds: the median of these, and how far it may
be off by chance (95 %); after a few rounds the spread of all candidates tells that, of whose ratios there are more. A race
ends when one candidate is left, when none of those that are left can be better by what is worth telling, or when its time is
over.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from edgelm.results.comparison import student

C = TypeVar("C", bound=Hashable)

EQUAL = 0.01  # of a score, below which a difference is not worth telling
_FAR = 0.8  # of the best score: who is surely below that leaves after two rounds
_LEAST = 0.002  # by which a turn's score varies at least, whatever few of them say
_MEDIAN = 1.2533  # how much wider the error of a median is than that of a mean
_ROBUST = 5  # scores from which their middle half tells the spread
_NORMAL = 1.349  # the middle half of a normal distribution, over its standard deviation


@dataclass(frozen=True)
class Rules:
    """When a race ends.

    Attributes:
        rounds: at most.
        least: rounds before anyone leaves that is not far behind, and before a race ends.
        equal: what others may be better by that is not worth more rounds, as a share.
        strict: whether the first candidate wins unless another is surely better, so that rounds go on until one is or none
            can be by `equal`.
    """

    rounds: int = 9
    least: int = 3
    equal: float = EQUAL
    strict: bool = False


@dataclass(frozen=True)
class Ratio:
    """One candidate's score over another's: the median of their rounds, and where it is with 95 % confidence."""

    middle: float
    low: float
    high: float

    @property
    def surely_less(self) -> bool:
        """Whether the one is worse beyond the spread."""
        return self.high < 1.0


@dataclass(frozen=True)
class Standing(Generic[C]):
    """How a candidate did.

    Attributes:
        candidate: which.
        scores: of its rounds, from the first one on; more is better.
        left: the round, from 1, after which it left; None for those that stayed.
    """

    candidate: C
    scores: tuple[float, ...]
    left: int | None = None

    @property
    def median(self) -> float:
        """Of its scores."""
        return statistics.median(self.scores)

    def against(self, other: Standing[C]) -> Ratio:
        """Its score over another's, by the rounds that both took part in."""
        return compare(self.scores, other.scores)


def compare(one: Sequence[float], other: Sequence[float], field: Sequence[Sequence[float]] = ()) -> Ratio:
    """The ratio of scores that were measured in pairs; of a single pair nothing is known but its ratio.

    Args:
        one, other: scores above 0, in the order of the rounds; those of the longer that have no partner are left out.
        field: the scores of all that took part in these rounds, whose spread counts where there are few rounds.
    """
    logs = [math.log(a / b) for a, b in zip(one, other, strict=False)]
    middle, freedom = statistics.median(logs), len(logs) - 1
    if not freedom:
        return Ratio(math.exp(middle), 0.0, math.inf)
    if len(logs) >= _ROBUST:
        low, _, high = statistics.quantiles(logs, n=4, method="inclusive")
        spread = (high - low) / _NORMAL
    elif len(field) > 2:
        spread, freedom = _common_spread(field), freedom * (len(field) - 1)
    else:
        spread = statistics.stdev(logs)
    error = _MEDIAN * max(spread, _LEAST) / math.sqrt(len(logs)) * student(freedom)
    return Ratio(math.exp(middle), math.exp(middle - error), math.exp(middle + error))


def _common_spread(field: Sequence[Sequence[float]]) -> float:
    """Standard deviation of a ratio of two candidates: what candidates and rounds do not explain (randomized blocks)."""
    logs = np.log(np.array(field))
    rest = logs - logs.mean(0) - logs.mean(1, keepdims=True) + logs.mean()
    return math.sqrt(2 * float((rest**2).sum()) / ((len(logs) - 1) * (logs.shape[1] - 1)))


def race(
    candidates: Sequence[C],
    turn: Callable[[C], float],
    rules: Rules = Rules(),
    *,
    over: Callable[[], bool] = lambda: False,
    on_round: Callable[[int, int], None] = lambda done, left: None,
) -> list[Standing[C]]:
    """Run a race.

    Args:
        candidates: different ones.
        turn: measures a candidate once; its score is above 0.
        rules: when it ends.
        over: whether the time is over; asked after every round.
        on_round: is called with the rounds done, and how many candidates are left.

    Returns:
        all of them, the best first: those that stayed by their median, then those that left, the last one first.
    """
    scores: dict[C, list[float]] = {candidate: [] for candidate in candidates}
    left: dict[C, int] = {}
    for number in range(1, rules.rounds + 1):
        stay = [candidate for candidate in candidates if candidate not in left]
        for candidate in _order(stay, number):
            scores[candidate].append(turn(candidate))
        if number > 1:
            best = max(stay, key=lambda c: statistics.median(scores[c]))
            field = [scores[c] for c in stay]
            ratios = {c: compare(scores[c], scores[best], field) for c in stay if c != best}
            early = number < rules.least
            left |= {c: number for c, ratio in ratios.items() if ratio.high < (_FAR if early else 1.0)}
            on_round(number, len(stay) - sum(c in left for c in stay))
            worth = {c: 1.0 if rules.strict and c == candidates[0] else 1 + rules.equal for c in ratios}
            if all(c in left or (not early and ratio.high < worth[c]) for c, ratio in ratios.items()):
                break
        if over():
            break
    found = [Standing(c, tuple(scores[c]), left.get(c)) for c in candidates]
    return sorted(found, key=lambda s: (s.left is not None, -(s.left or 0), -s.median))


def _order(stay: Sequence[C], number: int) -> list[C]:
    """Another one each round: forwards and backwards, begun by each in turn."""
    first = (number - 1) // 2 % len(stay)
    turned = [*stay[first:], *stay[:first]]
    return turned if number % 2 else turned[::-1]

"""A race: candidates are measured in turn, round by round, and those that are surely slower leave.

Each round measures every candidate that is left once, in another order, so that what slows the machine down slows all of
them. Two candidates are compared by the ratios of their scores in the same rounds: the median of these, and how far it may
be off by chance (95 %). A race ends when one candidate is left, when those that are left differ by less than is worth
telling apart, or when its time is over.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from edgelm.results.comparison import student

C = TypeVar("C", bound=Hashable)

EQUAL = 0.01  # of a score, below which a difference is not worth telling
_LEAST = 0.002  # by which a turn's score varies at least, whatever few of them say
_MEDIAN = 1.2533  # how much wider the error of a median is than that of a mean
_ROBUST = 5  # scores from which their middle half tells the spread
_NORMAL = 1.349  # the middle half of a normal distribution, over its standard deviation


@dataclass(frozen=True)
class Rules:
    """When a race ends.

    Attributes:
        rounds: at most.
        least: rounds before anyone leaves.
        equal: differences that are not worth telling apart, as a share.
    """

    rounds: int = 9
    least: int = 2
    equal: float = EQUAL


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


def compare(one: Sequence[float], other: Sequence[float]) -> Ratio:
    """The ratio of scores that were measured in pairs; of a single pair nothing is known but its ratio.

    Args:
        one, other: scores above 0, in the order of the rounds; those of the longer that have no partner are left out.
    """
    logs = [math.log(a / b) for a, b in zip(one, other, strict=False)]
    middle = statistics.median(logs)
    if len(logs) < 2:
        return Ratio(math.exp(middle), 0.0, math.inf)
    if len(logs) < _ROBUST:
        spread = statistics.stdev(logs)
    else:
        low, _, high = statistics.quantiles(logs, n=4, method="inclusive")
        spread = (high - low) / _NORMAL
    error = _MEDIAN * max(spread, _LEAST) / math.sqrt(len(logs)) * student(len(logs) - 1)
    return Ratio(math.exp(middle), math.exp(middle - error), math.exp(middle + error))


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
        if number >= rules.least:
            best = max(stay, key=lambda c: statistics.median(scores[c]))
            ratios = {c: compare(scores[c], scores[best]) for c in stay if c != best}
            left |= {c: number for c, ratio in ratios.items() if ratio.surely_less}
            told = [ratio for c, ratio in ratios.items() if c not in left]
            on_round(number, len(stay) - sum(c in left for c in stay))
            if all(ratio.low > 1 - rules.equal and ratio.high < 1 + rules.equal for ratio in told):
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

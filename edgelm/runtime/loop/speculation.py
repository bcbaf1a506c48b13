"""Prompt lookup: draft the next tokens from where the last few came before, and check the drafts in one pass.

Saxena 2023 (https://github.com/apoorvumang/prompt-lookup-decoding). A pass over several tokens reads the weights once,
so on a chip that waits for memory it costs little more than a pass over one. Texts that repeat their prompt (rewriting,
extraction, JSON, code) are drafted well.

The draft is certain of itself, so the rule of speculative sampling (Leviathan et al. 2022, arXiv:2211.17192) comes down
to this: sample as always, and go on along the draft while the sample is what was drafted. The tokens are those, or have
the distribution, of decoding one by one, up to the last digits in which logits differ between batch sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

# Tokens that must have come together before, the longest first: it tells parts that are alike from each other.
_SIZES = (24, 12, 6, 3, 2)
_LONGEST = 16  # tokens drafted at once
_WORTH = 1.05  # times as fast a draft must promise to be
PROBE = 2  # tokens drafted to see whether it would pay again
SHARE = 0.01  # of the time that probes may take
PAUSES = 8  # times as long, at most, a pause is after probes that failed: it is doubled each time
FADE = 0.9  # weight of what is known, at each pass
# Draft tokens accepted and rejected, assumed before any was seen.
_PRIOR = {24: (8.0, 1.0), 12: (5.0, 1.0), 6: (3.0, 1.0), 3: (1.0, 1.0), 2: (0.5, 1.0)}


class PassCost:
    """What a pass over several tokens costs, in passes over one; measured while the engine runs, and kept."""

    def __init__(self) -> None:
        self._single: float | None = None
        self._extra = 0.2  # of each token after the first

    @property
    def single(self) -> float | None:
        """Seconds of a pass over one token; None before the first."""
        return self._single

    def of(self, tokens: int) -> float:
        """The cost of a pass over `tokens`."""
        return 1 + self._extra * (tokens - 1)

    def record(self, tokens: int, seconds: float) -> None:
        """A pass took so long."""
        if tokens == 1:
            self._single = seconds if self._single is None else self._single + 0.2 * (seconds - self._single)
        elif self._single:
            extra = (seconds / self._single - 1) / (tokens - 1)
            self._extra += 0.2 * (min(max(extra, 0.0), 2.0) - self._extra)  # one slow pass must not decide


class PromptLookup:
    """Drafts, as many as have paid so far; none while they do not.

    Args:
        cost: of the engine's passes.

    Attributes:
        drafted: draft tokens, and
        accepted: how many of them were accepted.
        promise: how many times as fast the last draft was to make it; 1 for a draft that only sees whether it pays.
    """

    def __init__(self, cost: PassCost) -> None:
        self._cost = cost
        self.promise = 1.0
        self._places = {size: dict[tuple[int, ...], int]() for size in _SIZES}  # n-gram → where it was last followed
        self._indexed = 0  # tokens of the text whose n-grams are known
        self._seen = dict(_PRIOR)
        self._size = 0  # of the n-gram that the last draft came from
        self._until, self._pauses = 0, 1  # where the next probe may be, and what its pause is multiplied by
        self.drafted = self.accepted = 0

    def draft(self, history: Sequence[int], limit: int) -> list[int]:
        """The tokens that may follow `history`, at most `limit`; often none."""
        self._index(history)
        for size in _SIZES:
            place = self._places[size].get(tuple(history[-size:])) if len(history) > size else None
            if place is not None:
                self._size = size
                return _follow(history, place, min(self._length(size, len(history)), limit))
        return []

    def checked(self, drafted: int, accepted: int, position: int) -> None:
        """Of `drafted` tokens the first `accepted` were accepted; the text has `position` tokens now."""
        self.drafted += drafted
        self.accepted += accepted
        right, wrong = self._seen[self._size]
        self._seen[self._size] = (right * FADE + accepted, wrong * FADE + (accepted < drafted))
        self._pauses = 1 if accepted else min(2 * self._pauses, PAUSES)
        self._until = position + int(self._pauses * (self._cost.of(PROBE + 1) - 1) / SHARE)

    def passed(self, tokens: int, seconds: float) -> None:
        """A pass over `tokens`, and undoing what was wrong in it, took so long."""
        self._cost.record(tokens, seconds)

    def _length(self, size: int, position: int) -> int:
        """How many tokens to draft: as many as promise to be fastest, or a few now and then to see whether it pays."""
        right, wrong = self._seen[size]
        length, self.promise = best_length(right / (right + wrong), lambda count: self._cost.of(count + 1))
        return length or (PROBE if position >= self._until else 0)

    def _index(self, history: Sequence[int]) -> None:
        """Know the n-grams of all tokens but the last, which nothing follows yet."""
        for size, places in self._places.items():
            for end in range(max(self._indexed, size), len(history)):
                places[tuple(history[end - size : end])] = end
        self._indexed = len(history)


def best_length(rate: float, cost: Callable[[int], float]) -> tuple[int, float]:
    """How many tokens to draft, and how many times as fast that promises to be; 0 and 1 where no draft is worth it.

    Drafts stand up to the first wrong one: of n, each right with probability p, 1 + p + … + p^n tokens come out
    (Leviathan et al. 2022, eq. 1).

    Args:
        rate: how likely a drafted token is right.
        cost: of drafting and checking so many tokens, in passes over one.
    """
    expected, best, length = 1.0, _WORTH, 0
    for count in range(1, _LONGEST + 1):
        expected += rate**count
        speed = expected / cost(count)
        if speed > best:
            best, length = speed, count
    return length, best if length else 1.0


def _follow(history: Sequence[int], place: int, count: int) -> list[int]:
    """What comes from `place` on, and where the text ends, what would come there if it went round."""
    tokens = list(history[place : place + count])
    while len(tokens) < count:
        tokens.append(tokens[len(tokens) - (len(history) - place)])
    return tokens

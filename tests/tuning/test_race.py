"""Races: who wins, who leaves, and when they end."""

from __future__ import annotations

import random

import pytest

from edgelm.tuning.race import Rules, compare, race


def noisy(speeds: dict[str, float], noise: float, seed: int = 0):
    """Turns of candidates whose scores vary by chance, and a load on the machine that comes and goes."""
    chance = random.Random(seed)
    turns: list[str] = []

    def turn(candidate: str) -> float:
        turns.append(candidate)
        return speeds[candidate] * chance.lognormvariate(0, noise)

    return turn, turns


def test_the_fastest_wins_and_slow_ones_leave_early():
    turn, turns = noisy({"a": 100.0, "b": 140.0, "c": 60.0, "d": 139.0}, 0.01)
    found = race(["a", "b", "c", "d"], turn)
    assert {found[0].candidate, found[1].candidate} == {"b", "d"}
    assert [s.candidate for s in found[2:]] == ["a", "c"] or [s.candidate for s in found[2:]] == ["c", "a"]
    assert all(standing.left is not None and standing.left <= 4 for standing in found[2:])
    assert turns.count("b") > 2 * turns.count("c") or turns.count("c") <= 4
    assert len(turns) < 4 * 9


@pytest.mark.parametrize("seed", range(20))
def test_the_winner_is_within_three_percent_whatever_the_noise(seed):
    speeds = {str(n): 100.0 + 4 * n for n in range(6)}
    turn, _ = noisy(speeds, 0.02, seed)
    found = race(list(speeds), turn)
    assert speeds[found[0].candidate] >= 0.97 * max(speeds.values())


def test_what_is_equal_ends_early_and_nobody_leaves():
    turn, turns = noisy({"a": 100.0, "b": 100.0}, 0.0)
    found = race(["a", "b"], turn, Rules(rounds=50))
    assert len(turns) <= 2 * 8
    assert {standing.left for standing in found} == {None}


def test_a_load_that_slows_all_of_a_round_deceives_nobody():
    level = iter([1.0, 0.5, 0.9, 0.4, 1.0, 0.7, 0.6, 1.0, 0.8])
    speeds, now, count = {"a": 100.0, "b": 110.0}, 1.0, 0

    def turn(candidate):
        nonlocal now, count
        if count % 2 == 0:
            now = next(level)
        count += 1
        return speeds[candidate] * now

    found = race(["a", "b"], turn)
    assert found[0].candidate == "b"
    assert found[0].against(found[1]).middle == pytest.approx(1.1)
    assert found[1].left is not None


def test_orders_alternate():
    turn, turns = noisy({"a": 1.0, "b": 1.0, "c": 1.0}, 0.3)
    race(["a", "b", "c"], turn, Rules(rounds=4, least=9))
    rounds = [tuple(turns[i : i + 3]) for i in range(0, 12, 3)]
    assert rounds == [("a", "b", "c"), ("c", "b", "a"), ("b", "c", "a"), ("a", "c", "b")]


def test_the_time_is_over_after_a_round_at_least():
    turn, turns = noisy({"a": 1.0, "b": 2.0}, 0.1)
    found = race(["a", "b"], turn, over=lambda: True)
    assert len(turns) == 2
    assert found[0].candidate == "b"
    assert found[1].against(found[0]).low == 0.0  # of a single pair nothing is known


def test_one_candidate_has_won():
    turn, turns = noisy({"a": 1.0}, 0.1)
    assert race(["a"], turn)[0].candidate == "a"
    assert len(turns) == 2


def test_an_outlier_widens_the_spread_and_moves_the_middle_little():
    calm = compare([1.1] * 7, [1.0] * 7)
    odd = compare([1.1] * 6 + [0.2], [1.0] * 7)
    assert calm.middle == odd.middle == pytest.approx(1.1)
    few = compare([1.1, 1.1, 0.2], [1.0] * 3)
    assert few.low < 1 < few.high
    assert not few.surely_less

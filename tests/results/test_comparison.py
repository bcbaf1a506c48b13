"""Faster or slower beyond the spread, or not comparable."""

from __future__ import annotations

import pytest
from scipy import stats

from edgelm.results.comparison import against_last, between, compare


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((50, 0.5, 5), (52, 0.5, 5)),
        ((50, 0.5, 5), (50.4, 0.5, 5)),
        ((50, 5, 5), (54, 5, 5)),
        ((50, 2, 3), (45, 0.2, 20)),
        ((10, 1, 2), (14, 1, 2)),
        ((10, 1, 30), (10.6, 1, 30)),
        ((10, 1, 80), (9.6, 1, 80)),
    ],
)
def test_the_verdict_is_welchs_test(row, before, after):
    first, second = (row(avg_ts=m, stddev_ts=s, repetitions=n) for m, s, n in (before, after))
    told = compare(first, second)
    p = stats.ttest_ind_from_stats(*before, *after, equal_var=False).pvalue
    assert (told.verdict == "same") == (p > 0.05)
    assert told.ratio == pytest.approx(after[0] / before[0])
    if told.verdict != "same":
        assert told.verdict == ("faster" if after[0] > before[0] else "slower")


def test_one_repetition_tells_no_spread(row):
    told = compare(row(repetitions=1), row(avg_ts=90.0))
    assert (told.verdict, told.margin) == ("unknown", None)
    assert compare(row(stddev_ts=0.0), row(stddev_ts=0.0)).verdict == "same"
    assert compare(row(stddev_ts=0.0), row(stddev_ts=0.0, avg_ts=51.0)).verdict == "faster"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"test": "tg64"}, "another test"),
        ({"board": "Raspberry Pi 4"}, "another machine"),
        ({"emulated": True}, "one of them is emulated"),
        ({"provider": "CUDA"}, "another provider"),
        ({"model": "other"}, "another model"),
        ({"cores": 8, "arch": "x86_64"}, "another architecture"),
    ],
)
def test_what_is_not_comparable(row, changed, why):
    told = compare(row(), row(**changed))
    assert told.verdict == "incomparable"
    assert why in told.why


def test_what_changed_is_named_and_what_is_doubtful_too(row):
    told = compare(row(throttled_share=0.3), row(edgelm="0.2.0", threads=2, unreliable=True))
    assert told.changed == (("edgelm", "0.1.0", "0.2.0"), ("threads", 3, 2))
    assert told.why == (
        "before: throttled for 30% of the time",
        "after: its repetitions vary widely, or other programs computed meanwhile",
    )
    assert told.to_dict()["changed"] == {"edgelm": ["0.1.0", "0.2.0"], "threads": [3, 2]}


def test_against_last_time(row):
    rows = [
        row(run="a", avg_ts=40.0),
        row(run="b", avg_ts=45.0),
        row(run="c", board="another", avg_ts=10.0),
        row(run="d", quant="int8"),
        row(run="e", avg_ts=50.0),
        row(run="e", avg_ts=1.0, test="pp512"),
    ]
    (told,) = against_last(rows, "e")
    assert (told.before.run, told.after.run, told.verdict) == ("b", "e", "faster")
    assert against_last(rows, "a") == []
    rows.insert(
        4, row(run="odd", threads=64, avg_ts=9.0)
    )  # newer, but with other threads: only where there is none else
    assert against_last(rows, "e")[0].before.run == "b"
    assert against_last([rows[4], rows[5]], "e")[0].before.run == "odd"
    assert [c.before.run for c in between(rows[:1], rows[1:2])] == ["a"]
    assert between(rows[:1], rows[6:]) == []

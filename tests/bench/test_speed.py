"""What is timed and what is not, on an engine whose every pass takes a known time."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from edgelm.bench.speed import Rates, SpeedTest, measure, plan
from edgelm.errors import OptionError
from edgelm.runtime.kv.prefill import PREFILL_CHUNK, prefill_pieces


class FakeEngine:
    """A pass takes `per_token` seconds a token on its own clock; the n-th pass `slower` seconds more."""

    def __init__(self, context: int = 4096, vocab: int = 50, per_token: float = 0.01, slower: float = 0.0) -> None:
        self.context, self.vocab_size = context, vocab
        self.per_token, self.slower = per_token, slower
        self.now, self.position = 0.0, 0
        self.passes: list[tuple[int, list[int]]] = []  # (position, ids)

    def clock(self) -> float:
        return self.now

    def forward(self, ids, num_logits=1):
        ids = [int(i) for i in ids]
        assert self.position + len(ids) <= self.context
        self.passes.append((self.position, ids))
        self.position += len(ids)
        self.now += self.per_token * len(ids) + self.slower * len(self.passes)
        return np.zeros((num_logits, self.vocab_size), np.float32)

    def prefill(self, ids):
        for piece, wanted in prefill_pieces(ids, PREFILL_CHUNK, rewinds=True):
            logits = self.forward(piece, wanted)
        return logits if ids else None

    def reset(self):
        self.position = 0


def run(engine: FakeEngine, *tests: SpeedTest, **options) -> list[Rates]:
    return measure(engine, tests, clock=engine.clock, **options)


def test_a_prompt_is_one_pass_on_an_empty_cache():
    engine = FakeEngine()
    [rates] = run(engine, SpeedTest(64, 0), repetitions=3)
    assert [(position, len(ids)) for position, ids in engine.passes] == [(0, 64)] * 4, "one of them to warm up"
    assert rates.rates == pytest.approx([100.0] * 3)
    assert rates.ttft == pytest.approx(0.64)
    assert engine.position == 0


def test_decode_is_one_pass_a_token_after_a_warm_up_of_one():
    engine = FakeEngine()
    [rates] = run(engine, SpeedTest(0, 5), repetitions=2)
    assert [position for position, _ in engine.passes] == [0, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4]
    assert all(len(ids) == 1 for _, ids in engine.passes)
    assert rates.rates == pytest.approx([100.0] * 2)
    assert rates.ttft is None


@pytest.mark.parametrize(("test", "timed"), [(SpeedTest(8, 0, 700), [8]), (SpeedTest(0, 3, 700), [1, 1, 1])])
def test_a_depth_is_filled_without_being_timed(test, timed):
    engine = FakeEngine()
    [rates] = run(engine, test, repetitions=1)
    assert rates.mean == pytest.approx(100.0)
    sizes = [len(ids) for _, ids in engine.passes]
    assert sizes[-len(timed) - 2 :] == [256, 188, *timed]


def test_mean_and_sample_deviation_are_of_the_rates():
    engine = FakeEngine(per_token=0.0, slower=0.1)
    [rates] = run(engine, SpeedTest(10, 0), repetitions=3)
    expected = [10 / 0.2, 10 / 0.3, 10 / 0.4]  # the first pass warmed up
    assert rates.rates == pytest.approx(expected)
    assert rates.mean == pytest.approx(sum(expected) / 3)
    assert rates.stddev == pytest.approx(statistics.stdev(expected))


def test_one_repetition_has_no_deviation():
    assert Rates(SpeedTest(1, 0), (5.0,)).stddev == 0.0


def test_bos_comes_first_where_there_is_one():
    for bos in (None, 49):
        engine = FakeEngine(vocab=50)
        run(engine, SpeedTest(16, 0), SpeedTest(0, 4), SpeedTest(4, 0, 600), repetitions=1, bos=bos)
        firsts = {ids[0] for position, ids in engine.passes if position == 0}
        assert (firsts == {49}) is (bos == 49)
    engine = FakeEngine(vocab=50)
    run(engine, SpeedTest(0, 40), repetitions=1, bos=49)
    assert sum(ids == [49] for _, ids in engine.passes) < 10, "the other ids are random"


def test_ids_are_seeded_and_within_the_vocabulary():
    def ids(seed: int) -> list[list[int]]:
        engine = FakeEngine(vocab=50)
        run(engine, SpeedTest(100, 0), repetitions=2, seed=seed)
        return [ids for _, ids in engine.passes]

    assert ids(1) == ids(1) != ids(2)
    assert {token for prompt in ids(1) for token in prompt} <= set(range(50))
    assert len({token for prompt in ids(1) for token in prompt}) > 40


def test_progress_is_told_before_every_run():
    heard = []
    run(FakeEngine(), SpeedTest(4, 0), SpeedTest(0, 2), repetitions=2, on_step=lambda *step: heard.append(step))
    assert heard == [(i, 6, "pp4" if i < 3 else "tg2") for i in range(6)]


def test_repetitions_must_be_positive():
    with pytest.raises(OptionError, match="repetitions must be at least 1, not 0"):
        run(FakeEngine(), SpeedTest(4, 0), repetitions=0)


def test_names_are_llama_benchs():
    assert [SpeedTest(512, 0).name, SpeedTest(0, 128).name, SpeedTest(0, 128, 1024).name] == [
        "pp512",
        "tg128",
        "tg128 @ d1024",
    ]


def test_the_plan_is_every_length_at_every_depth():
    tests, notes = plan(4096, [128, 512], [64], [0, 1024])
    assert [test.name for test in tests] == [
        "pp128", "pp512", "pp128 @ d1024", "pp512 @ d1024", "tg64", "tg64 @ d1024",
    ]  # fmt: skip
    assert notes == []


def test_defaults():
    tests, notes = plan(4096)
    assert [test.name for test in tests] == ["pp512", "tg128"]
    assert notes == []


def test_defaults_shrink_to_fit_and_say_so():
    tests, notes = plan(128, depths=[0, 28])
    assert [test.name for test in tests] == ["pp100", "pp100 @ d28", "tg100", "tg100 @ d28"]
    assert notes == [
        "pp512 became pp100 to fit in the context of 128 tokens",
        "tg128 became tg100 to fit in the context of 128 tokens",
    ]


def test_zero_leaves_a_test_out():
    assert [test.name for test in plan(4096, [0], [16])[0]] == ["tg16"]
    with pytest.raises(OptionError, match="nothing to measure"):
        plan(4096, [0], [0])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([129],), "pp129 needs 129 tokens, the context is 128"),
        ((None, [120], [10]), "tg120 @ d10 needs 130 tokens, the context is 128"),
        ((None, None, [128]), "-d 128 leaves no room in the context of 128 tokens"),
        (([-1],), "-p must not be negative: -1"),
        ((None, None, [-5]), "-d must not be negative: -5"),
    ],
)
def test_what_is_asked_for_and_does_not_fit_is_an_error(arguments, said):
    with pytest.raises(OptionError, match=f"(?m)^{said}$"):
        plan(128, *arguments)

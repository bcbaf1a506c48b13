"""Speculation: the same tokens, or the same distribution, in fewer passes; and none where it does not pay."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_engine import FakeEngine, logits_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_lm import EOS, TOKENIZER, make_lm, scripted

import edgelm
from edgelm.bundle.reader import Bundle
from edgelm.errors import OptionError
from edgelm.exporter.pipeline import export
from edgelm.runtime.loop.generate import Drafter, Limits, generate_step
from edgelm.runtime.loop.speculation import PassCost, PromptLookup
from edgelm.runtime.sample.config import GenerationConfig
from edgelm.runtime.sample.sampling import make_sampler

SMALL = 5  # ids of a vocabulary in which texts repeat themselves


class Free(PassCost):
    """Passes that all cost the same, so that guesses are as long as they can be."""

    def of(self, tokens: int) -> float:
        return 1.0


class Dear(PassCost):
    """Passes that cost as much as their tokens one by one."""

    def of(self, tokens: int) -> float:
        return float(tokens)


def repeating(ids: Sequence[int]) -> np.ndarray:
    """Logits of the last two ids alone."""
    return logits_of(ids[-2:], SMALL)


def decode(
    prompt: Sequence[int], drafter: Drafter | None, config: GenerationConfig, **options: Any
) -> tuple[list[int], str, FakeEngine]:
    """The tokens, why they ended, and the engine after it."""
    engine = FakeEngine(context=options.pop("context", 500), vocab_size=SMALL, logits=repeating)
    take = options.pop("take", None)
    limits = Limits(config.max_tokens, options.pop("eos", ()))
    steps = generate_step(engine, prompt, make_sampler(config), limits, drafter=drafter, **options)  # type: ignore[arg-type]
    tokens: list[int] = []
    while take is None or len(tokens) < take:
        try:
            tokens.append(next(steps))
        except StopIteration as end:
            return tokens, end.value, engine
    steps.close()
    return tokens, "closed", engine


prompts = st.lists(st.integers(0, SMALL - 1), min_size=1, max_size=30)


@given(
    prompt=prompts,
    count=st.integers(1, 60),
    context=st.integers(30, 90),
    eos=st.none() | st.integers(0, SMALL - 1),
    take=st.none() | st.integers(1, 40),
    sampled=st.booleans(),
    cost=st.sampled_from([Free, Dear, PassCost]),
)
@settings(max_examples=300, deadline=None)
def test_tokens_ending_and_cache_are_the_same(
    prompt: list[int], count: int, context: int, eos: int | None, take: int | None, sampled: bool, cost: type[PassCost]
) -> None:
    config = GenerationConfig(max_tokens=count, temperature=float(sampled), repetition_penalty=1.1, seed=7)
    options = {"context": context, "eos": () if eos is None else (eos,), "take": take}
    tokens, reason, engine = decode(prompt, None, config, **options)
    drafter = PromptLookup(cost())
    found, ended, other = decode(prompt, drafter, config, **options)
    assert (found, ended) == (tokens, reason)
    assert other.ids == (prompt + tokens)[: len(other.ids)]
    assert len(prompt) <= len(other.ids) <= context
    assert len(other.ids) >= len(engine.ids)
    assert 0 <= drafter.accepted <= drafter.drafted


def test_a_text_that_repeats_itself_takes_few_passes() -> None:
    config = GenerationConfig(max_tokens=200)
    drafter = PromptLookup(Free())
    _, _, engine = decode([1, 2, 3], drafter, config)
    assert len(engine.passes) < 60
    assert drafter.accepted > 140


@pytest.mark.parametrize("cost", [Free, PassCost])
def test_what_is_sampled_has_the_models_distribution(cost: type[PassCost]) -> None:
    """Chi-square on all sequences of three tokens, of a model whose next token hangs on the last one."""
    stats = pytest.importorskip("scipy.stats")
    table = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5]])
    engine = FakeEngine(vocab_size=3, logits=lambda ids: np.log(table[ids[-1]]).astype(np.float32))
    prompt, runs = [0, 1, 2, 0, 0, 1, 1, 2, 0, 1, 2, 0, 0], 6000
    counts: Counter[tuple[int, ...]] = Counter()
    sampler, shared, accepted = make_sampler(GenerationConfig(temperature=1.0, seed=11)), cost(), 0
    for _ in range(runs):
        engine.ids.clear()
        drafter = PromptLookup(shared)
        counts[tuple(generate_step(engine, prompt, sampler, Limits(3), drafter=drafter))] += 1  # type: ignore[arg-type]
        accepted += drafter.accepted
    sequences = list(itertools.product(range(3), repeat=3))
    expected = [runs * table[prompt[-1], a] * table[a, b] * table[b, c] for a, b, c in sequences]
    assert accepted > runs / 10
    assert stats.chisquare([counts[s] for s in sequences], expected).pvalue > 0.001


def test_it_turns_itself_off_where_it_does_not_pay() -> None:
    """A text that never goes on as it did before, on an engine whose passes cost half as much for every token more."""
    drafter, cost = None, PassCost()
    cost._extra = 0.5
    drafter, history, drafted = PromptLookup(cost), [0, 1, 2, 3, 4, 5], 0
    for turn in range(3000):
        history.append(turn % 6)  # six-grams that were there, and …
        guess = drafter.draft(history, 100)
        drafted += len(guess)
        if guess:
            drafter.checked(len(guess), 0, len(history))  # … are always wrong
    assert drafted < 60


def test_it_turns_itself_on_again() -> None:
    drafter = PromptLookup(PassCost())
    history = [turn % 7 for turn in range(50)]
    for _ in range(40):
        history.append(len(history) % 7)
        if guess := drafter.draft(history, 16):
            drafter.checked(len(guess), 0, len(history))
    right = 0
    while right < 20 and len(history) < 2000:
        history.append(len(history) % 7)
        if guess := drafter.draft(history, 16):
            drafter.checked(len(guess), len(guess), len(history))
            right += 1
    assert len(drafter.draft(history, 16)) >= 8
    assert len(history) < 800


def test_a_guess_goes_round_in_a_text_that_does() -> None:
    drafter = PromptLookup(Free())
    assert (
        drafter.draft([9, 1, 2, 3, 1, 2, 3], 8)
        == [1, 2, 3, 1, 2, 3, 1, 2][: len(drafter.draft([9, 1, 2, 3, 1, 2, 3], 8))]
    )
    assert PromptLookup(Free()).draft([1, 2, 3, 4, 5], 8) == []
    assert PromptLookup(Free()).draft([1], 8) == []


def test_the_cost_of_a_pass_is_measured_and_one_slow_pass_does_not_decide() -> None:
    cost = PassCost()
    for _ in range(50):
        cost.record(1, 0.010)
        cost.record(5, 0.014)
    assert cost.of(1) == 1
    assert cost.of(5) == pytest.approx(1.4, abs=0.01)
    cost.record(5, 10.0)
    assert cost.of(5) < 3.1


# -- in the LM


def speculating(engine: FakeEngine, **options: Any) -> Any:
    lm = make_lm(engine, **options)
    lm._scheduler.cost = Free()
    return lm


TEXT = "the cat sat on the mat. the cat sat on the mat. the cat sat on the hat."


@pytest.mark.parametrize("stop", [None, "hat", "sat on the mat. t", ["he m", "."]])
def test_stop_strings_inside_a_guess(stop: Any) -> None:
    plain = make_lm(scripted(TEXT)).generate("the cat", max_tokens=100, stop=stop, speculate="off")
    engine = FakeEngine(context=1000)
    script = TOKENIZER.encode(TEXT, special=False)
    prompt = len(make_lm().encode_prompt("the cat"))

    def logits(ids: Sequence[int]) -> np.ndarray:
        row = np.zeros(260, np.float32)
        said = len(ids) - prompt
        row[script[said] if said < len(script) else EOS] = 9
        return row

    engine.model.logits = logits
    lm = speculating(engine)
    found = lm.generate("the cat", max_tokens=100, stop=stop)
    assert (found.text, found.tokens, found.finish_reason) == (plain.text, plain.tokens, plain.finish_reason)
    assert found.timings.accepted_tokens > 5
    assert len(engine.ids) <= prompt + len(found.tokens)
    assert lm.generate("the cat", max_tokens=100, stop=stop).text == plain.text


def test_a_seed_with_a_temperature_and_off_do_not_guess() -> None:
    lm = speculating(FakeEngine(context=400, logits=lambda ids: logits_of(ids[-1:])), eos=[])
    options = {"max_tokens": 100}
    assert lm.generate("x", **options).timings.drafted_tokens > 0
    assert lm.generate("x", **options, seed=1).timings.drafted_tokens > 0
    assert lm.generate("x", **options, temperature=0.1).timings.drafted_tokens > 0
    assert lm.generate("x", **options, temperature=0.1, seed=1).timings.drafted_tokens == 0
    assert lm.generate("x", **options, temperature=0.1, seed=1, speculate="on").timings.drafted_tokens > 0
    assert lm.generate("x", **options, speculate="off").timings.drafted_tokens == 0
    with pytest.raises(OptionError, match="speculate must be 'auto', 'on' or 'off', not 'yes'"):
        lm.stream("x", speculate="yes")  # type: ignore[call-overload]


@given(text=st.text("abc ", min_size=1, max_size=12), times=st.integers(1, 4), count=st.integers(3, 60))
@settings(max_examples=25, deadline=None)
def test_a_real_graph_gives_the_same_tokens(text: str, times: int, count: int, tiny_bundle: Bundle) -> None:
    with edgelm.load(tiny_bundle.path, threads=1) as lm:
        options = {"max_tokens": count, "raw": True, "reuse_cache": False}
        prompt = (text * times)[:60]
        plain = lm.generate(prompt, speculate="off", **options)
        lm._scheduler.cost = Free()
        assert lm.generate(prompt, **options).tokens == plain.tokens
        assert lm.generate(prompt, max_tokens=count, raw=True).tokens == plain.tokens  # on what is left in the cache


def test_a_model_with_states_does_not_guess(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    shape = {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2, "block_auto_adjust_ff_dim": False}
    bundle = export(tiny_checkpoint("lfm2", norm_eps=1e-5, **shape), "x86-64", "fp32", output=tmp_path / "b")
    with edgelm.load(bundle.path, threads=1) as lm:
        assert lm.generate("ab" * 20, max_tokens=40).timings.drafted_tokens == 0


@pytest.mark.parametrize(
    ("quant", "target", "drafts"),
    [("fp32", "x86-64", True), ("int8", "x86-64", False), ("int4", "rpi5", False), ("int8", "rpi4", False)],
)
def test_a_greedy_text_is_drafted_where_it_stays_the_same(
    quant: str, target: str, drafts: bool, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    bundle = export(tiny_checkpoint(), target, quant, output=tmp_path / "b", calibrate="none", card="none")
    prompt = "one two three one two three one two three one"
    with edgelm.load(bundle.path, threads=1) as lm:
        lm._scheduler.cost = Free()
        options = {"max_tokens": 40, "raw": True, "reuse_cache": False}
        plain = lm.generate(prompt, **options, speculate="off")
        assert lm.generate(prompt, **options).tokens == plain.tokens
        options["logit_bias"] = {70: 1000.0}  # a text that repeats itself
        assert (lm.generate(prompt, **options).timings.drafted_tokens > 0) is drafts
        assert lm.generate(prompt, **options, speculate="on").timings.drafted_tokens > 0
        assert lm.generate(prompt, **options, temperature=0.5).timings.drafted_tokens > 0, "in distribution"

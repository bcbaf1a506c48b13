"""A draft model: the same tokens, or the same distribution, whatever it guesses; and it is asked while that pays."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_engine import FakeEngine, FakeModel, logits_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_lm import EOS, TEMPLATE, make_lm
from test_speculation import SMALL, Free, decode, repeating

import edgelm
from edgelm.bundle.reader import Bundle
from edgelm.errors import DeviceError, OptionError
from edgelm.exporter.pipeline import export
from edgelm.runtime.loop.draft import CostEstimate, DraftModel, ModelDrafter
from edgelm.runtime.loop.generate import Limits, generate_step
from edgelm.runtime.loop.speculation import PassCost, PromptLookup
from edgelm.runtime.sample.config import GenerationConfig
from edgelm.runtime.sample.sampling import make_sampler


class FreeCost(CostEstimate):
    """A draft model that takes no time."""

    def token(self, single: float) -> float:
        return 0.0

    def prompt(self, single: float) -> float:
        return 0.0


class NoLookup(PromptLookup):
    """Guesses nothing, so that every guess is the draft model's."""

    def draft(self, history: Sequence[int], limit: int) -> list[int]:
        return []


def model_of(small: FakeModel, vocab: int = SMALL, eos: Sequence[int] = (), free: bool = True) -> DraftModel:
    model = DraftModel(small, vocab, eos, 0.1)  # type: ignore[arg-type]
    if free:
        model.cost = FreeCost(0.0)
    return model


def drafter_of(model: DraftModel, cost: PassCost, lookup: type[PromptLookup] = NoLookup) -> ModelDrafter:
    own: Any = model.model.sequence()
    return ModelDrafter(model, own, lookup(cost), cost, lambda: None)


def often_the_same(ids: Sequence[int]) -> np.ndarray:
    """As `repeating`, but every third time something else."""
    return logits_of(ids[-2:], SMALL) if len(ids) % 3 else logits_of([7, *ids[-2:]], SMALL)


@given(
    prompt=st.lists(st.integers(0, SMALL - 1), min_size=1, max_size=30),
    count=st.integers(1, 60),
    context=st.integers(30, 90),
    small=st.integers(8, 90),
    eos=st.none() | st.integers(0, SMALL - 1),
    take=st.none() | st.integers(1, 40),
    sampled=st.booleans(),
    cost=st.sampled_from([Free, PassCost]),
    free=st.booleans(),
    lookup=st.sampled_from([NoLookup, PromptLookup]),
    guesses=st.sampled_from([repeating, often_the_same, lambda ids: logits_of(ids, SMALL)]),
)
@settings(max_examples=120, deadline=None)
def test_tokens_ending_and_cache_are_the_same(
    prompt: list[int],
    count: int,
    context: int,
    small: int,
    eos: int | None,
    take: int | None,
    sampled: bool,
    cost: type[PassCost],
    free: bool,
    lookup: type[PromptLookup],
    guesses: Callable[[Sequence[int]], np.ndarray],
) -> None:
    config = GenerationConfig(max_tokens=count, temperature=float(sampled), repetition_penalty=1.1, seed=7)
    ids = () if eos is None else (eos,)
    options = {"context": context, "eos": ids, "take": take}
    tokens, reason, engine = decode(prompt, None, config, **options)
    model = model_of(FakeModel(context=small, vocab_size=SMALL, logits=guesses), eos=ids, free=free)
    drafter = drafter_of(model, cost(), lookup)
    found, ended, other = decode(prompt, drafter, config, **options)
    assert (found, ended) == (tokens, reason)
    assert other.ids == (prompt + tokens)[: len(other.ids)]
    assert len(engine.ids) <= len(other.ids) <= context
    assert drafter._own.position <= small
    assert 0 <= drafter.accepted <= drafter.drafted


def test_the_same_model_guesses_all_and_takes_a_seventeenth_of_the_passes() -> None:
    draft = FakeModel(context=500, vocab_size=SMALL, logits=repeating)
    drafter = drafter_of(model_of(draft), Free())
    tokens, _, engine = decode([1, 2, 3], drafter, GenerationConfig(max_tokens=171))
    # The prompt, a pass without a guess to know what one takes, then 16 guesses a pass and the token after them.
    assert drafter.accepted == drafter.drafted == 160 - 1
    assert engine.passes == [3, 1, *[17] * 9, 16]
    assert len(tokens) == 171
    assert len(draft.passes) == 160 - 1  # one for each guess: what was accepted is not read again
    assert max(draft.passes[1:]) == 2  # the last guess, and the token after it


def test_what_is_sampled_has_the_models_distribution() -> None:
    """Chi-square on all sequences of three tokens; the draft model's likeliest token is wrong as a rule."""
    stats = pytest.importorskip("scipy.stats")
    table = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5]])
    engine = FakeEngine(vocab_size=3, logits=lambda ids: np.log(table[ids[-1]]).astype(np.float32))
    for guesses in (table, table[::-1]):
        draft = FakeModel(vocab_size=3, logits=lambda ids, guesses=guesses: np.log(guesses[ids[-1]]).astype(np.float32))
        model, cost, runs = model_of(draft, 3), Free(), 4000
        counts: Counter[tuple[int, ...]] = Counter()
        sampler, drafted, accepted = make_sampler(GenerationConfig(temperature=1.0, seed=11)), 0, 0
        for _ in range(runs):
            engine.ids.clear()
            model.seen = (2.0, 1.0)  # so that it goes on guessing what is wrong
            drafter = drafter_of(model, cost)
            steps = generate_step(engine, [0, 1], sampler, Limits(3), drafter=drafter)  # type: ignore[arg-type]
            counts[tuple(steps)] += 1
            drafted, accepted = drafted + drafter.drafted, accepted + drafter.accepted
        sequences = list(itertools.product(range(3), repeat=3))
        expected = [runs * table[1, a] * table[a, b] * table[b, c] for a, b, c in sequences]
        assert drafted > runs / 2
        assert 0 < accepted < drafted
        assert stats.chisquare([counts[s] for s in sequences], expected).pvalue > 0.001


# -- whether it pays


def play(model: DraftModel, cost: PassCost, turns: int, right: bool, seconds: float) -> tuple[int, int]:
    """Tokens guessed, and asked of the draft model, in a text of `turns` tokens; its own time is told, not measured."""
    drafter, history, guessed, asked = drafter_of(model, cost), [1, 2], 0, 0

    def guess(own: Any, text: Sequence[int], sure: int, count: int, interrupt: Any) -> list[int]:
        nonlocal asked
        asked += 1
        return [0] * count

    model.guess = guess  # type: ignore[method-assign]
    cost.record(1, 0.01)
    for _ in range(turns):
        history.append(3)
        drafted = drafter.draft(history, 1000)
        drafter._spent = seconds * len(drafted)  # what the clock would have said
        if drafted:
            guessed += len(drafted)
            drafter.checked(len(drafted), len(drafted) if right else 0, len(history))
        drafter.passed(1 + len(drafted) if len(history) % 10 else 1, 0.01 * cost.of(1 + len(drafted)))
    return guessed, asked


def test_a_draft_that_is_always_wrong_is_seldom_asked() -> None:
    model = model_of(FakeModel(context=5000, vocab_size=SMALL), free=False)
    guessed, asked = play(model, PassCost(), 3000, right=False, seconds=0.001)
    assert 0 < asked < 30
    assert guessed < 100


def test_a_draft_as_slow_as_the_model_is_not_asked_but_to_see() -> None:
    model = model_of(FakeModel(context=5000, vocab_size=SMALL), free=False)
    model.cost._token = 0.01
    guessed, asked = play(model, PassCost(), 3000, right=True, seconds=0.01)
    assert asked < 15
    assert guessed <= 2 * asked


def test_a_quick_draft_that_is_right_is_asked_always() -> None:
    model = model_of(FakeModel(context=5000, vocab_size=SMALL), free=False)
    model.cost._token = 0.0005
    _, asked = play(model, PassCost(), 300, right=True, seconds=0.0005)
    assert asked > 250


def test_what_was_learnt_is_kept_from_text_to_text() -> None:
    model = model_of(FakeModel(context=5000, vocab_size=SMALL), free=False)
    play(model, PassCost(), 300, right=False, seconds=0.001)
    assert play(model, PassCost(), 100, right=False, seconds=0.001)[1] <= 1


def test_a_long_text_is_not_read_for_a_few_tokens() -> None:
    model = model_of(FakeModel(context=5000, vocab_size=SMALL), free=False)
    model.cost._token, model.cost._prompt, cost = 0.001, 0.001, PassCost()
    cost.record(1, 0.01)
    history = [turn % SMALL for turn in range(1000)]  # 0.1 of a pass each: 100 passes
    drafter = drafter_of(model, cost)
    assert drafter.draft(history, 20) == []
    assert drafter._own.position == 0
    assert drafter_of(model, cost).draft(history, 1000)


def test_the_pace_is_measured() -> None:
    cost = CostEstimate(0.25)
    assert cost.token(0.1) == 0.025
    assert cost.prompt(0.1) == 0.025 / 4
    cost.record(1, 0.02)
    cost.record(100, 0.5)
    cost.record(2, 9.0)  # neither
    assert cost.token(0.1) == 0.02
    assert cost.prompt(0.1) == 0.005


def test_the_large_models_pass_is_measured_again() -> None:
    draft = FakeModel(context=3000, vocab_size=SMALL, logits=repeating)
    _, _, engine = decode(
        [1, 2, 3], drafter_of(model_of(draft), Free()), GenerationConfig(max_tokens=2400), context=3000
    )
    assert engine.passes.count(1) == 3


def test_out_of_memory_costs_the_guess_and_nothing_else() -> None:
    draft = FakeModel(context=500, vocab_size=SMALL, logits=repeating)
    model = model_of(draft)
    config = GenerationConfig(max_tokens=60)
    expected, _, _ = decode([1, 2, 3], None, config)

    def fail() -> None:
        if len(draft.passes) > 5:
            raise DeviceError("more than max_memory_mb allows")

    draft.before_forward = fail
    assert decode([1, 2, 3], drafter_of(model, Free()), config)[0] == expected


# -- in the LM


def drafting(engine: FakeEngine, draft: FakeModel, **options: Any) -> Any:
    lm = make_lm(engine, draft=model_of(draft, engine.vocab_size, [EOS]), **options)
    lm._scheduler.cost = Free()
    return lm


def of_one(ids: Sequence[int]) -> np.ndarray:
    return logits_of(ids[-1:])


def test_turns_cancel_and_off() -> None:
    draft = FakeModel(context=400, logits=of_one)
    lm = drafting(FakeEngine(context=400, logits=of_one), draft, template=TEMPLATE, eos=[])
    plain = make_lm(FakeEngine(context=400, logits=of_one), template=TEMPLATE, eos=[])
    messages = [{"role": "user", "content": "hello"}]
    for _ in range(3):
        found, expected = (m.generate(messages, max_tokens=30) for m in (lm, plain))
        assert (found.text, found.tokens) == (expected.text, expected.tokens)
        assert found.timings.accepted_tokens > 10
        messages += [{"role": "assistant", "content": found.text[:5]}, {"role": "user", "content": "and?"}]
    passes = len(draft.passes)
    assert lm.generate("x", max_tokens=30, speculate="off").timings.drafted_tokens == 0
    assert lm.generate("x", max_tokens=30, temperature=1.0, seed=1).timings.drafted_tokens == 0
    assert len(draft.passes) == passes
    draft.before_forward = lm.cancel
    ended = lm.generate("x", max_tokens=200)
    assert ended.finish_reason == "cancelled"
    assert ended.tokens == plain.generate("x", max_tokens=200).tokens[: len(ended.tokens)]
    draft.before_forward = lambda: None
    assert lm.generate("x", max_tokens=30).tokens == plain.generate("x", max_tokens=30).tokens


def test_an_error_in_the_draft_leaves_a_model_that_works() -> None:
    draft = FakeModel(context=400, logits=of_one)
    lm = drafting(FakeEngine(context=400, logits=of_one), draft, eos=[])

    def fail() -> None:
        raise KeyboardInterrupt

    draft.before_forward = fail
    with pytest.raises(KeyboardInterrupt):
        lm.generate("hello", max_tokens=30)
    draft.before_forward = lambda: None
    expected = make_lm(FakeEngine(context=400, logits=of_one), eos=[]).generate("hello", max_tokens=30)
    assert lm.generate("hello", max_tokens=30).tokens == expected.tokens


def test_each_sequence_has_a_draft_sequence_of_its_own_which_is_freed_with_it() -> None:
    draft = FakeModel(context=400, logits=of_one)
    model = model_of(draft, 260)
    own, first, second = (FakeModel().sequence() for _ in range(3))
    for sequence, text in ((own, [1, 2, 3]), (first, [4, 5, 6]), (second, [7, 8]), (own, [1, 2, 3, 4])):
        model.guess(model.beside(sequence), text, 0, 1, lambda: None)  # type: ignore[arg-type]
    assert draft.passes == [3, 3, 2, 1]
    assert model.beside(first).tokens == [4, 5, 6]  # type: ignore[arg-type]
    del first, second, sequence
    assert len(model._beside) == 1


# -- with real graphs


@pytest.fixture(scope="module")
def other_bundle(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A smaller model with the same tokens and other weights."""
    checkpoint = tiny_checkpoint(seed=3, num_hidden_layers=1, hidden_size=32, num_attention_heads=2)
    return export(checkpoint, "x86-64", "fp32", output=tmp_path_factory.mktemp("bundles") / "other")


def eager(lm: edgelm.LM) -> edgelm.LM:
    """The LM with guesses that are always worth it."""
    assert lm.draft is not None
    lm._scheduler.cost, lm.draft.cost = Free(), FreeCost(0.0)
    return lm


@pytest.mark.parametrize("which", ["same", "other"])
def test_real_graphs_give_the_same_text(which: str, tiny_bundle: Bundle, other_bundle: Bundle) -> None:
    draft = tiny_bundle if which == "same" else other_bundle
    with (
        edgelm.load(tiny_bundle.path, threads=1) as plain,
        edgelm.load(tiny_bundle.path, threads=1, draft=draft.path) as lm,
    ):
        eager(lm)
        for prompt, stop in (("hello", None), ("say it again", ["e"]), ("hello you", None), ("h", ["\x00"])):
            options = {"max_tokens": 50, "raw": True, "stop": stop}
            expected = plain.generate(prompt, speculate="off", **options)
            assert lm.draft is not None
            lm.draft.seen = (8.0, 1.0)
            found = lm.generate(prompt, **options)
            assert (found.text, found.tokens, found.finish_reason) == (
                expected.text,
                expected.tokens,
                expected.finish_reason,
            )
            assert found.timings.drafted_tokens > 0 or len(found.tokens) < 4
            if which == "same" and stop is None:
                assert found.timings.accepted_tokens >= 0.9 * found.timings.drafted_tokens > 20


def test_sessions_and_saved_caches(tiny_bundle: Bundle, other_bundle: Bundle, tmp_path: Path) -> None:
    with (
        edgelm.load(tiny_bundle.path, threads=1) as plain,
        edgelm.load(tiny_bundle.path, threads=1, draft=other_bundle.path) as lm,
    ):
        eager(lm)
        one, two = lm.session(), lm.session()
        for session, prompt in ((one, "one"), (two, "two two"), (one, "one and"), (two, "two"), (one, "one")):
            found = session.generate(prompt, max_tokens=25, raw=True)
            assert found.tokens == plain.generate(prompt, max_tokens=25, raw=True, speculate="off").tokens
        one.save(tmp_path / "cache")
        three = lm.session()
        three.load(tmp_path / "cache")
        found = three.generate("one and more", max_tokens=25, raw=True)
        assert found.tokens == plain.generate("one and more", max_tokens=25, raw=True).tokens
        assert found.timings.cached_tokens > 0


def test_a_form_is_kept(tiny_bundle: Bundle, other_bundle: Bundle) -> None:
    pytest.importorskip("llguidance")
    with (
        edgelm.load(tiny_bundle.path, threads=1) as plain,
        edgelm.load(tiny_bundle.path, threads=1, draft=other_bundle.path) as lm,
    ):
        eager(lm)
        options = {"regex": "[a-f]{3}-[0-9]{20}", "max_tokens": 60}
        assert lm.generate("x", **options).text == plain.generate("x", speculate="off", **options).text


def test_other_tokens_are_refused(tiny_bundle: Bundle, tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    import tokenizers

    checkpoint = tiny_checkpoint(seed=4, num_hidden_layers=1)
    inner = tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    inner.normalizer = tokenizers.normalizers.NFC()
    inner.save(str(checkpoint / "tokenizer.json"))  # other bytes, the same ids
    alike = export(checkpoint, "x86-64", "fp32", output=tmp_path / "alike")
    edgelm.load(tiny_bundle.path, threads=1, draft=alike.path).close()
    inner.add_tokens(["hello"])
    inner.save(str(checkpoint / "tokenizer.json"))
    unlike = export(checkpoint, "x86-64", "fp32", output=tmp_path / "unlike")
    with pytest.raises(OptionError, match=r"draft .*unlike has other tokens than .*tiny") as raised:
        edgelm.load(tiny_bundle.path, threads=1, draft=unlike.path)
    assert "\n" not in str(raised.value)
    assert raised.value.hint is not None


def test_a_model_with_states_takes_no_draft(
    tiny_bundle: Bundle, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    shape = {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2, "block_auto_adjust_ff_dim": False}
    states = export(tiny_checkpoint("lfm2", norm_eps=1e-5, **shape), "x86-64", "fp32", output=tmp_path / "b")
    with pytest.raises(OptionError, match="cannot take back a wrong draft without reading again"):
        edgelm.load(states.path, threads=1, draft=tiny_bundle.path)
    with edgelm.load(tiny_bundle.path, threads=1, draft=states.path) as lm, edgelm.load(tiny_bundle.path) as plain:
        eager(lm)  # but may be one
        for prompt in ("hello", "hello world", "hell"):
            options = {"max_tokens": 30, "raw": True}
            assert lm.generate(prompt, **options).tokens == plain.generate(prompt, speculate="off", **options).tokens


def test_the_memory_of_the_draft_counts(tiny_bundle: Bundle, other_bundle: Bundle) -> None:
    memory = [bundle.manifest.memory for bundle in (tiny_bundle, other_bundle)]
    both = sum(m.total_bytes for m in memory) - memory[1].runtime_bytes
    with edgelm.load(tiny_bundle.path, threads=1, draft=other_bundle.path, max_memory_mb=both / 1e6) as lm:
        assert lm.context == 128
        assert lm.draft is not None
        assert lm.draft.model.context == 128
        assert lm.generate("hello", max_tokens=20).tokens
    half = both - sum(m.kv_bytes for m in memory) / 2
    with edgelm.load(tiny_bundle.path, threads=1, draft=other_bundle.path, max_memory_mb=half / 1e6) as lm:
        assert lm.context == lm.draft.model.context == 64  # type: ignore[union-attr]
    too_little = both - sum(m.kv_bytes for m in memory)
    with pytest.raises(DeviceError, match="this bundle with its draft needs"):
        edgelm.load(tiny_bundle.path, threads=1, draft=other_bundle.path, max_memory_mb=too_little / 1e6)

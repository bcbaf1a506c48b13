"""Samplers: the same distribution as transformers, reproducible, and clear about bad input."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from edgelm.bundle.json_table import shown
from edgelm.errors import BundleError, EdgeLMError, OptionError
from edgelm.runtime.sample.config import GenerationConfig
from edgelm.runtime.sample.sampling import candidates, make_sampler, top_k

INF = float("inf")
NAN = float("nan")


def probabilities(logits: np.ndarray, config: GenerationConfig) -> np.ndarray:
    ids, weights = candidates(logits, config)
    full = np.zeros(logits.size)
    full[ids] = weights / weights.sum(dtype=np.float64)
    return full


def transformers_probabilities(logits: np.ndarray, config: GenerationConfig, history: list[int]) -> np.ndarray:
    """Through transformers' own processors, in its order."""
    torch = pytest.importorskip("torch")
    lp = pytest.importorskip("transformers.generation.logits_process")
    chain = [lp.RepetitionPenaltyLogitsProcessor(config.repetition_penalty)] if history else []
    chain.append(lp.TemperatureLogitsWarper(config.temperature))
    chain += [lp.TopKLogitsWarper(config.top_k)] if config.top_k else []
    chain += [lp.TopPLogitsWarper(config.top_p)] if config.top_p < 1 else []
    chain += [lp.MinPLogitsWarper(config.min_p)] if config.min_p else []
    scores, ids = torch.tensor(logits)[None], torch.tensor([history], dtype=torch.long)
    for step in chain:
        scores = step(ids, scores)
    return torch.softmax(scores.double(), -1)[0].numpy()


def near_a_border(logits: np.ndarray, config: GenerationConfig) -> bool:
    """Whether rounding decides which tokens top-p or min-p keep."""
    p = np.exp((logits.astype(np.float64) - logits.max()) / config.temperature)
    if config.top_k:
        p[p < np.sort(p)[::-1][min(config.top_k, p.size) - 1]] = 0
    p /= p.sum()
    sums = np.cumsum(np.sort(p)[::-1])
    top_p = config.top_p < 1 and np.abs(sums - config.top_p).min() < 1e-5
    return bool(top_p or (config.min_p and np.abs(p / p.max() - config.min_p).min() < 1e-5))


# Distinct logits, a step apart: which of two equals top-p drops is anyone's choice.
distinct_logits = st.lists(st.integers(-2000, 2000), min_size=1, max_size=80, unique=True).map(
    lambda values: np.array(values, np.float32) / 100
)


@given(
    logits=distinct_logits,
    temperature=st.floats(0.05, 5),
    top_k=st.integers(0, 90),
    top_p=st.floats(0.01, 1),
    min_p=st.floats(0, 1),
)
@example(np.array([1, 2, 3], np.float32), 1.0, 2, 1.0, 0.0)
@example(np.array([1, 2, -INF, 3], np.float32), 0.5, 0, 0.7, 0.1)
@settings(max_examples=200, deadline=None)
def test_same_distribution_as_transformers(
    logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    config = GenerationConfig(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    assume(not near_a_border(logits, config))
    expected = transformers_probabilities(logits, config, [])
    np.testing.assert_allclose(probabilities(logits, config), expected, rtol=2e-4, atol=1e-7)


@given(
    logits=distinct_logits,
    penalty=st.floats(0.5, 3),
    picks=st.lists(st.integers(0, 1000), min_size=1, max_size=20),
)
@settings(max_examples=100, deadline=None)
def test_same_repetition_penalty_as_transformers(logits: np.ndarray, penalty: float, picks: list[int]) -> None:
    history = [pick % logits.size for pick in picks]
    config = GenerationConfig(temperature=1.0, repetition_penalty=penalty, seed=3)
    expected = transformers_probabilities(logits, config, history)
    sampler, counts = make_sampler(config), np.zeros(logits.size)
    for _ in range(60):
        counts[sampler(logits, history)] += 1
    assert not counts[expected < 1e-6].any()
    greedy = make_sampler(config.replace(temperature=0.0))(logits, history)
    assert expected[greedy] == pytest.approx(expected.max(), rel=1e-5)


def test_draws_follow_the_distribution() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.2, 0.05], np.float32))
    sampler = make_sampler(GenerationConfig(temperature=1.0, seed=0))
    counts = np.bincount([sampler(logits, []) for _ in range(20_000)], minlength=4) / 20_000
    np.testing.assert_allclose(counts, [0.5, 0.25, 0.2, 0.05], atol=0.015)


def test_repetition_penalty_counts_every_token_as_the_history_grows() -> None:
    config = GenerationConfig(repetition_penalty=2.0)
    logits = np.array([4, 3.9, 3.8, 3.7], np.float32)
    sampler, history = make_sampler(config), []
    for expected in (0, 1, 2, 3, 0):  # each token chosen once loses to the next, until all are equal again
        history.append(sampler(logits, history))
        assert history[-1] == expected


def test_a_sampler_notices_another_sequence() -> None:
    sampler = make_sampler(GenerationConfig(repetition_penalty=2.0))
    logits = np.array([4, 3, 2, 1], np.float32)
    assert sampler(logits, [0, 1]) == 0  # 4 / 2 against 2: the first of equals
    assert sampler(logits, [0, 1, 0]) == 0
    assert sampler(np.array([4, 3.9, 2, 1], np.float32), [0, 3]) == 1  # token 1 is not penalised any more


def test_the_logits_given_are_left_alone() -> None:
    logits = np.array([4, 3, 2, 1], np.float32)
    make_sampler(GenerationConfig(repetition_penalty=2.0, temperature=0.7, top_k=2, top_p=0.5, min_p=0.1))(logits, [0])
    assert logits.tolist() == [4, 3, 2, 1]


def test_temperature_0_takes_the_likeliest_and_the_first_of_equals() -> None:
    sampler = make_sampler(GenerationConfig(temperature=0.0))
    assert sampler(np.array([1, 5, 5, 2], np.float32), []) == 1


def test_a_tiny_temperature_is_greedy_and_does_not_overflow() -> None:
    sampler = make_sampler(GenerationConfig(temperature=1e-300, seed=1))
    assert {sampler(np.array([1, 5, 4.99], np.float32), []) for _ in range(50)} == {1}


def test_a_seed_fixes_the_tokens_and_no_seed_does_not() -> None:
    logits = np.zeros(1000, np.float32)

    def tokens(seed: int | None) -> list[int]:
        sampler = make_sampler(GenerationConfig(temperature=1.0, seed=seed))
        return [sampler(logits, []) for _ in range(20)]

    assert tokens(7) == tokens(7)
    assert tokens(7) != tokens(8)
    assert tokens(None) != tokens(None)


def test_top_k_keeps_equals_of_the_last() -> None:
    ids, _ = candidates(np.array([1, 2, 2, 0], np.float32), GenerationConfig(temperature=1.0, top_k=1))
    assert ids.tolist() == [1, 2]


@pytest.mark.parametrize(("size", "count"), [(10, 4), (3000, 1051)])
def test_top_p_keeps_the_fewest_of_equals(size: int, count: int) -> None:
    ids, _ = candidates(np.zeros(size, np.float32), GenerationConfig(temperature=1.0, top_p=(count - 0.5) / size))
    assert ids.tolist() == list(range(count))


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.999])
def test_top_p_on_a_large_vocabulary_agrees_with_sorting_it_all(top_p: float) -> None:
    logits = (np.random.default_rng(5).standard_normal(150_000) * 3).astype(np.float32)
    ids, _ = candidates(logits, GenerationConfig(temperature=1.0, top_p=top_p))
    p = np.exp(logits - logits.max(), dtype=np.float64)
    order = np.argsort(-p, kind="stable")
    count = np.searchsorted(np.cumsum(p[order]), top_p * p.sum()) + 1
    assert abs(ids.size - count) <= 1  # float32 weights
    assert set(ids[: count - 1]) <= set(np.sort(order[: count + 1]))


def test_forbidden_tokens_are_never_drawn() -> None:
    logits = np.full(100, -INF, np.float32)
    logits[[3, 50]] = [0, 1]
    sampler = make_sampler(GenerationConfig(temperature=2.0, top_k=10, top_p=0.99, seed=0))
    assert {sampler(logits, []) for _ in range(200)} == {3, 50}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    ("logits", "what"),
    [([NAN, 1.0], "NaN"), ([-INF, -INF], "no token that may be chosen"), ([INF, 1.0], "infinite")],
)
def test_unusable_logits_are_an_error(logits: list[float], what: str, temperature: float) -> None:
    sampler = make_sampler(GenerationConfig(temperature=temperature))
    with pytest.raises(EdgeLMError, match=what):
        sampler(np.array(logits, np.float32), [0])


@pytest.mark.parametrize(
    ("option", "values", "says"),
    [
        ("max_tokens", [0, -1, 1.5, "5", True, None, NAN], "max_tokens must be an integer, 1 or more, not "),
        ("temperature", [-0.1, NAN, INF, "1", False, None, 10**400], "temperature must be a number 0 or more, not "),
        ("top_k", [-1, 2.0, True, "1"], "top_k must be an integer, 0 or more, not "),
        ("top_p", [0, 1.01, -1, NAN, True], "top_p must be a number above 0 and at most 1, not "),
        ("min_p", [-0.01, 1.01, NAN, "x"], "min_p must be a number between 0 and 1, not "),
        ("repetition_penalty", [0, -1, INF, NAN], "repetition_penalty must be a number above 0, not "),
        ("seed", [-1, 1.0, True, "1"], "seed must be an integer, 0 or more, not "),
        ("stop", ["", ["a", ""], [1], 5, b"x", [b"x"], {"a"}], "stop must be one or more strings, none of them empty"),
    ],
)
def test_bad_options_are_named_with_value_and_range(option: str, values: list[Any], says: str) -> None:
    for value in values:
        with pytest.raises(OptionError) as error:
            GenerationConfig(**{option: value})
        assert str(error.value).startswith(says)
        assert str(error.value).endswith(f"not {shown(value)}")


def test_options_are_normalised() -> None:
    config = GenerationConfig(max_tokens=np.int64(3), temperature=1, top_p=np.float32(0.5), stop="end")  # type: ignore[arg-type]
    assert config == GenerationConfig(max_tokens=3, temperature=1.0, top_p=0.5, stop=("end",))
    assert type(config.max_tokens) is int
    assert type(config.temperature) is float
    assert GenerationConfig(stop=["a", "b"]).stop == ("a", "b")  # type: ignore[arg-type]


def test_replace_passes_over_none_and_checks_the_rest() -> None:
    config = GenerationConfig(temperature=0.5, seed=1)
    assert config.replace(temperature=None, top_k=5, seed=None, stop=None) == GenerationConfig(
        temperature=0.5, top_k=5, seed=1
    )
    with pytest.raises(OptionError, match="top_k"):
        config.replace(top_k=-1)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ({}, GenerationConfig()),
        ({"bos_token_id": 1, "eos_token_id": [2, 3], "transformers_version": "4"}, GenerationConfig()),
        ({"do_sample": False, "temperature": 0.6, "top_p": 0.9}, GenerationConfig(top_p=0.9)),
        ({"temperature": 0.6}, GenerationConfig()),
        ({"do_sample": True}, GenerationConfig(temperature=1.0, top_k=50)),
        (
            {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05},
            GenerationConfig(temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.05),
        ),
        ({"do_sample": True, "top_k": 0, "min_p": None}, GenerationConfig(temperature=1.0)),
        ({"max_new_tokens": 2048, "stop_strings": "END"}, GenerationConfig(max_tokens=2048, stop=("END",))),
    ],
)
def test_from_generation_config_json(file: dict[str, Any], expected: GenerationConfig) -> None:
    assert GenerationConfig.from_hf(file) == expected


@pytest.mark.parametrize(
    "file",
    [
        {"do_sample": True, "temperature": -1},
        {"do_sample": True, "top_p": 7},
        {"top_k": "many"},
        {"max_new_tokens": 0},
        {"stop_strings": [""]},
        {"do_sample": "yes"},
    ],
)
def test_a_bad_generation_config_json_names_the_key(file: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=rf"generation_config.json: {list(file)[-1]}"):
        GenerationConfig.from_hf(file)


def test_the_order_of_the_options_is_that_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    source = inspect.getsource(transformers.GenerationMixin._get_logits_processor)
    names = ["RepetitionPenaltyLogitsProcessor", "TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper"]
    places = [source.index(f"{name}(") for name in [*names, "MinPLogitsWarper"]]
    assert places == sorted(places)


@given(st.integers(1, 700), st.integers(0, 80), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_top_k_is_a_plain_partition(size: int, k: int, kind: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.standard_normal(size).astype(np.float32)
    if kind == 1:
        scores = np.round(scores)  # many equals
    elif kind == 2:
        scores[random.random(size) < 0.9] = -np.inf
    elif kind == 3:
        scores[:] = 1
    wanted = np.arange(size) if not 0 < k < size else np.flatnonzero(scores >= np.sort(scores)[size - k])
    np.testing.assert_array_equal(top_k(scores, k), wanted)

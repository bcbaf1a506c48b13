"""Log-probabilities, penalties, biases, several completions, echo, usage, cancelling, and ``async for``."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from fake_engine import FakeEngine, greedy, logits_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_lm import TEMPLATE, byte_tokenizer, make_lm, scripted, text_of
from test_speculation import Free

from edgelm.errors import EdgeLMError, OptionError
from edgelm.runtime.loop.results import Usage
from edgelm.runtime.sample.config import GenerationConfig
from edgelm.runtime.sample.penalties import make_adjustment
from edgelm.runtime.text.tokenizer import Tokenizer

# -- log-probabilities


def log_softmax(logits: np.ndarray) -> np.ndarray:
    exact = logits.astype(np.float64)
    return exact - exact.max() - np.log(np.exp(exact - exact.max()).sum())


@pytest.mark.parametrize("options", [{}, {"temperature": 1.5, "top_k": 5, "seed": 1}, {"repetition_penalty": 1.3}])
def test_logprobs_are_those_of_the_models_own_distribution(options: dict[str, Any]) -> None:
    lm = make_lm(eos=[])
    completion = lm.generate("hello", max_tokens=6, top_logprobs=3, **options)
    assert completion.logprobs is not None
    assert tuple(record.token for record in completion.logprobs) == completion.tokens
    ids = lm.encode_prompt("hello")
    for record in completion.logprobs:
        expected = log_softmax(logits_of(ids))
        assert record.logprob == pytest.approx(expected[record.token], abs=1e-5)
        assert [t.token for t in record.top] == np.argsort(-expected)[:3].tolist()
        assert [t.logprob for t in record.top] == pytest.approx(np.sort(expected)[::-1][:3], abs=1e-5)
        assert record.text == lm.tokenizer.decode([record.token], skip_special=False)
        ids.append(record.token)


def test_logprobs_come_with_the_chunk_of_their_tokens() -> None:
    chunks = list(make_lm(scripted("a😀é")).stream("x", max_tokens=50, logprobs=True))
    for chunk in chunks:
        assert chunk.logprobs is not None
        assert tuple(record.token for record in chunk.logprobs) == chunk.tokens
        assert all(record.top == () for record in chunk.logprobs)
    assert all(chunk.logprobs is None for chunk in make_lm(scripted("a")).stream("x", max_tokens=50))


def test_logprobs_with_speculation() -> None:
    lm = make_lm(FakeEngine(context=400, logits=lambda ids: logits_of(ids[-1:])), eos=[])
    plain = lm.generate("x", max_tokens=60, top_logprobs=2, speculate="off")
    lm._scheduler.cost = Free()
    guessed = lm.generate("x", max_tokens=60, top_logprobs=2, reuse_cache=False)
    assert guessed.timings.accepted_tokens > 0
    assert guessed.logprobs == plain.logprobs


def test_logprobs_with_a_form() -> None:
    pytest.importorskip("llguidance")
    completion = make_lm().generate("x", choice=["long enough"], logprobs=True, max_tokens=40)
    assert completion.text == "long enough"
    assert [record.text for record in completion.logprobs or ()] == list("long enough")


# -- penalties and biases


@given(
    history=st.lists(st.integers(0, 9), min_size=3, max_size=40),
    frequency=st.floats(-2, 2),
    presence=st.floats(-2, 2),
    bias=st.dictionaries(st.integers(0, 9), st.floats(-100, 100), max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_penalties_are_openais(history: list[int], frequency: float, presence: float, bias: dict[int, float]) -> None:
    config = GenerationConfig(frequency_penalty=frequency, presence_penalty=presence, logit_bias=bias)  # type: ignore[arg-type]
    logits, adjust = np.linspace(-3, 3, 10).astype(np.float32), make_adjustment(config, 3)
    for end in range(3, len(history) + 1):
        expected = logits.astype(np.float64)
        for token in range(10):
            times = history[3:end].count(token)
            expected[token] -= frequency * times + presence * (times > 0)
            expected[token] += bias.get(token, 0.0)
        np.testing.assert_allclose(adjust(logits, history[:end]), expected, atol=1e-4)
    np.testing.assert_array_equal(logits, np.linspace(-3, 3, 10).astype(np.float32))


def test_a_bias_bans_and_forces() -> None:
    lm = make_lm(eos=[])
    best = greedy(lm.encode_prompt("x"), 1)[0]
    assert lm.generate("x", max_tokens=1, logit_bias={best: -np.inf}).tokens != (best,)
    assert lm.generate("x", max_tokens=3, logit_bias={7: 1000.0}, temperature=1.0).tokens == (7, 7, 7)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"frequency_penalty": float("nan")}, "frequency_penalty must be a number"),
        ({"presence_penalty": "1"}, "presence_penalty must be a number"),
        ({"logit_bias": 5}, "logit_bias must be a dict"),
        ({"logit_bias": {"a": 1}}, "a token id in logit_bias must be an integer"),
        ({"logit_bias": {-1: 1}}, "a token id in logit_bias must be an integer"),
        ({"logit_bias": {1: float("inf")}}, "logit_bias of token 1 must be a number or -inf"),
        ({"logit_bias": {260: 1}}, "logit_bias: the model has no token 260"),
        ({"logprobs": 1}, "logprobs must be True or False"),
        ({"top_logprobs": 101}, "top_logprobs must be an integer from 0 to 100"),
    ],
)
def test_wrong_values(options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        make_lm().stream("x", **options)


def test_an_option_with_an_unknown_name_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'temprature'"):
        make_lm().stream("x", temprature=None)  # type: ignore[call-arg]


# -- several completions, echo, usage


def test_several_completions_compute_the_prompt_once() -> None:
    engine = FakeEngine(context=200)
    lm = make_lm(engine, eos=[])
    several = lm.generate("hello there", n=3, temperature=1.0, seed=4, max_tokens=5)
    assert [len(c.tokens) for c in several] == [5, 5, 5]
    assert [c.tokens for c in several] == [
        lm.generate("hello there", temperature=1.0, seed=4 + i, max_tokens=5).tokens for i in range(3)
    ]
    assert [c.timings.cached_tokens for c in several] == [0, 11, 11]
    assert len(lm.generate("x", n=1)) == 1
    for bad in (0, -1, True, 1.5, 1025, 10**30, 10**5000):  # Python prints no number of 5,000 digits
        with pytest.raises(OptionError, match="n must be an integer, 1 or more"):
            lm.generate("x", n=bad)  # type: ignore[call-overload]


def test_no_more_completions_after_a_cancelled_one() -> None:
    cancel = threading.Event()
    cancel.set()
    assert [c.finish_reason for c in make_lm().generate("x", n=3, cancel=cancel)] == ["cancelled"]


def test_echo_puts_the_prompt_first() -> None:
    lm = make_lm(scripted("abc"), template=TEMPLATE)
    assert lm.generate("hé", echo=True, max_tokens=9).text == "<u>hé<a>abc"
    assert make_lm(scripted("abc")).generate("hé", echo=True, max_tokens=9).text == "héabc"
    chunks = list(make_lm(scripted("abc")).stream("stop", echo=True, stop="b", max_tokens=9))
    assert text_of(chunks) == "stopa"
    assert chunks[0].tokens == ()


def test_usage_is_in_every_result() -> None:
    lm = make_lm(eos=[])
    completion = lm.generate("hello", max_tokens=4)
    assert completion.usage == Usage(prompt_tokens=6, cached_tokens=0, completion_tokens=4)
    assert completion.usage.to_dict()["total_tokens"] == 10
    chunks = list(lm.stream("hello", max_tokens=4))
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].usage == Usage(6, 5, 4)


# -- token healing


def healing_lm(said: dict[str, float], **options: Any) -> Any:
    """An LM with tokens ``:`` and ``://``, which finds the tokens of `said` that likely."""
    inner = byte_tokenizer()
    inner.add_tokens(["://", ":)"])
    lm = make_lm(FakeEngine(vocab_size=270), tokenizer=Tokenizer(inner, bos=256, add_bos=True), **options)
    ids = {lm.tokenizer.token_to_id(token): likely for token, likely in said.items()}

    def logits(history: Sequence[int]) -> np.ndarray:
        row = np.zeros(270, np.float32)
        for token, likely in ids.items():
            row[token] = likely
        return row

    lm.engine.model.logits = logits
    return lm


def test_token_healing_lets_the_prompts_end_be_the_beginning_of_a_token() -> None:
    lm = healing_lm({"://": 5, "x": 4, ":": 1})
    plain = lm.generate("http:", max_tokens=1)
    assert plain.text == "://"  # behind the colon
    healed = lm.generate("http:", max_tokens=2, token_healing=True, stop="nothing")
    assert healed.text == "//://"
    assert [lm.tokenizer.id_to_token(token) for token in healed.tokens] == ["://", "://"]
    assert healed.usage.prompt_tokens == plain.usage.prompt_tokens - 1
    assert lm.generate("http:", max_tokens=1, token_healing=True, echo=True).text == "http://"
    kept = healing_lm({"x": 9, ":": 5, "://": 4})
    assert kept.generate("http:", max_tokens=2, token_healing=True).text == "x"  # the colon itself was likeliest


def test_token_healing_where_there_is_nothing_to_heal() -> None:
    lm = healing_lm({"://": 5})
    assert lm.generate("a", max_tokens=1, token_healing=True).usage.prompt_tokens == 2
    assert lm.generate("", max_tokens=1, token_healing=True).usage.prompt_tokens == 1
    assert lm.generate("é"[:1], max_tokens=1, token_healing=True).text == "://"


def test_token_healing_excludes_forms_and_templates() -> None:
    with pytest.raises(OptionError, match="token_healing needs raw=True"):
        make_lm(template=TEMPLATE).stream("x", token_healing=True)
    with pytest.raises(OptionError, match="token_healing and constrained decoding exclude each other"):
        make_lm().stream("x", token_healing=True, regex="a")


# -- cancelling and asyncio


def test_cancel_ends_the_generation_under_way_and_no_other() -> None:
    engine = FakeEngine(context=5000)
    engine.before_forward = lambda: time.sleep(0.005)
    lm = make_lm(engine, eos=[])
    lm.cancel()  # there is none
    ended: list[str] = []
    thread = threading.Thread(target=lambda: ended.append(lm.generate("x", max_tokens=4000).finish_reason))
    thread.start()
    while not engine.passes:
        time.sleep(0.001)
    lm.cancel()
    thread.join(timeout=60)
    assert ended == ["cancelled"]
    assert lm.generate("x", max_tokens=3).finish_reason == "length"


def test_async_for_gives_the_same_chunks() -> None:
    async def collect(lm: Any) -> tuple[str, Sequence[int]]:
        chunks = [chunk async for chunk in lm.astream("hello", max_tokens=8)]
        completion = await lm.agenerate("hello", max_tokens=8)
        assert completion.text == text_of(chunks)
        return completion.text, completion.tokens

    lm = make_lm(eos=[])
    plain = lm.generate("hello", max_tokens=8)
    assert asyncio.run(collect(lm)) == (plain.text, plain.tokens)


def test_bad_arguments_of_astream_raise_at_once() -> None:
    with pytest.raises(OptionError, match="top_p"):
        make_lm().astream("x", top_p=2)


@pytest.mark.parametrize("how", ["leave", "cancel"])
def test_leaving_an_async_loop_ends_the_generation_and_frees_the_model(how: str) -> None:
    engine = FakeEngine(context=5000)
    engine.before_forward = lambda: time.sleep(0.002)
    lm = make_lm(engine, eos=[])

    async def read(chunks: Any, most: int) -> None:
        count = 0
        async for _ in chunks:
            count += 1
            if count == most:
                break

    async def main() -> None:
        chunks = lm.astream("x", max_tokens=4000)
        if how == "leave":
            await read(chunks, 2)
            await chunks.aclose()
        else:
            task = asyncio.create_task(read(chunks, 10**6))
            while len(engine.passes) < 3:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        passes = len(engine.passes)
        assert passes < 3000
        assert (await lm.agenerate("x", max_tokens=3)).tokens == tuple(greedy(lm.encode_prompt("x"), 3))

    asyncio.run(main())


def test_the_event_loop_is_free_meanwhile() -> None:
    engine = FakeEngine(context=500)
    engine.before_forward = lambda: time.sleep(0.01)
    lm, ticks = make_lm(engine, eos=[]), 0

    async def main() -> None:
        nonlocal ticks
        task = asyncio.create_task(lm.agenerate("x", max_tokens=20))
        while not task.done():
            ticks += 1
            await asyncio.sleep(0.001)

    asyncio.run(main())
    assert ticks > 5


def test_two_at_once_are_refused() -> None:
    engine = FakeEngine(context=500)
    engine.before_forward = lambda: time.sleep(0.005)
    lm = make_lm(engine, eos=[])

    async def main() -> list[Any]:
        both = (lm.agenerate("x", max_tokens=20), lm.agenerate("y", max_tokens=20))
        return await asyncio.gather(*both, return_exceptions=True)

    first, second = sorted(asyncio.run(main()), key=lambda result: isinstance(result, Exception))
    assert first.finish_reason == "length"
    assert isinstance(second, EdgeLMError)
    assert "busy" in str(second)

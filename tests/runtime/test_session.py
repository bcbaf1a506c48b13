"""Sessions: a KV cache of their own, what they share with the next prompt, and the file it is kept in."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edgelm
from edgelm.bundle.reader import Bundle
from edgelm.errors import EdgeLMError, OptionError, PromptCacheError, PromptError
from edgelm.exporter.pipeline import export
from edgelm.runtime.kv import prompt_cache
from edgelm.runtime.kv.cache import KVSnapshot
from edgelm.runtime.lm import LM, load

LFM2 = {
    "layer_types": ["conv", "full_attention", "conv"],
    "num_hidden_layers": 3,
    "block_auto_adjust_ff_dim": False,
    "norm_eps": 1e-5,
    "max_position_embeddings": 512,
}
RULES = "You are a lamp. Answer in one word, and never in two of them."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module", params=["llama", "lfm2", "optimum"])
def lm(request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path], folder: Path) -> Iterator[LM]:
    """One cache in place, one with convolution states, one that grows by copying."""
    if request.param == "lfm2":
        checkpoint = tiny_checkpoint("lfm2", **LFM2)
    else:
        checkpoint = tiny_checkpoint("llama", max_position_embeddings=512)
    route = "optimum" if request.param == "optimum" else "native"
    bundle = export(checkpoint, "x86-64", "fp32", exporter=route, output=folder / request.param)
    with edgelm.load(bundle.path, threads=1) as lm:
        yield lm


@pytest.fixture(scope="module")
def llama(tiny_checkpoint: Callable[..., Path], folder: Path) -> Bundle:
    return export(tiny_checkpoint(seed=3, max_position_embeddings=512), "x86-64", "fp32", output=folder / "other")


def ask(question: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": RULES}, {"role": "user", "content": question}]


def fresh(lm: LM, prompt: Any, **options: Any) -> tuple[int, ...]:
    return lm.generate(prompt, reuse_cache=False, **{"max_tokens": 12} | options).tokens


def test_only_what_is_new_is_computed_and_the_tokens_are_the_same(lm: LM) -> None:
    session = lm.session()
    first = session.generate(ask("What are you?"), max_tokens=12)
    assert first.timings.cached_tokens == 0
    again = session.generate(ask("What are you?"), max_tokens=12)
    assert again.timings.cached_tokens == again.timings.prompt_tokens - 1
    other = session.generate(ask("What were we?"), max_tokens=12)  # earlier text was changed
    pairs = zip(lm.encode_prompt(ask("What are you?")), lm.encode_prompt(ask("What were we?")), strict=True)
    assert other.timings.cached_tokens == next(i for i, (a, b) in enumerate(pairs) if a != b)
    assert first.tokens == again.tokens == fresh(lm, ask("What are you?"))
    assert other.tokens == fresh(lm, ask("What were we?"))


def test_a_conversation_goes_on_from_the_answer(lm: LM) -> None:
    session, messages = lm.session(), ask("What are you?")
    ids = [*lm.encode_prompt(messages)]
    answer = session.generate(messages, max_tokens=6)
    assert list(session.tokens) == (ids + list(answer.tokens))[: len(session.tokens)]
    messages += [{"role": "assistant", "content": answer.text}, {"role": "user", "content": "More"}]
    assert session.generate(messages, max_tokens=12).tokens == fresh(lm, messages)


def test_sessions_do_not_disturb_each_other(lm: LM) -> None:
    prompts = [ask("one"), ask("two, which is longer"), "no rules at all"]
    sessions = [lm.session() for _ in prompts]
    expected = [fresh(lm, prompt) for prompt in prompts]
    lm.generate("something else", max_tokens=3)
    own = lm.tokens
    for turn in range(3):
        for session, prompt, tokens in zip(sessions, prompts, expected, strict=True):
            completion = session.generate(prompt, max_tokens=12)
            assert completion.tokens == tokens
            assert completion.timings.cached_tokens == (completion.timings.prompt_tokens - 1 if turn else 0)
    assert lm.tokens == own


def test_prefill_computes_and_generates_nothing(lm: LM) -> None:
    session, ids = lm.session(), lm.encode_prompt(ask("x"))
    assert session.prefill(ask("x")) == len(ids)
    assert list(session.tokens) == ids
    assert session.prefill(ask("x")) <= 2
    completion = session.generate(ask("x"), max_tokens=12)
    assert completion.timings.cached_tokens >= len(ids) - 2
    assert completion.tokens == fresh(lm, ask("x"))


@pytest.mark.parametrize("more", [0, 300])
def test_what_is_saved_comes_back(lm: LM, tmp_path: Path, more: int) -> None:
    session = lm.session()
    session.generate(ask("What are you?" * (1 + more // 13)), max_tokens=5)
    held = session.tokens
    session.save(tmp_path / "cache")
    loaded = lm.session()
    loaded.load(tmp_path / "cache")
    assert loaded.tokens == held
    for question in ("What are you?" * (1 + more // 13), "What were you?", "x"):
        prompt = ask(question)
        completion = loaded.generate(prompt, max_tokens=40)
        assert completion.timings.cached_tokens > len(RULES)
        assert completion.tokens == fresh(lm, prompt, max_tokens=40)
    again = lm.session()
    again.load(tmp_path / "cache")  # what was generated since is not in the file
    assert again.tokens == held


def test_the_prompt_alone_can_be_saved(lm: LM, tmp_path: Path) -> None:
    session = lm.session()
    prompt = ask("What are you?")
    count = session.generate(prompt, max_tokens=9).timings.prompt_tokens
    session.save(tmp_path / "cache", tokens=count)
    loaded = lm.session()
    loaded.load(tmp_path / "cache")
    assert list(loaded.tokens) == lm.encode_prompt(prompt)[: len(loaded.tokens)]
    assert len(loaded.tokens) >= count - 1
    with pytest.raises(OptionError, match="cannot save 1000 tokens"):
        session.save(tmp_path / "cache", tokens=1000)


def test_a_loaded_cache_survives_the_next_save_to_its_file(lm: LM, tmp_path: Path) -> None:
    session = lm.session()
    session.prefill(ask("one"))
    session.save(tmp_path / "cache")
    session.load(tmp_path / "cache")
    session.generate(ask("two"), max_tokens=4)
    session.save(tmp_path / "cache")
    assert session.generate(ask("two"), max_tokens=12).tokens == fresh(lm, ask("two"))
    other = lm.session()
    other.load(tmp_path / "cache")
    assert other.generate(ask("two"), max_tokens=12).tokens == fresh(lm, ask("two"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["cache"]


# -- what is wrong with a file


@pytest.fixture(scope="module")
def saved(lm: LM, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "cache"
    session = lm.session()
    session.prefill(ask("What are you?"))
    session.save(path)
    return path.read_bytes()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_found_or_harmless(data: st.DataObject, lm: LM, saved: bytes, tmp_path: Path) -> None:
    content = bytearray(saved)
    if data.draw(st.booleans(), "cut"):
        del content[data.draw(st.integers(0, len(content) - 1), "length") :]
    else:
        near = st.integers(0, 6000) | st.integers(0, len(content) - 1)
        content[data.draw(near, "place")] ^= data.draw(st.integers(1, 255), "change")
    path = tmp_path / "cache"
    path.write_bytes(content)
    session, error = lm.session(), None
    try:
        session.load(path)
    except PromptCacheError as raised:
        error = str(raised)
    if error is None:
        assert session.generate(ask("x"), max_tokens=12).tokens == fresh(lm, ask("x"))
    else:
        assert str(path) in error
        assert "\n" not in error
        assert session.tokens == ()


def test_a_cache_of_another_bundle_is_refused(lm: LM, llama: Bundle, saved: bytes, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(saved)
    with edgelm.load(llama.path, threads=1) as other:
        session = other.session()
        session.generate(ask("x"), max_tokens=2)
        held = session.tokens
        with pytest.raises(PromptCacheError, match="was saved with another bundle") as raised:
            session.load(tmp_path / "cache")
        assert raised.value.stale
        assert session.tokens == held


def _all_renamed(snapshot: KVSnapshot) -> KVSnapshot:
    return replace(snapshot, layers={f"x{name}": array for name, array in snapshot.layers.items()})


def _wider(snapshot: KVSnapshot) -> KVSnapshot:
    return replace(snapshot, layers={n: np.concatenate([a, a], axis=3) for n, a in snapshot.layers.items()})


def _of_other_types(snapshot: KVSnapshot) -> KVSnapshot:
    return replace(snapshot, layers={name: array.astype(np.float64) for name, array in snapshot.layers.items()})


def _with_states(snapshot: KVSnapshot) -> KVSnapshot:
    """Of another model; where it has states itself, they are of other places than the end."""
    own = {place - 1: arrays for place, arrays in snapshot.states.items()}
    return replace(snapshot, states=own or {snapshot.position: {"conv": np.zeros((1, 2), np.float32)}})


@pytest.mark.parametrize("change", [_all_renamed, _wider, _of_other_types, _with_states])
def test_arrays_of_another_model_are_refused_whatever_they_are_tied_to(
    change: Callable[[KVSnapshot], KVSnapshot], lm: LM, tmp_path: Path
) -> None:
    path = tmp_path / "rules.cache"
    with lm.session() as session:
        before = session.generate(RULES, max_tokens=3, temperature=0.0, raw=True).text
        session.save(path)
        ids, snapshot = prompt_cache.read(path, lm.bundle.digest)
        used = {name: array[:, :, : len(ids)] for name, array in snapshot.layers.items()}
        snapshot = replace(snapshot, layers=used)
        prompt_cache.write(path, lm.bundle.digest, ids, change(snapshot), lm.context)
        with pytest.raises(PromptCacheError, match="does not hold what this model keeps of its tokens"):
            session.load(path)
        prompt_cache.write(path, lm.bundle.digest, [10**6] * len(ids), snapshot, lm.context)
        with pytest.raises(PromptCacheError, match="does not hold what this model keeps of its tokens"):
            session.load(path)
        assert session.generate(RULES, max_tokens=3, temperature=0.0, raw=True).text == before


def test_what_is_no_prompt_cache_is_left_alone(lm: LM, tmp_path: Path) -> None:
    path, session = tmp_path / "letter.txt", lm.session()
    path.write_text("dear mother")
    session.prefill(ask("x"))
    with pytest.raises(PromptCacheError, match="is not a prompt cache"):
        session.load(path)
    with pytest.raises(PromptCacheError, match="left alone"):
        session.save(path)
    assert path.read_text() == "dear mother"
    with pytest.raises(PromptCacheError, match="No such file"):
        session.load(tmp_path / "nothing")
    with pytest.raises(PromptCacheError, match="nothing to save"):
        lm.session().save(tmp_path / "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["letter.txt"]


def test_a_failed_write_leaves_the_old_file(lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = lm.session()
    session.prefill(ask("x"))
    session.save(tmp_path / "cache")
    before = (tmp_path / "cache").read_bytes()
    session.prefill(ask("something else"))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PromptCacheError, match="No space left on device"):
        session.save(tmp_path / "cache")
    assert (tmp_path / "cache").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["cache"]


def test_closed(llama: Bundle, tmp_path: Path) -> None:
    lm = edgelm.load(llama.path, threads=1)
    with lm.session() as session:
        session.generate("x", max_tokens=2)
    with pytest.raises(EdgeLMError, match="this session is closed"):
        session.generate("x")
    session = lm.session()
    stream = session.stream("x", max_tokens=5)
    next(stream)
    with pytest.raises(EdgeLMError, match="busy"):
        lm.session().generate("y")
    with pytest.raises(EdgeLMError, match="busy"):
        session.save(tmp_path / "cache")
    stream.close()
    lm.close()
    for use in (lambda: session.generate("x"), lambda: session.prefill("x"), lm.session):
        with pytest.raises(EdgeLMError, match="closed"):
            use()


def test_a_prompt_is_scored_and_stays_in_the_cache(tiny_bundle: Bundle) -> None:
    with load(tiny_bundle.path) as lm, lm.session() as session:
        ids = lm.encode_prompt("Hello, world", raw=True)
        *records, following = session.score(ids, raw=True, top=3)
        assert list(session.tokens) == ids == [record.token for record in records]
        assert math.isnan(records[0].logprob)
        lm.engine.reset()
        logits = lm.engine.forward(ids, len(ids)).astype(np.float64)
        expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        rows = [row[token] for row, token in zip(expected, ids[1:], strict=False)]
        np.testing.assert_allclose([record.logprob for record in records[1:]], rows, atol=1e-4)
        assert following.token == int(logits[-1].argmax()) == following.top[0].token
        assert session.generate(ids, raw=True, max_tokens=1).timings.cached_tokens == len(ids) - 1
        assert session.score("Hello", raw=True)[1].top == ()


def test_a_prompt_may_be_ids(tiny_bundle: Bundle) -> None:
    with load(tiny_bundle.path) as lm:
        ids = lm.encode_prompt("Hello", raw=True)
        assert lm.encode_prompt(ids, raw=True) == ids
        assert lm.generate(ids, raw=True, max_tokens=4).tokens == lm.generate("Hello", raw=True, max_tokens=4).tokens
        assert lm.generate([1, *ids], raw=True, max_tokens=1, echo=True).text.startswith("<s>Hello")
        for wrong in ([], [-1], [1.0], [True], [{"role": "user", "content": "x"}], [10**9]):
            with pytest.raises(PromptError):
                lm.encode_prompt(wrong, raw=True)

"""LM: prompts to text, checked arguments, cached prefixes, and a lock."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tokenizers
from fake_engine import FakeEngine, greedy, logits_of
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import manifest
from tokenizers import decoders, models, pre_tokenizers

import edgelm.runtime.lm as lm_module
from edgelm.errors import BundleError, EdgeLMError, OptionError, PromptError, TemplateError
from edgelm.runtime.lm import LM, Chunk, Completion, Timings, load
from edgelm.runtime.ort.options import LoadOptions
from edgelm.runtime.sample.config import GenerationConfig
from edgelm.runtime.text.chat import ChatTemplate
from edgelm.runtime.text.tokenizer import Tokenizer

TEMPLATE = (
    "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)
BOS, EOS, VOCAB = 256, 257, 260


def byte_tokenizer() -> tokenizers.Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = tokenizers.Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<s>", "</s>"])
    return inner


TOKENIZER = Tokenizer(byte_tokenizer(), bos=BOS, add_bos=True)


EXACT = {role: {"op": "MatMul", "bits": 32} for role in ("body", "head")}  # whose passes agree, as the fake engine's do


def make_lm(
    engine: FakeEngine | None = None,
    *,
    template: str | None = None,
    eos: Sequence[int] = (EOS,),
    bos: int | None = BOS,
    config: GenerationConfig | None = None,
    tokenizer: Tokenizer | None = None,
    draft: Any = None,
) -> LM:
    bundle: Any = SimpleNamespace(
        expect_generator=lambda: None,
        answer_grammar=None,
        manifest=manifest(special_tokens={"bos": bos, "eos": list(eos), "pad": None}, recipe=EXACT),
    )
    return LM(
        engine or FakeEngine(),  # type: ignore[arg-type]
        tokenizer or Tokenizer(byte_tokenizer(), bos=bos, add_bos=bos is not None),
        bundle,
        None if template is None else ChatTemplate(template),
        config or GenerationConfig(max_tokens=8),
        draft,
    )


def scripted(text: str, *, ends: bool = True, context: int = 1000) -> FakeEngine:
    """An engine that says `text` whatever the prompt, then EOS for ever (or the last letter again)."""
    script = TOKENIZER.encode(text, special=False)
    engine = FakeEngine(context=context)
    state = {"prompt": 0}

    def logits(ids: Sequence[int]) -> np.ndarray:
        if (engine.passes and engine.passes[-1] > 1) or len(ids) < state["prompt"] or not state["prompt"]:
            state["prompt"] = len(ids)
        said = len(ids) - state["prompt"]
        row = np.zeros(VOCAB, np.float32)
        row[script[said] if said < len(script) else EOS if ends else script[-1]] = 9
        return row

    engine.model.logits = logits
    return engine


def text_of(chunks: Sequence[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


# -- prompts


def test_a_str_is_the_users_message_where_there_is_a_template() -> None:
    lm = make_lm(template=TEMPLATE)
    assert TOKENIZER.decode(lm.encode_prompt("hé")) == "<u>hé<a>"
    assert lm.encode_prompt("hé") == lm.encode_prompt([{"role": "user", "content": "hé"}])
    assert BOS not in lm.encode_prompt("hé")  # a template writes BOS itself where the model wants it


def test_a_template_may_write_bos() -> None:
    assert make_lm(template="<s>" + TEMPLATE).encode_prompt("a").count(BOS) == 1


def test_raw_and_models_without_a_template_take_a_str_as_it_is() -> None:
    expected = [BOS, *TOKENIZER.encode("hé", special=False)]
    assert make_lm(template=TEMPLATE).encode_prompt("hé", raw=True) == expected
    assert make_lm().encode_prompt("hé") == expected


def test_an_empty_prompt_is_bos_alone_or_an_error() -> None:
    assert make_lm().encode_prompt("") == [BOS]
    with pytest.raises(PromptError, match="the prompt is empty and this model has no BOS token"):
        make_lm(bos=None).encode_prompt("")
    with pytest.raises(PromptError, match="makes an empty prompt"):
        make_lm(template="{{ '' }}").encode_prompt("x")


def test_messages_need_a_template_and_no_raw() -> None:
    messages = [{"role": "user", "content": "x"}]
    with pytest.raises(PromptError, match="no chat template") as error:
        make_lm().encode_prompt(messages)
    assert "str" in str(error.value.hint)
    with pytest.raises(PromptError, match="raw needs a str prompt"):
        make_lm(template=TEMPLATE).encode_prompt(messages, raw=True)
    with pytest.raises(PromptError, match="message 0 needs a role"):
        make_lm(template=TEMPLATE).encode_prompt([{"content": "x"}])


def test_a_prompt_longer_than_the_context_gives_both_figures() -> None:
    lm = make_lm(FakeEngine(context=10))
    assert len(lm.encode_prompt("x" * 9)) == 10
    with pytest.raises(PromptError, match="the prompt has 11 tokens, this bundle's context is 10") as error:
        lm.stream("x" * 10)
    assert "--context" in str(error.value.hint)


def test_ids_the_model_does_not_know_are_an_error() -> None:
    with pytest.raises(PromptError, match="the model knows 100 tokens"):
        make_lm(FakeEngine(vocab_size=100)).encode_prompt("x")


# -- arguments


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"max_tokens": 0}, OptionError, "max_tokens"),
        ({"temperature": -1}, OptionError, "temperature"),
        ({"top_k": -1}, OptionError, "top_k"),
        ({"top_p": 2}, OptionError, "top_p"),
        ({"min_p": 2}, OptionError, "min_p"),
        ({"repetition_penalty": 0}, OptionError, "repetition_penalty"),
        ({"seed": -1}, OptionError, "seed"),
        ({"stop": ""}, OptionError, "stop"),
        ({"deadline": 0}, OptionError, "deadline must be a number of seconds above 0, not 0"),
        ({"deadline": float("nan")}, OptionError, "deadline"),
        ({"deadline": "soon"}, OptionError, "deadline"),
        ({"deadline": True}, OptionError, "deadline"),
        ({"cancel": True}, OptionError, "cancel must be a threading.Event or have is_set"),
        ({"prompt": "\ud800"}, PromptError, "lone surrogate"),
        ({"prompt": 5}, PromptError, "messages must be a list of dicts, not int"),
    ],
)
def test_bad_arguments_raise_before_the_first_chunk(options: dict[str, Any], error: type, says: str) -> None:
    engine = FakeEngine()
    lm = make_lm(engine, template=TEMPLATE)
    with pytest.raises(error, match=says):
        lm.stream(**({"prompt": "x"} | options))
    assert engine.passes == []


def test_options_left_out_are_those_of_the_model() -> None:
    config = GenerationConfig(max_tokens=4, temperature=1.0, seed=5)
    lm = make_lm(config=config, eos=[])
    assert len(lm.generate("x").tokens) == 4
    sampled = lm.generate("x", reuse_cache=False).tokens
    assert sampled == lm.generate("x", reuse_cache=False).tokens
    assert lm.generate("x", temperature=0.0).tokens == tuple(greedy(lm.encode_prompt("x"), 4))
    assert lm.generate("x", max_tokens=6).tokens[:4] == sampled


# -- text


def test_stream_and_generate_agree_with_the_reference() -> None:
    lm = make_lm(eos=[])
    expected = greedy(lm.encode_prompt("hello"), 8)
    completion = lm.generate("hello")
    assert isinstance(completion, Completion)
    assert completion.tokens == tuple(expected)
    assert completion.text == TOKENIZER.decode(expected)
    assert completion.finish_reason == "length"
    chunks = list(lm.stream("hello"))
    assert text_of(chunks) == completion.text
    assert tuple(token for chunk in chunks for token in chunk.tokens) == completion.tokens
    assert [chunk.finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert [chunk.timings is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert all(chunk.text for chunk in chunks[:-1])


def test_characters_come_whole_and_eos_is_no_text() -> None:
    chunks = list(make_lm(scripted("a😀é")).stream("x", max_tokens=50))
    assert [chunk.text for chunk in chunks] == ["a", "😀", "é", ""]
    assert [len(chunk.tokens) for chunk in chunks] == [1, 4, 2, 0]
    assert chunks[-1].finish_reason == "stop"


def test_a_character_cut_off_by_the_limit_is_shown_as_decode_shows_it() -> None:
    completion = make_lm(scripted("a😀")).generate("x", max_tokens=3)
    assert completion.text == TOKENIZER.decode(completion.tokens) == "a�"
    assert completion.finish_reason == "length"


@pytest.mark.parametrize("stop", ["END", ["nope", "END"], ["D", "END"]])
def test_a_stop_string_ends_the_text_and_costs_no_further_pass(stop: Any) -> None:
    engine = scripted("one END two")
    chunks = list(make_lm(engine).stream("x", max_tokens=50, stop=stop))
    assert text_of(chunks) == "one "
    assert chunks[-1].finish_reason == "stop"
    assert not any("E" in chunk.text for chunk in chunks)
    assert sum(len(chunk.tokens) for chunk in chunks) == len("one END")
    assert len(engine.passes) == len("one END")  # one for the prompt, one for each letter but the last


def test_what_was_held_back_for_a_stop_string_comes_at_the_end() -> None:
    completion = make_lm(scripted("one EN")).generate("x", max_tokens=50, stop="END")
    assert (completion.text, completion.finish_reason) == ("one EN", "stop")
    assert make_lm(scripted("one EN")).generate("x", max_tokens=6, stop="END").finish_reason == "length"


def test_a_full_context_is_a_length_stop() -> None:
    completion = make_lm(FakeEngine(context=10), eos=[]).generate("abcd", max_tokens=100)
    assert completion.finish_reason == "length"
    assert completion.tokens == tuple(greedy([BOS, *TOKENIZER.encode("abcd", special=False)], 6))


# -- being stopped


def test_cancel_ends_with_what_there_is() -> None:
    lm, cancel = make_lm(eos=[]), threading.Event()
    chunks = []
    for chunk in lm.stream("x", max_tokens=50, cancel=cancel):
        chunks.append(chunk)
        if len(chunks) == 2:
            cancel.set()
    assert chunks[-1].finish_reason == "cancelled"
    tokens = [token for chunk in chunks for token in chunk.tokens]
    assert tokens == greedy(lm.encode_prompt("x"), len(tokens))
    assert len(tokens) < 50
    assert lm.generate("x", cancel=cancel) == lm.generate("x", cancel=cancel)
    assert lm.generate("x", cancel=cancel).tokens == ()


def test_a_deadline_is_kept_also_during_a_long_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine(context=5000)
    engine.before_forward = lambda: time.sleep(0.03)
    lm = make_lm(engine, eos=[])
    completion = lm.generate("x", max_tokens=1000, deadline=0.2)
    assert completion.finish_reason == "deadline"
    assert 1 <= len(completion.tokens) <= 7
    completion = lm.generate("y" * 4000, deadline=0.05)  # 8 passes of prefill
    assert completion.finish_reason == "deadline"
    assert completion.tokens == ()
    assert completion.timings.ttft_seconds is None
    assert completion.timings.prefill_tokens_per_second is None
    assert lm.generate("y", max_tokens=3).tokens == tuple(greedy(lm.encode_prompt("y"), 3))


def test_closing_a_stream_early_leaves_the_lm_usable() -> None:
    lm = make_lm(eos=[])
    stream = lm.stream("hello", max_tokens=50)
    next(stream)
    stream.close()
    assert lm.generate("hello").tokens == tuple(greedy(lm.encode_prompt("hello"), 8))
    for _ in lm.stream("other"):
        break
    assert lm.generate("hello").tokens == tuple(greedy(lm.encode_prompt("hello"), 8))


def test_a_second_stream_is_refused_while_one_is_under_way() -> None:
    lm = make_lm(eos=[])
    first, second = lm.stream("a"), lm.stream("b")  # not begun: neither holds the model
    head = next(first)
    with pytest.raises(EdgeLMError, match="busy"):
        next(second)
    with pytest.raises(EdgeLMError, match="busy"):
        lm.generate("c")
    tokens = [*head.tokens, *(token for chunk in first for token in chunk.tokens)]
    assert tokens == greedy(lm.encode_prompt("a"), 8)
    assert lm.generate("c").tokens == tuple(greedy(lm.encode_prompt("c"), 8))


def test_a_caller_who_stops_at_the_finish_reason_has_freed_the_model() -> None:
    lm = make_lm(eos=[])
    stream = lm.stream("a")
    while next(stream).finish_reason is None:
        pass
    assert lm.generate("b").finish_reason == "length"


def test_of_many_threads_one_runs_and_the_others_hear_why() -> None:
    engine = FakeEngine()
    engine.before_forward = lambda: time.sleep(0.01)
    lm = make_lm(engine, eos=[])
    outcomes: list[str] = []

    def work() -> None:
        try:
            outcomes.append(lm.generate("x").finish_reason)
        except EdgeLMError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("length") >= 1
    assert all(outcome == "length" or "busy" in outcome for outcome in outcomes)


def test_an_error_in_a_pass_resets_the_engine() -> None:
    engine = FakeEngine()
    lm = make_lm(engine, eos=[])

    def fail() -> None:
        if len(engine.passes) == 3:
            raise EdgeLMError("out of memory")

    engine.before_forward = fail
    with pytest.raises(EdgeLMError, match="out of memory"):
        lm.generate("hello")
    assert engine.position == 0
    engine.before_forward = lambda: None
    assert lm.generate("hello").tokens == tuple(greedy(lm.encode_prompt("hello"), 8))


def test_close_and_with() -> None:
    engine = FakeEngine()
    with make_lm(engine) as lm:
        waiting = lm.stream("x")
    lm.close()
    assert engine.closed == 1
    with pytest.raises(EdgeLMError, match="closed"):
        lm.stream("x")
    with pytest.raises(EdgeLMError, match="closed"):
        next(waiting)


def test_closing_while_a_stream_is_under_way_ends_it_first() -> None:
    engine = FakeEngine()
    lm = make_lm(engine, eos=[])
    stream = lm.stream("x", max_tokens=50)
    next(stream)
    lm.close()
    assert engine.closed == 0
    assert list(stream)[-1].finish_reason == "cancelled"
    assert engine.closed == 1


# -- the cache


def test_a_conversation_computes_only_what_is_new() -> None:
    engine = FakeEngine(context=500)
    lm = make_lm(engine, template=TEMPLATE, eos=[])
    messages = [{"role": "user", "content": "tell me a long story"}]
    prompt = lm.encode_prompt(messages)
    first = lm.generate(messages)
    assert first.timings.cached_tokens == 0
    engine.passes.clear()
    again = lm.generate(messages)  # all but the last token of the prompt is there
    assert again.tokens == first.tokens
    assert engine.passes[0] == 1
    assert again.timings.cached_tokens == len(prompt) - 1
    engine.passes.clear()
    fresh = lm.generate(messages, reuse_cache=False)
    assert fresh.tokens == first.tokens
    assert engine.passes[0] == len(prompt)
    assert fresh.timings.cached_tokens == 0


def test_the_models_own_answer_is_reused() -> None:
    engine = scripted("abc", context=500)
    lm = make_lm(engine, template=TEMPLATE)
    messages = [{"role": "user", "content": "tell me"}]
    answer = lm.generate(messages)
    messages += [{"role": "assistant", "content": answer.text}, {"role": "user", "content": "more"}]
    engine.passes.clear()
    completion = lm.generate(messages)
    reused = len(TOKENIZER.encode("<u>tell me<a>abc", special=False))
    assert answer.text == "abc"
    assert completion.timings.cached_tokens == reused
    assert engine.passes[0] == completion.timings.prompt_tokens - reused


@given(
    prompts=st.lists(
        st.tuples(st.text("ab", max_size=12), st.integers(1, 6), st.integers(0, 3)), min_size=1, max_size=6
    )
)
@settings(deadline=None, max_examples=60)
def test_whatever_ran_before_the_tokens_are_the_same(prompts: list[tuple[str, int, int]]) -> None:
    lm = make_lm(eos=[])
    for prompt, count, leave_after in prompts:
        expected = greedy(lm.encode_prompt(prompt), count)
        if leave_after:
            stream = lm.stream(prompt, max_tokens=count)
            for _ in range(leave_after):
                next(stream, None)
            stream.close()
        else:
            assert lm.generate(prompt, max_tokens=count).tokens == tuple(expected)


def test_an_engine_used_from_outside_is_noticed() -> None:
    engine = FakeEngine()
    lm = make_lm(engine, eos=[])
    lm.generate("hello")
    engine.rewind(2)
    engine.forward([1, 2, 3])
    assert lm.generate("hello").tokens == tuple(greedy(lm.encode_prompt("hello"), 8))


# -- timings


def test_timings_leave_out_the_caller_and_the_first_token(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"now": 0.0}
    monkeypatch.setattr(time, "perf_counter", lambda: clock["now"])
    engine = FakeEngine()

    def advance() -> None:
        clock["now"] += 2.0 if not engine.passes else 0.5

    engine.before_forward = advance
    lm = make_lm(engine, eos=[])
    last = None
    for chunk in lm.stream("hello", max_tokens=5):
        last = chunk
        clock["now"] += 100  # a slow reader
    assert last is not None
    assert last.timings == Timings(6, 0, 5, 2.0, 2.0, 2.0)
    assert last.timings.prefill_tokens_per_second == 3.0
    assert last.timings.decode_tokens_per_second == 2.0  # 4 tokens in 2 seconds
    assert last.timings.to_dict() == {
        "prompt_tokens": 6,
        "cached_tokens": 0,
        "completion_tokens": 5,
        "ttft_seconds": 2.0,
        "prefill_seconds": 2.0,
        "decode_seconds": 2.0,
        "drafted_tokens": 0,
        "accepted_tokens": 0,
        "prefill_tokens_per_second": 3.0,
        "decode_tokens_per_second": 2.0,
    }
    json.dumps(last.timings.to_dict())


def test_the_pass_that_finds_eos_is_not_counted_as_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"now": 0.0}
    monkeypatch.setattr(time, "perf_counter", lambda: clock["now"])
    engine = scripted("abc")

    def advance() -> None:
        clock["now"] += 1.0

    engine.before_forward = advance
    timings = make_lm(engine).generate("hello", max_tokens=50).timings
    assert (timings.completion_tokens, timings.decode_seconds, timings.decode_tokens_per_second) == (3, 2.0, 1.0)


def test_one_token_has_no_decode_rate() -> None:
    assert make_lm(eos=[]).generate("x", max_tokens=1).timings.decode_tokens_per_second is None


# -- load


@pytest.fixture
def bundle_folder(tmp_path: Path) -> Callable[..., Path]:
    """A folder with all that `load` reads but the graph."""

    def make(*, template: str | None = TEMPLATE, generation: dict[str, Any] | None = None) -> Path:
        from edgelm.bundle.reader import GENERATION, MODEL, TEMPLATE, TOKENIZER
        from edgelm.bundle.writer import writing

        with writing(tmp_path / "bundle") as writer:
            byte_tokenizer().save(str(writer.path(TOKENIZER)))
            writer.write_text(MODEL, "")
            if template is not None:
                writer.write_text(TEMPLATE, template)
            if generation is not None:
                writer.write_json(GENERATION, generation)
            return writer.commit(manifest(special_tokens={"bos": BOS, "eos": [EOS], "pad": None})).path

    return make


@pytest.fixture
def engine_of_load(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    from edgelm.runtime import engine as engine_module
    from edgelm.runtime.model import LoadedModel

    engine = FakeEngine()

    def fake_load(bundle: Any, options: LoadOptions) -> FakeEngine:
        engine.threads = options.threads  # type: ignore[attr-defined]
        return engine

    monkeypatch.setattr(LoadedModel, "load", fake_load)
    monkeypatch.setattr(engine_module, "Engine", lambda model: model)
    return engine


def test_load_puts_the_parts_together(bundle_folder: Callable[..., Path], engine_of_load: FakeEngine) -> None:
    generation = {"do_sample": True, "temperature": 0.6, "top_p": 0.9}
    folder = bundle_folder(template="{{ bos_token }}" + TEMPLATE, generation=generation)
    with load(folder, threads=3) as lm:
        assert lm.config == GenerationConfig(temperature=0.6, top_p=0.9, top_k=50)
        assert engine_of_load.threads == 3  # type: ignore[attr-defined]
        assert lm.encode_prompt("hi") == [BOS, *TOKENIZER.encode("<u>hi<a>", special=False)]
        assert lm.encode_prompt("hi", raw=True) == [BOS, *TOKENIZER.encode("hi", special=False)]
        assert lm.generate("hi", temperature=0.0, max_tokens=3).tokens == tuple(greedy(lm.encode_prompt("hi"), 3))
        assert lm.context == 64
    assert engine_of_load.closed == 1


def test_load_without_template_and_generation_config(
    bundle_folder: Callable[..., Path], engine_of_load: FakeEngine
) -> None:
    lm = load(bundle_folder(template=None))
    assert lm.template is None
    assert lm.config == GenerationConfig()


def test_load_says_what_is_wrong(bundle_folder: Callable[..., Path], engine_of_load: FakeEngine) -> None:
    with pytest.raises(BundleError, match=r"generation_config.json: top_p"):
        load(bundle_folder(generation={"do_sample": True, "top_p": 7}))


def test_the_tokenizer_is_loaded_after_the_engine_whose_packing_takes_more(
    bundle_folder: Callable[..., Path], engine_of_load: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgelm.runtime.model import LoadedModel

    order: list[str] = []
    engine, tokenizer = LoadedModel.load, lm_module.text_tools
    monkeypatch.setattr(LoadedModel, "load", lambda *given: (order.append("engine"), engine(*given))[1])
    monkeypatch.setattr(lm_module, "text_tools", lambda bundle: (order.append("tokenizer"), tokenizer(bundle))[1])
    load(bundle_folder())
    assert order == ["engine", "tokenizer"]


def test_a_tokenizer_that_cannot_be_used_leaves_no_engine_open(
    bundle_folder: Callable[..., Path], engine_of_load: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(bundle: Any) -> None:
        raise BundleError("no tokenizer")

    monkeypatch.setattr(lm_module, "text_tools", refused)
    with pytest.raises(BundleError, match="no tokenizer"):
        load(bundle_folder())
    assert engine_of_load.closed == 1


def test_a_bad_template_is_met_when_it_is_used(bundle_folder: Callable[..., Path], engine_of_load: FakeEngine) -> None:
    lm = load(bundle_folder(template="{% bad %}"))
    assert lm.generate("x", raw=True, max_tokens=1).finish_reason == "length"
    with pytest.raises(TemplateError, match="line 1"):
        lm.stream("x")


def test_the_public_names_are_there() -> None:
    assert set(lm_module.__all__) == {"LM", "Chunk", "Completion", "Timings", "load"}
    assert logits_of([1]).shape == (VOCAB,)

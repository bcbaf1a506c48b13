"""Structured output: whatever the model would say, the text has the form."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_engine import FakeEngine, logits_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_lm import TEMPLATE, make_lm
from test_speculation import Free

from edgelm.errors import DependencyError, EdgeLMError, OptionError
from edgelm.runtime.loop.structured import Grammars
from edgelm.runtime.text.tokenizer import Tokenizer

pytest.importorskip("llguidance")

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "mood": {"enum": ["good", "bad", "indifferent"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["name", "age", "mood"],
    "additionalProperties": False,
}


def check_person(text: str) -> None:
    person = json.loads(text)
    assert {"name", "age", "mood"} <= set(person) <= set(PERSON["properties"])
    assert len(person["name"]) <= 8
    assert isinstance(person["age"], int)
    assert 0 <= person["age"] <= 150
    assert person["mood"] in ("good", "bad", "indifferent")
    assert all(isinstance(tag, bool) for tag in person.get("tags", []))


def lm_of(**options: Any) -> Any:
    return make_lm(FakeEngine(context=2000, **options), template=TEMPLATE)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(4))
def test_json_keeps_to_the_schema(seed: int, temperature: float) -> None:
    options = {"temperature": temperature, "seed": seed, "max_tokens": 1500}
    lm = lm_of()
    completion = lm.generate(f"who? {seed}", json_schema=PERSON, **options)
    assert completion.finish_reason == "stop"
    check_person(completion.text)
    assert lm.generate(f"who? {seed}", json_schema=json.dumps(PERSON), **options).text == completion.text


@given(
    prompt=st.text("abc", max_size=5),
    sampling=st.fixed_dictionaries(
        {
            "temperature": st.sampled_from([0.0, 0.7, 2.0]),
            "top_k": st.integers(0, 5),
            "top_p": st.floats(0.1, 1),
            "min_p": st.floats(0, 1),
            "repetition_penalty": st.floats(0.8, 1.5),
        }
    ),
    speculate=st.sampled_from(["auto", "off"]),
    max_tokens=st.integers(1, 60),
    context=st.integers(12, 70),
)
@settings(max_examples=60, deadline=None)
def test_every_text_is_the_beginning_of_one_that_has_the_form(
    prompt: str, sampling: dict[str, Any], speculate: str, max_tokens: int, context: int
) -> None:
    lm = make_lm(FakeEngine(context=context))
    lm._scheduler.cost = Free()
    form = r"(ab|cd){3,20};[0-9]{4}"
    chunks = list(lm.stream(prompt, regex=form, speculate=speculate, max_tokens=max_tokens, **sampling))
    text = "".join(chunk.text for chunk in chunks)
    tokens = [token for chunk in chunks for token in chunk.tokens]
    assert lm.tokenizer.decode(tokens) == text
    assert len(tokens) <= max_tokens
    if chunks[-1].finish_reason == "stop":
        assert re.fullmatch(form, text)
    else:
        assert chunks[-1].finish_reason == "length"
        assert len(tokens) == max_tokens or len(lm.encode_prompt(prompt)) + len(tokens) == context + 1
        assert re.fullmatch(r"(ab|cd)*(a|c)?|(ab|cd){3,20};[0-9]{0,3}", text)


@pytest.mark.parametrize("choice", [["yes", "no"], ['say "é"\n', "C:\\x", "😀"], ["a", "ab", "abc"], ("only",)])
def test_a_choice_is_one_of_them(choice: Sequence[str]) -> None:
    lm = lm_of()
    found = {lm.generate("?", choice=choice, temperature=5.0, max_tokens=40).text for _ in range(25)}
    assert found <= set(choice)
    assert len(found) >= min(2, len(choice))


def test_what_must_come_is_read_together_and_not_sampled() -> None:
    engine = FakeEngine(context=500)
    lm = make_lm(engine)
    completion = lm.generate("x", choice=["a long text without an alternative"], max_tokens=100)
    assert completion.text == "a long text without an alternative"
    assert completion.timings.completion_tokens == len(completion.text)
    assert engine.passes == [2]  # the prompt's, and none after it
    completion = lm.generate("x", regex="(ab|cd) and then (ef|gh)", max_tokens=100)
    assert len(engine.passes) < 8
    assert re.fullmatch("(ab|cd) and then (ef|gh)", completion.text)


def test_it_is_the_models_choice_within_the_form() -> None:
    engine = FakeEngine(context=500)
    lm = make_lm(engine)
    best = max(
        "abc",
        key=lambda c: logits_of([*lm.encode_prompt("x"), *lm.tokenizer.encode(c, special=False)][:-1])[
            lm.tokenizer.encode(c, special=False)[0]
        ],
    )
    assert lm.generate("x", choice=["a", "b", "c"]).text == best


def test_stop_strings_still_stop_and_limits_still_limit() -> None:
    lm = lm_of()
    stopped = lm.generate("x", choice=["one END two"], stop="END", max_tokens=100)
    assert (stopped.text, stopped.finish_reason) == ("one ", "stop")
    short = lm.generate("x", choice=["one END two"], max_tokens=5)
    assert (short.text, short.finish_reason) == ("one E", "length")
    exact = lm.generate("x", choice=["one END two"], max_tokens=11)
    assert (exact.text, exact.finish_reason) == ("one END two", "stop")


def test_the_end_is_the_models_where_the_form_leaves_it_open() -> None:
    def eager(ids: Sequence[int]) -> np.ndarray:
        row = np.zeros(260, np.float32)
        row[257] = 9
        return row

    completion = make_lm(FakeEngine(logits=eager)).generate("x", regex="[ab]+", max_tokens=50)
    assert (len(completion.text), completion.finish_reason) == (1, "stop")


def test_a_model_whose_logits_are_padded() -> None:
    lm = make_lm(FakeEngine(vocab_size=329, logits=lambda ids: np.arange(329, dtype=np.float32)), eos=[])
    assert lm.generate("x", choice=["yes", "no"]).text in ("yes", "no")


@pytest.mark.parametrize("name", ["smollm2", "gpt-neox-20b-pythia", "phi3"])
def test_real_tokenizers(data_dir: Path, name: str) -> None:
    tokenizer = Tokenizer.open(data_dir / "tokenizers" / name / "tokenizer.json")
    size = tokenizer.vocab_size
    for temperature, seed in ((0.0, 0), (1.0, 1), (1.0, 2)):
        grammar = Grammars(tokenizer, [0], size).grammar(json_schema=PERSON)
        random, ids = np.random.default_rng(seed), list[int]()
        while not grammar.finished and len(ids) < 300:
            scores = grammar.mask(random.standard_normal(size).astype(np.float32) * (1 + temperature))
            token = int(scores.argmax())
            ids += grammar.follow(token)
        check_person(tokenizer.decode(ids).strip())


# -- errors


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"json_schema": "{"}, "json_schema is not valid JSON"),
        ({"json_schema": [1]}, "json_schema must be a JSON schema, an object, not list"),
        ({"json_schema": "3"}, "json_schema must be a JSON schema, an object, not int"),
        ({"json_schema": {"type": "strin"}}, "json_schema cannot be used: .*strin"),
        ({"json_schema": {"type": "array", "uniqueItems": True}}, "cannot be used: .*uniqueItems"),
        ({"json_schema": {"not": {"type": "string"}}}, "cannot be used: .*not"),
        ({"json_schema": False}, "cannot be used"),
        ({"json_schema": {"$ref": "#/nowhere"}}, "cannot be used: .*nowhere"),
        ({"json_schema": {"propertes": {}}}, "unknown word 'propertes' at /"),
        ({"json_schema": {"items": {"anyOf": [{"minlength": 3}]}}}, "unknown word 'minlength' at /items/anyOf/0"),
        ({"json_schema": {"const": {1, 2}}}, "not valid JSON"),
        ({"regex": "("}, "regex cannot be used"),
        ({"regex": "(?=a)b"}, "regex cannot be used: .*look"),
        ({"regex": 5}, "regex must be a str, not int"),
        ({"choice": []}, "choice must be one or more strings"),
        ({"choice": "yes"}, "choice must be one or more strings"),
        ({"choice": ["a", ""]}, "choice must be one or more strings"),
        ({"choice": ["a"], "regex": "b"}, "regex and choice exclude each other"),
        ({"json_schema": True, "regex": "b"}, "json_schema and regex exclude each other"),
    ],
)
def test_what_cannot_be_kept_to_is_an_error_before_any_work(options: dict[str, Any], says: str) -> None:
    engine = FakeEngine()
    with pytest.raises(OptionError, match=says) as raised:
        make_lm(engine).stream("x", **options)
    assert "\n" not in str(raised.value)
    assert engine.passes == []


def test_words_that_are_names_or_annotations_are_no_mistakes() -> None:
    schema = {
        "title": "t",
        "x-mine": 1,
        "color": "blue",
        "type": "object",
        "properties": {"propertes": {"const": 1}, "enums": {"const": 2, "description": "d"}},
        "required": ["propertes", "enums"],
        "additionalProperties": False,
    }
    assert json.loads(lm_of().generate("x", json_schema=schema, max_tokens=300).text) == {"propertes": 1, "enums": 2}


def test_without_the_extra_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(DependencyError, match="regex needs llguidance") as raised:
        make_lm().stream("x", regex="a")
    assert raised.value.hint == "install it with: pip install 'edgelm[structured]'"


def test_a_matcher_that_fails_is_an_error_and_not_a_wrong_text() -> None:
    lm = lm_of()
    grammar = Grammars(lm.tokenizer, [257], 260).grammar(choice=["a"])
    with pytest.raises(EdgeLMError, match="constrained decoding failed"):
        grammar.follow(lm.tokenizer.encode("b", special=False)[0])
    with pytest.raises(EdgeLMError, match="constrained decoding failed"):
        grammar.mask(np.zeros(260, np.float32))


@pytest.mark.parametrize("eos", [[257, 5000], [5000], []])
def test_ends_that_the_tokenizer_does_not_know(eos: list[int]) -> None:
    lm = lm_of()
    grammar = Grammars(lm.tokenizer, eos, 6000).grammar(choice=["a"])
    allowed = np.flatnonzero(np.isfinite(grammar.mask(np.zeros(6000, np.float32))))
    assert allowed.tolist() == lm.tokenizer.encode("a", special=False)


def test_a_tokenizer_that_cannot_be_used() -> None:
    class Other:
        vocab_size = 3

        def to_json(self) -> str:
            return "{}"

    with pytest.raises(EdgeLMError, match="choice cannot be used with this tokenizer: "):
        Grammars(Other(), [], 3).grammar(choice=["a"])  # type: ignore[arg-type]


def test_the_lm_runs_on_afterwards(tiny_bundle: Any) -> None:
    import edgelm

    with edgelm.load(tiny_bundle.path, threads=1) as lm:
        plain = lm.generate("x", max_tokens=12)
        kept = lm.generate("x", regex="[a-z]{3}-[0-9]{4}")
        assert re.fullmatch("[a-z]{3}-[0-9]{4}", kept.text)
        assert lm.generate("x", max_tokens=12).tokens == plain.tokens
        session = lm.session()
        assert session.generate("x", choice=["left", "right"]).text in ("left", "right")


UNKNOWN: dict[str, dict[str, Any]] = {
    "readonly": {"type": "integer", "readonly": True},
    "$default": {"type": "integer", "$default": 3},
    "x-order": {"type": "integer", "x-order": 1, "x-enum": ["a"]},
    "enumNames": {"type": "integer", "enumNames": ["one"], "propertyOrder": 3},
    "optional": {"type": "integer", "optional": True, "example": 3, "deprecatd": True},
    "$definitions": {"type": "integer", "$definitions": {"a": {}}, "definition": "b", "titel": "t"},
    "openapi": {"type": "integer", "format": "int32", "discriminator": {"propertyName": "a"}, "nullable": False},
    "marked": {
        "type": "integer",
        "@type": "a",
        "_type": "b",
        "$type": "c",
        "ui:format": "d",
        "9items": 1,
        "tsType": "e",
    },
    "below": {"anyOf": [{"type": "integer", "readonly": True, "descriptions": "d"}]},
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_unknown_words_are_ignored(case: str) -> None:
    assert isinstance(json.loads(lm_of().generate("x", json_schema=UNKNOWN[case], max_tokens=300).text), int)


@pytest.mark.parametrize("word", ["password", "byte", "binary", "phone", "color"])
def test_formats_that_the_standard_does_not_know_say_nothing(word: str) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "format": word, "enum": ["b"]}, "format": {"const": 1}},
        "required": ["a", "format"],
        "additionalProperties": False,
    }
    assert json.loads(lm_of().generate("x", json_schema=schema, max_tokens=300).text) == {"a": "b", "format": 1}


@pytest.mark.parametrize(
    "schema",
    [
        {"requird": ["a"]},
        {"maxLenght": 3},
        {"max_length": 3},
        {"MIN-ITEMS": 3},
        {"additional_properties": False},
        {"$dynamicref": "#/a"},
        {"properties": {"a": {"enums": [1]}}},
        {"items": [{"minimun": 1}]},
        {"additionalproperties": False},
        {"$reff": "#/a"},
        {"$defs": {"a": {"patern": "b"}}},
        {"type": "string", "format": "idn-hostname"},
        {"dependentRequired": {"a": ["b"]}},
        {"type": "array", "contains": {"const": 1}},
    ],
)
def test_what_would_be_violated_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=r"unknown word|cannot be used"):
        make_lm(FakeEngine()).stream("x", json_schema=schema)

"""The grammar that a bundle names for its model's answers: chats are held to it, nothing else is changed."""

from __future__ import annotations

import json
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_engine import VOCAB, FakeEngine, logits_of
from test_lm import EOS, TEMPLATE, TOKENIZER, make_lm

import edgelm
from edgelm.bundle.answer_grammar import AnswerGrammar
from edgelm.bundle.reader import ANSWERS, Bundle
from edgelm.bundle.writer import writing
from edgelm.errors import BundleError, DependencyError, EdgeLMError, OptionError
from edgelm.runtime.lm import LM
from edgelm.runtime.loop.structured import Grammars

CODE = "[a-z]{3}-[0-9]{4}"
SAY = [{"role": "user", "content": "hello"}]


def with_grammar(bundle: Bundle, content: Mapping[str, Any] | bytes, out: Path) -> Bundle:
    """A copy of a bundle that names a grammar of its answers, sound or not."""
    with writing(out) as writer:
        for name in bundle.files:
            shutil.copyfile(bundle.path / name, writer.path(name))
        writer.path(ANSWERS).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return writer.commit(bundle.manifest)


@pytest.fixture(scope="module")
def coded(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return with_grammar(tiny_bundle, {"regex": CODE}, tmp_path_factory.mktemp("coded") / "bundle")


@pytest.fixture(scope="module")
def lm(coded: Bundle) -> Iterator[LM]:
    with edgelm.load(coded.path, threads=1, weight_cache=False) as lm:
        yield lm


def fake(regex: str, **options: Any) -> LM:
    """A model of random logits whose bundle names a grammar."""
    lm = make_lm(FakeEngine(context=2000, **options), template=TEMPLATE)
    lm.bundle.answer_grammar = AnswerGrammar("regex", regex)  # type: ignore[misc]
    lm.bundle.path = Path("bundle")  # type: ignore[misc]
    lm._requests._own = lm.bundle.answer_grammar
    return lm


# -- what is held to it, and what is not


def test_chats_are_held_to_it(lm: LM) -> None:
    pytest.importorskip("llguidance")
    for prompt in ("hello", SAY):
        for options in ({}, {"temperature": 1.5, "seed": 1}, {"speculate": "on"}, {"logprobs": True}):
            found = lm.generate(prompt, **options)
            assert re.fullmatch(CODE, found.text), options
            assert found.finish_reason == "stop"
    with lm.session() as session:
        assert re.fullmatch(CODE, session.generate(SAY).text)


@pytest.mark.parametrize(
    "options",
    [
        {"answer_grammar": False},
        {"raw": True},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
        {"regex": "[0-9]{9}"},
        {"choice": ["yes", "no"]},
    ],
)
def test_others_are_not(lm: LM, tiny_bundle: Bundle, options: dict[str, Any]) -> None:
    if {"regex", "choice"} & options.keys():
        pytest.importorskip("llguidance")
    with edgelm.load(tiny_bundle.path, threads=1, weight_cache=False) as plain:
        others = {name: value for name, value in options.items() if name != "answer_grammar"}
        wanted = plain.generate("hello", max_tokens=20, **others)
    assert lm.generate("hello", max_tokens=20, **options).tokens == wanted.tokens


def test_ids_that_the_caller_made_are_continued_freely(lm: LM) -> None:
    ids, config = lm.encode_prompt("hello"), lm.config.replace(max_tokens=12)
    (found,) = lm.complete_ids([(ids, config)])
    assert found.tokens == lm.generate("hello", max_tokens=12, answer_grammar=False).tokens


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 1.0, "seed": 3}, {"temperature": 2.0, "top_p": 0.9, "seed": 4}]
)
def test_an_answer_that_is_of_it_anyway_keeps_its_ids(options: dict[str, Any]) -> None:
    pytest.importorskip("llguidance")
    letters = [*TOKENIZER.encode("abcdefg hijklm", special=False), EOS]

    def logits(ids: Sequence[int]) -> np.ndarray:
        row = np.full(VOCAB, -99, np.float32)
        row[letters] = logits_of(ids)[letters]
        return row

    for _ in range(2):
        free = fake("[a-z ]*", logits=logits).generate("hello", max_tokens=60, answer_grammar=False, **options)
        held = fake("[a-z ]*", logits=logits).generate("hello", max_tokens=60, **options)
        assert (held.tokens, held.finish_reason) == (free.tokens, free.finish_reason)
        letters.pop()  # EOS: a text that goes on to its limit
    assert held.finish_reason == "length"


def test_a_batch_is_held_to_it(coded: Bundle, lm: LM) -> None:
    pytest.importorskip("llguidance")
    with edgelm.load(coded.path, threads=1, weight_cache=False, parallel=3) as several:
        found = several.batch(["hello", "good evening", "hello again", "bye"])
    assert [each.text for each in found] == [
        lm.generate(p).text for p in ("hello", "good evening", "hello again", "bye")
    ]
    assert all(re.fullmatch(CODE, each.text) for each in found)


def test_a_conversation_goes_on_in_its_cache(lm: LM) -> None:
    pytest.importorskip("llguidance")
    with lm.session() as session:
        first = session.generate(SAY)
        more = [*SAY, {"role": "assistant", "content": first.text}, {"role": "user", "content": "more"}]
        second = session.generate(more)
    assert second.timings.cached_tokens > 0
    assert second.tokens == lm.generate(more, reuse_cache=False).tokens


def test_it_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llguidance")
    made, compiled = Grammars.matcher, []
    monkeypatch.setattr(Grammars, "matcher", lambda self, given: compiled.append(given) or made(self, given))
    lm = fake("[ab]{4}")
    assert compiled == []  # loading does not
    texts = [lm.generate("x", seed=seed, temperature=1.0).text for seed in range(4)]
    assert compiled == [{"regex": "[ab]{4}"}]
    assert all(re.fullmatch("[ab]{4}", text) for text in texts)


@pytest.mark.parametrize("options", [{"raw": True}, {"regex": "a"}])
def test_one_that_is_asked_for_must_be_possible(lm: LM, tiny_bundle: Bundle, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="answer_grammar holds a chat's answers"):
        lm.generate("x", answer_grammar=True, **options)
    with pytest.raises(OptionError, match="this bundle names none"):
        make_lm(template=TEMPLATE).generate("x", answer_grammar=True)
    with pytest.raises(TypeError, match="answer_grammar"):
        lm.generate("x", answer_grammar="no")


def test_without_the_extra_answers_are_free(
    coded: Bundle, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with edgelm.load(tiny_bundle.path, threads=1, weight_cache=False) as plain:
        wanted = plain.generate("hello", max_tokens=12)
    with edgelm.load(coded.path, threads=1, weight_cache=False) as lm:
        assert lm.generate("hello", max_tokens=12).tokens == wanted.tokens
        with pytest.raises(DependencyError, match="answer_grammar needs llguidance"):
            lm.generate("hello", answer_grammar=True)
    assert capfd.readouterr() == ("", "")


# -- what is no grammar, or a damaged one

GRAMMARS: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "is not valid JSON"),
    "no UTF-8": (b'{"regex": "\xff"}', "is not valid JSON"),
    "half a pair": (b'{"regex": "\\ud800"}', "is not valid JSON"),
    "a list": (b"[]", "holds list, expected a JSON object"),
    "nothing": (b"{}", "must hold just one of json_schema, regex, choice"),
    "two": (b'{"regex": "a", "choice": ["b"]}', "must hold just one of"),
    "another key": (b'{"pattern": "a"}', "must hold just one of"),
    "a number": (b'{"regex": 5}', "key 'regex' must be a regular expression, not 5"),
    "null": (b'{"regex": null}', "must be a regular expression, not None"),
    "empty": (b'{"regex": ""}', "must be a regular expression, not ''"),
    "no strings": (b'{"choice": ["a", ""]}', "key 'choice' must be a list of strings"),
    "no object": (b'{"json_schema": "x"}', "key 'json_schema' must be a JSON schema, an object"),
    "huge": (b'{"regex": "' + b"a" * (1 << 20) + b'"}', "is larger than 1 MiB"),
}


@pytest.mark.parametrize("case", GRAMMARS)
def test_a_bundle_whose_grammar_is_none_does_not_load(tiny_bundle: Bundle, tmp_path: Path, case: str) -> None:
    content, says = GRAMMARS[case]
    bundle = with_grammar(tiny_bundle, content, tmp_path / "b")
    with pytest.raises(BundleError, match=re.escape(says)) as raised:
        edgelm.load(bundle.path, threads=1, weight_cache=False)
    assert str(bundle.path / ANSWERS) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.write_bytes(path.read_bytes().replace(b"3", b"4")), "was changed: SHA-256"),
        (lambda path: path.write_bytes(b""), "is truncated"),
        (lambda path: path.unlink(), "is missing: expected"),
    ],
)
def test_a_damaged_one_is_told_at_load(
    coded: Bundle, tmp_path: Path, damage: Callable[[Path], object], says: str
) -> None:
    folder = Path(shutil.copytree(coded.path, tmp_path / "copy"))
    damage(folder / ANSWERS)
    with pytest.raises(BundleError, match=says):
        edgelm.load(folder)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"regex": "("}, "regex cannot be used: "),
        ({"regex": "(?=a)b"}, "regex cannot be used: .*look"),
        ({"json_schema": {"type": "strin"}}, "json_schema cannot be used: .*strin"),
    ],
)
def test_one_that_does_not_compile_ends_every_chat_in_a_line(
    tiny_bundle: Bundle, tmp_path: Path, given: dict[str, Any], says: str
) -> None:
    pytest.importorskip("llguidance")
    bundle = with_grammar(tiny_bundle, given, tmp_path / "b")
    with edgelm.load(bundle.path, threads=1, weight_cache=False) as lm:
        for _ in range(2):
            with pytest.raises(BundleError, match=says) as raised:
                lm.generate("hello")
            assert str(raised.value).startswith(f"{bundle.path / ANSWERS}: ")
            assert raised.value.hint == "leave answers free: answer_grammar=False, --no-answer-grammar"
        assert lm.generate("hello", max_tokens=3, answer_grammar=False).timings.completion_tokens <= 3
    assert threading.active_count() < 20


class Exploded:
    """A matcher that went beyond llguidance's limits."""

    def deep_copy(self) -> Exploded:
        return self

    def validate_tokens(self, tokens: list[int]) -> int:
        return 0

    def compute_bitmask(self) -> bytes:
        return bytes(VOCAB // 8 + 1)

    def is_error(self) -> bool:
        return True

    def get_error(self) -> str:
        return "lexer error: too many expressions constructed\n<state>\n"


def test_one_that_explodes_ends_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llguidance")
    monkeypatch.setattr(Grammars, "matcher", lambda self, given: Exploded())
    with pytest.raises(EdgeLMError, match="too many expressions constructed") as raised:
        fake("(a{9}){9}").generate("x")
    assert raised.value.hint == "leave answers free: answer_grammar=False, --no-answer-grammar"


def test_a_failed_generation_leaves_the_model_usable() -> None:
    pytest.importorskip("llguidance")
    lm = fake("(")
    with pytest.raises(BundleError):
        lm.generate("x")
    free: Any = SimpleNamespace(options={"answer_grammar": False})
    assert lm.generate("x", max_tokens=4, **free.options).timings.completion_tokens <= 4

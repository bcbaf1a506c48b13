"""Names in answers are grounded in what the user said."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_engine import VOCAB, FakeEngine, logits_of
from test_lm import EOS, TEMPLATE, TOKENIZER, make_lm

from edgelm.bundle.answer_grammar import AnswerGrammar, Grounding
from edgelm.errors import BundleError
from edgelm.runtime.lm import LM
from edgelm.runtime.loop.grounded import GroundedGrammar, Pieces, heard, said
from edgelm.runtime.loop.structured import Grammar, Grammars

PLACES = Grounding("room", {"attic": ["attic", "loft"], "kids room": ["kids", "children's room"], "all": ["every"]})
WORD = r"[^\s\"\\\x00-\x1f\x7f-\x9f]{1,24}"
ACTION = rf'\{{"on":(true|false),"room":"{WORD}( {WORD}){{0,4}}"\}}'


def asked(*texts: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text} for text in texts]


def named(prompt: Any) -> frozenset[str]:
    return said(PLACES, heard(prompt))


def fake(grounding: Grounding | None, regex: str = ACTION, **options: Any) -> LM:
    """A model of random logits whose bundle names a grammar."""
    lm = make_lm(FakeEngine(context=2000, **options), template=TEMPLATE)
    lm.bundle.answer_grammar = AnswerGrammar("regex", regex, grounding)  # type: ignore[misc]
    lm.bundle.path = Path("bundle")  # type: ignore[misc]
    lm._requests._own = lm.bundle.answer_grammar
    return lm


# -- what was said


def test_names_neither_begin_nor_end_with_words_that_no_name_has_there() -> None:
    places = Grounding("room", {"tv": ["tv"]}, not_first=["in", "turn"], not_last=["in", "tv", "room"])
    found = said(places, heard("turn in the TV room den"))
    assert found == {"tv", "tv room den", "room den", "den"}  # "tv" is a name of the list


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (["the loft light"], {"attic", "loft", "loft light", "light"}),
        (["Kitchen, NOW!"], {"kitchen", "now"}),
        (["Sophie\u2019s room"], {"sophie's", "sophie", "sophie's room", "room"}),
        (["the loft's bulb"], {"attic", "loft", "loft's", "loft's bulb", "bulb"}),
        (["the studio's"], {"studio's", "studio"}),
        (["on 'den'"], {"on", "on den", "den"}),
        (["\u2018den\u2019"], {"den"}),
        (["\u0930\u0938\u094b\u0908"], {"\u0930\u0938\u094b\u0908"}),
        (["cafe\u0301"], {"caf\u00e9"}),
        (["kids' room"], {"kids room", "kids'", "kids", "kids' room", "room"}),
        (["childrens room"], {"kids room", "childrens", "childrens room", "room"}),
        (["chldren's room"], {"kids room", "chldren's", "chldren", "chldren's room", "room"}),
        (["lift", "very"], {"lift", "very"}),
        (["every one", "and there"], {"all", "every", "every one", "one", "and", "and there", "there"}),
        (["..."], set()),
    ],
)
def test_names_are_words_of_the_user(texts: list[str], names: set[str]) -> None:
    assert named(asked(*texts)) == names


def test_only_the_user_is_heard() -> None:
    messages = [{"role": "system", "content": "attic"}, *asked("hi"), {"role": "assistant", "content": "every"}]
    assert named(messages) == {"hi"}
    assert named("hi") == {"hi"}
    assert named([5, 6]) == frozenset()
    parts = [{"type": "text", "text": "loft"}, {"type": "image_url", "image_url": {"url": "attic"}}]
    assert named([{"role": "user", "content": parts}]) == {"attic", "loft"}


def test_a_name_has_five_words_at_most_and_a_book_is_read_at_its_end() -> None:
    words = [f"w{i}" for i in range(9)]
    found = named(" ".join(words))
    assert max(len(name.split()) for name in found) == 5
    assert len(found) == 9 + 8 + 7 + 6 + 5
    assert "loft" not in named("loft " + "so on " * 200)


# -- answers


@pytest.mark.parametrize("options", [{}, {"temperature": 1.5, "seed": 1}, {"speculate": "on"}, {"logprobs": True}])
def test_answers_name_nothing_else(options: Mapping[str, Any]) -> None:
    pytest.importorskip("llguidance")
    lm, found = fake(PLACES), set()
    for number in range(12):
        text = lm.generate(asked(f"lamps number {number} in the loft, quickly please"), max_tokens=200, **options).text
        assert re.fullmatch(ACTION, text)
        room = json.loads(text)["room"]
        assert room in named(asked(f"lamps number {number} in the loft, quickly please"))
        found.add(room)
    assert len(found) > 3


def test_what_is_grounded_anyway_stays_the_same() -> None:
    pytest.importorskip("llguidance")
    wanted = TOKENIZER.encode('{"on":true,"room":"attic"}', special=False)
    prompt = fake(None).encode_prompt(asked("the loft"))

    def logits(ids: Sequence[int]) -> np.ndarray:
        row = logits_of(ids)
        if (place := len(ids) - len(prompt)) < len(wanted):
            row[wanted[place]] = 99
        return row

    free = fake(None, logits=logits).generate(asked("the loft"), max_tokens=200)
    assert fake(PLACES, logits=logits).generate(asked("the loft"), max_tokens=200).tokens == free.tokens
    other = fake(PLACES, logits=logits).generate(asked("the hall"), max_tokens=200)
    assert json.loads(other.text)["room"] in {"hall"}


def test_a_model_that_goes_astray_is_brought_back() -> None:
    pytest.importorskip("llguidance")
    row = np.full(VOCAB, -9, np.float32)
    row[TOKENIZER.encode("s", special=False)[0]] = 9  # as in "serserserser"
    text = fake(PLACES, logits=lambda ids: row).generate(asked("server room, please"), max_tokens=200).text
    assert json.loads(text)["room"] in named(asked("server room, please"))


@pytest.mark.parametrize("prompt", ["...", "\U0001f600", "x" * 30])
def test_where_nothing_can_be_named_names_are_free(prompt: str) -> None:
    """Nothing was said, or what the grammar has not: the answer is still of its form."""
    pytest.importorskip("llguidance")
    found = [fake(PLACES).generate(asked(prompt), max_tokens=400, seed=n, temperature=1.0).text for n in range(4)]
    assert all(re.fullmatch(ACTION, text) for text in found)
    assert max(len(json.loads(text)["room"]) for text in found) > 3


def test_masks_are_those_of_all_tokens_looked_at_one_by_one() -> None:
    pytest.importorskip("llguidance")
    grammars = Grammars(TOKENIZER, [EOS], VOCAB)
    pieces = Pieces(partial(grammars.tokens, "regex"), VOCAB)

    def begun(text: str) -> tuple[GroundedGrammar, Grammar]:
        names = lambda: named("the loft lamp")  # noqa: E731
        made = GroundedGrammar(lambda: grammars.matcher({"regex": ACTION}), [EOS], "room", names, pieces, "")
        plain = grammars.grammar(regex=ACTION, forces=False)
        for token in TOKENIZER.encode(text, special=False):
            made.follow(token)
            plain.follow(token)
        return made, plain

    for text in (
        "",
        '{"on":true',
        '{"on":true,"room":',
        '{"on":true,"room":"',
        '{"on":true,"room":"l',
        '{"on":true,"room":"loft',
    ):
        made, plain = begun(text)
        allowed = plain.mask(np.zeros(VOCAB, np.float32))
        wanted = [token for token in range(VOCAB) if allowed[token] == 0 and made.allows(token)]
        assert wanted == np.flatnonzero(made.mask(np.zeros(VOCAB, np.float32)) == 0).tolist()
        assert made.possible([*wanted[:1], *TOKENIZER.encode("qqq", special=False)]) == wanted[:1]


def test_what_follows_a_free_name_is_free() -> None:
    """A word too long for the grammar cannot be named, and strings behind it are none of its business."""
    pytest.importorskip("llguidance")
    regex = r'\{"room":"[a-z]{1,5}","note":"[a-z]{1,9}"\}'
    for number in range(6):
        found = fake(PLACES, regex).generate(asked("greenhouse"), max_tokens=200, temperature=1.0, seed=number)
        assert re.fullmatch(regex, found.text)
    texts = [
        fake(PLACES, regex).generate(asked("kitchen, hall"), max_tokens=200, seed=n, temperature=1.0) for n in range(6)
    ]
    assert {json.loads(found.text)["room"] for found in texts} == {"hall"}


def test_what_the_grammar_cannot_write_is_no_name() -> None:
    pytest.importorskip("llguidance")
    regex = r'\{"room":"(kitchen|bedroom)"\}'
    for number in range(6):
        lm = fake(PLACES, regex)
        found = lm.generate(asked("kit, bag, bedroom"), max_tokens=200, temperature=1.0, seed=number)
        assert json.loads(found.text)["room"] == "bedroom"


def test_a_key_of_other_letters() -> None:
    pytest.importorskip("llguidance")
    regex = r'\{"pi\u00e8ce":"[a-z]{1,9}"\}'
    found = fake(Grounding("pi\u00e8ce", {}), regex).generate(asked("salon"), max_tokens=200)
    assert json.loads(found.text)["pi\u00e8ce"] == "salon"


def test_messages_that_are_changed_later_change_nothing() -> None:
    pytest.importorskip("llguidance")
    messages = asked("hall")
    stream = fake(PLACES).stream(messages, max_tokens=200)
    messages[0]["content"] = "garage"
    assert json.loads("".join(part.text if hasattr(part, "text") else str(part) for part in stream))["room"] == "hall"


def test_blanks_in_json_and_other_keys() -> None:
    pytest.importorskip("llguidance")
    regex = r'\{"mushroom": "[a-z]{1,9}", "room" : "[a-z]{1,9}"\}'
    found = json.loads(fake(PLACES, regex).generate(asked("hall"), max_tokens=400).text)
    assert found["room"] == "hall"
    assert found["mushroom"] != "hall"


# -- the file


@pytest.mark.parametrize(
    "grounded",
    [
        5,
        {"key": "room"},
        {"key": 5, "values": {}},
        {"key": "", "values": {}},
        {"key": "room", "values": []},
        {"key": "room", "values": {"a": "b"}},
        {"key": "room", "values": {"a": [""]}},
        {"key": "room", "values": {"": ["a"]}},
        {"key": "room", "values": {}, "more": 1},
        {"key": "room", "values": {}, "not_first": "in"},
        {"key": "room", "values": {}, "not_last": [""]},
    ],
)
def test_a_file_that_says_it_wrongly(tmp_path: Path, grounded: object) -> None:
    path = tmp_path / "answer_grammar.json"
    path.write_text(json.dumps({"regex": "a", "grounded": grounded}))
    with pytest.raises(
        BundleError,
        match="key 'grounded' must be an object of key, a string, values, lists of words by name, and perhaps not_first",
    ):
        AnswerGrammar.read(path)


@pytest.mark.parametrize("ends", [{}, {"not_first": ["in"]}, {"not_first": ["in"], "not_last": ["in", "tv"]}])
def test_it_is_read_and_told(tmp_path: Path, ends: dict[str, list[str]]) -> None:
    path = tmp_path / "answer_grammar.json"
    content = {"regex": "a", "grounded": {"key": "room", "values": {"attic": ["attic", "loft"]}} | ends}
    path.write_text(json.dumps(content))
    found = AnswerGrammar.read(path)
    assert found.facts() == content
    assert str(found) == "a regular expression of 1 characters, its room from what was said"
    path.write_text(json.dumps({"grounded": content["grounded"]}))
    with pytest.raises(BundleError, match="must hold just one of json_schema, regex, choice, and may hold grounded"):
        AnswerGrammar.read(path)

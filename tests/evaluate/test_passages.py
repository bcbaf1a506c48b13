"""Texts to calibrate and measure on."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers import Tokenizer

from edgelm.errors import EdgeLMError, OptionError
from edgelm.evaluate.passages import (
    BUILTIN,
    builtin_in,
    builtin_languages,
    fluent_languages,
    load_passages,
    mixed_chunks,
    spread_chunks,
    starting_token,
)
from edgelm.runtime.text.chat import ChatTemplate


class Bytes:
    """A tokenizer of bytes; BOS is 256."""

    def __init__(self, bos: int | None = 256) -> None:
        self.bos = bos

    def encode(self, text, *, special=True):
        return [*([self.bos] if special and self.bos is not None else []), *text.encode()]


TEMPLATE = ChatTemplate("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}")


def test_the_sample_has_two_parts_of_many_kinds():
    calibration, evaluation = (load_passages("builtin", part) for part in ("calibration", "evaluation"))
    assert calibration.sha256 != evaluation.sha256
    assert not {str(p) for p in calibration.passages} & {str(p) for p in evaluation.passages}
    for passages, least in ((calibration, 30_000), (evaluation, 6_000)):
        assert any(isinstance(passage, str) for passage in passages.passages)
        chats = [passage for passage in passages.passages if not isinstance(passage, str)]
        assert all(chat[0]["role"] == "user" and chat[-1]["role"] == "assistant" for chat in chats)
        assert len(chats) >= 4
        assert len(passages.encode(Bytes(), None)) > least
    assert load_passages("builtin", "calibration") == calibration


def test_conversations_are_told_in_the_template(tmp_path):
    path = tmp_path / "chats.jsonl"
    chats = [
        {"messages": [{"role": "user", "content": "hi"}], "answer": "yes"},
        {"messages": [{"role": "a", "content": "b"}]},
    ]
    path.write_text("\n\n".join(json.dumps(chat) for chat in chats))
    passages = load_passages(path, "calibration")
    assert bytes(passages.encode(Bytes(), TEMPLATE)) == b"[user]hi[assistant]yes[a]b"
    assert bytes(passages.encode(Bytes(bos=None), None)) == b"hi\n\nyes\nb\n"


def test_a_template_that_refuses_the_sample_is_done_without():
    strict = ChatTemplate("{{ raise_exception('no') }}")
    assert load_passages("builtin", "evaluation").encode(Bytes(), strict)


def test_a_file_is_one_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xef\xbb\xbfcaf\xc3\xa9")
    passages = load_passages(path, "evaluation")
    assert passages.passages == ("café",)
    assert passages.facts()["name"] == "text.txt"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.txt", b"", "a.txt holds no text"),
        ("a.txt", b" \n", "a.txt holds no text"),
        ("a.txt", "käse".encode("latin-1"), "a.txt is not valid UTF-8: byte 1"),
        ("a.txt", "text".encode("utf-16"), "a.txt is not valid UTF-8: byte 0"),
        ("a.jsonl", b"hello", "a.jsonl:1: no conversation"),
        ("a.jsonl", b'\n{"messages": []}', "a.jsonl:2: no conversation"),
        ("a.jsonl", b"[1]", "a.jsonl:1: no conversation"),
    ],
)
def test_what_is_no_text(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(EdgeLMError, match=said):
        load_passages(tmp_path / name, "calibration")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(EdgeLMError, match="nope cannot be read: No such file") as raised:
        load_passages(tmp_path / "nope", "calibration")
    assert raised.value.hint == "give a text file, or builtin"


def test_chunks_are_spread_over_the_text():
    chunks = spread_chunks(range(100), 10, 30, bos=None)
    assert [int(chunk[0]) for chunk in chunks] == [0, 30, 60]
    assert all(len(chunk) == 10 for chunk in chunks)
    assert len(spread_chunks(range(100), 10, 1000, bos=None)) == 10
    [chunk] = spread_chunks(range(19), 10, 5, bos=7)
    assert chunk.tolist() == [7, *range(1, 10)]


def test_conversations_are_a_third_at_most_and_evenly_among_the_others():
    told, plain = range(1000, 1055), range(300)
    chunks = [int(chunk[0]) for chunk in mixed_chunks(told, plain, 10, 90, bos=None)]
    assert chunks == [0, 1000, 50, 100, 1010, 150, 200, 1030, 250]
    assert len(mixed_chunks(range(1000, 1400), range(20), 10, 90, bos=None)) == 9
    few = [int(chunk[0]) for chunk in mixed_chunks(range(1000, 1012), plain, 10, 90, bos=None)]
    assert sorted(few)[-1] == 1000
    assert len(few) == 9
    assert few.index(1000) == 4


@pytest.mark.parametrize(("told", "plain"), [(9, 100), (100, 9), (0, 100), (100, 0)])
def test_one_kind_alone_is_one_text(told, plain):
    chunks = mixed_chunks(range(1000, 1000 + told), range(plain), 10, 60, bos=None)
    assert all(map(np.array_equal, chunks, spread_chunks([*range(1000, 1000 + told), *range(plain)], 10, 60, bos=None)))


def test_the_kinds_of_a_text():
    told, plain = load_passages(BUILTIN, "calibration").by_kind()
    assert len(told.passages) > 15
    assert not any(isinstance(p, str) for p in told.passages)
    assert len(plain.passages) > 40
    assert all(isinstance(p, str) for p in plain.passages)


def test_short_answers_are_told_where_kinds_are():
    passages = load_passages(BUILTIN, "calibration")
    told, plain = passages.by_kind()
    assert len(passages.answers) >= 20
    assert told.passages[: len(passages.answers)] == passages.answers
    assert not set(map(str, passages.answers)) & set(map(str, passages.passages))
    assert told.answers == plain.answers == load_passages(BUILTIN, "evaluation").answers == ()
    questions = [messages[0]["content"] for messages in passages.answers]
    assert max(map(len, questions)) < 60


def test_a_text_shorter_than_a_chunk():
    with pytest.raises(OptionError, match="the text has 9 tokens, calibration needs 10 or more"):
        spread_chunks(np.arange(9), 10, 100, bos=None)


def test_the_token_a_text_starts_with():
    assert starting_token(Bytes()) == 256
    assert starting_token(Bytes(bos=None)) is None


def test_the_sample_speaks_many_languages():
    assert len(builtin_languages()) >= 15
    assert builtin_languages()[0] == "en"
    english = load_passages("builtin", "calibration")
    assert len("".join(text for text, _ in english.texts(None))) > 60_000
    for code in builtin_languages()[1:]:
        name = builtin_in([code])
        assert name == f"builtin:{code}"
        both, measured = load_passages(name, "calibration"), load_passages(name, "evaluation")
        texts, held_out = ({text for text, _ in each.texts(None)} for each in (both, measured))
        assert {text for text, _ in english.texts(None)} < texts, "English and code stay"
        assert held_out
        assert not held_out & texts
        assert both.sha256 != english.sha256
    assert builtin_in(["en"]) == "builtin"
    assert builtin_in(["en", "de", "fr", "de"]) == "builtin:de,fr"


def test_a_language_that_the_sample_has_not():
    with pytest.raises(OptionError, match="nothing in 'xx'") as raised:
        load_passages("builtin:de,xx", "calibration")
    assert "en, ar, de" in (raised.value.hint or "")


def test_the_languages_of_a_tokenizer(data_dir):
    """By how many tokens their text takes."""

    def languages(name: str) -> tuple[str, ...]:
        tokenizer = Tokenizer.from_file(str(data_dir / "tokenizers" / name / "tokenizer.json"))
        return fluent_languages(lambda text: tokenizer.encode(text, add_special_tokens=False).ids)

    assert languages("smollm2") == ("en",)
    assert languages("phi3") == ("en", "de", "es", "fr", "it", "pt", "ru")
    assert fluent_languages(lambda text: list(text.encode())) == ()
    assert fluent_languages(lambda text: [0]) == builtin_languages()

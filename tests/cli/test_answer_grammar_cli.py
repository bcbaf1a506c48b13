"""The grammar that a bundle names for its answers, on the command line."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from edgelm.bundle.reader import ANSWERS, Bundle
from edgelm.bundle.writer import writing
from edgelm.device import doctor

CODE = "[a-z]{3}-[0-9]{4}"


@pytest.fixture(scope="module")
def coded(tiny_bundle, tmp_path_factory) -> Bundle:
    with writing(tmp_path_factory.mktemp("coded") / "bundle") as writer:
        for name in tiny_bundle.files:
            shutil.copyfile(tiny_bundle.path / name, writer.path(name))
        writer.write_json(ANSWERS, {"regex": CODE})
        return writer.commit(tiny_bundle.manifest)


def said(edgelm, *words: object) -> str:
    ended = edgelm(*words)
    assert (ended.code, ended.err) == (0, "")
    return ended.out


def test_run_holds_to_it_unless_told(edgelm, coded, tiny_bundle):
    pytest.importorskip("llguidance")
    ask = ("-p", "hello", "-n", "40")
    assert re.fullmatch(CODE, said(edgelm, "run", coded.path, *ask).removesuffix("\n"))
    free = said(edgelm, "run", tiny_bundle.path, *ask)
    assert said(edgelm, "run", coded.path, *ask, "--no-answer-grammar") == free
    assert said(edgelm, "run", coded.path, *ask, "--raw") == said(edgelm, "run", tiny_bundle.path, *ask, "--raw")


def test_chat_holds_to_it_unless_told(edgelm, coded, monkeypatch):
    pytest.importorskip("llguidance")

    def answers(*options: str) -> list[str]:
        lines = type("In", (), {"buffer": [b"hello\n", b"again\n"], "isatty": lambda self: False})()
        monkeypatch.setattr(sys, "stdin", lines)
        return edgelm("chat", coded.path, "-n", "16", *options).out.splitlines()

    assert all(re.fullmatch(CODE, line) for line in answers())
    assert not any(re.fullmatch(CODE, line) for line in answers("--no-answer-grammar"))


def test_a_task_is_held_to_it_unless_told(edgelm, coded, tmp_path):
    pytest.importorskip("llguidance")
    task = tmp_path / "task.jsonl"
    task.write_text(json.dumps({"messages": [{"role": "user", "content": "hello"}], "answer": "abc-1234"}) + "\n")

    def answer(*options: str) -> str:
        facts = json.loads(said(edgelm, "eval", coded.path, "--task", task, "--show-errors", "1", "--json", *options))
        return facts["task"]["errors"][0]["answered"]

    assert re.fullmatch(CODE, answer())
    assert not re.fullmatch(CODE, answer("--no-answer-grammar"))


def test_it_is_told(edgelm, coded, monkeypatch):
    told = said(edgelm, "verify", coded.path)
    assert any(line.split()[:2] == ["ok", ANSWERS] for line in told.splitlines())
    words = "a regular expression of 17 characters"
    monkeypatch.setitem(sys.modules, "llguidance", None)
    assert f"answers      {words}; free here: edgelm[structured] is not installed\n" in said(
        edgelm, "inspect", coded.path
    )
    facts = json.loads(said(edgelm, "inspect", coded.path, "--json"))
    assert facts["answer_grammar"] == {"kind": "regex", "words": words, "held": False}
    assert ANSWERS in facts["manifest"]["files"]


def test_the_doctor_tells_whether_answers_are_held(edgelm, coded, monkeypatch):
    monkeypatch.setattr(doctor, "read_bandwidth", lambda threads, usable: None)

    def finding() -> dict[str, str]:
        found = json.loads(edgelm("doctor", "--bundle", coded.path, "--json").out)["findings"]
        return next(each for each in found if each["what"] == "answers")

    pytest.importorskip("llguidance")
    assert finding()["level"] == "ok"
    monkeypatch.setitem(sys.modules, "llguidance", None)
    assert finding()["level"] == "warn"
    assert finding()["todo"] == "pip install 'edgelm[structured]'"


def test_verify_reads_it(edgelm, coded, tmp_path):
    with writing(tmp_path / "wrong") as writer:
        for name in coded.files:
            shutil.copyfile(coded.path / name, writer.path(name))
        writer.write_json(ANSWERS, {"regex": 5})
        wrong = writer.commit(coded.manifest)
    ended = edgelm("verify", wrong.path)
    assert ended.code == 1
    assert f"{wrong.path / ANSWERS}: key 'regex' must be a regular expression, not 5" in ended.out
    assert Path(wrong.path / ANSWERS).is_file()

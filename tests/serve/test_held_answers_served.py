"""The grammar that a bundle names for its answers, through the server's interfaces."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("llguidance")
from serving import Running, serving

from edgelm.bundle.reader import ANSWERS, Bundle
from edgelm.bundle.writer import writing
from edgelm.serve.settings import Settings

CODE = "[a-z]{3}-[0-9]{4}"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def coded(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with writing(tmp_path_factory.mktemp("coded") / "bundle") as writer:
        for name in tiny_bundle.files:
            shutil.copyfile(tiny_bundle.path / name, writer.path(name))
        writer.write_json(ANSWERS, {"regex": CODE})
        return writer.commit(tiny_bundle.manifest).path


@pytest.fixture(scope="module")
def running(coded: Path) -> Iterator[Running]:
    with serving(Settings(bundles=(coded,), port=0, threads=1)) as found:
        yield found


def chat(running: Running, **more: object) -> str:
    found = running.post("/v1/chat/completions", {"messages": HELLO, "max_tokens": 30, **more}).json()
    return str(found["choices"][0]["message"]["content"])


def test_chats_are_held_to_it(running: Running) -> None:
    assert re.fullmatch(CODE, chat(running))
    claude = running.post("/v1/messages", {"messages": HELLO, "max_tokens": 30}).json()
    assert re.fullmatch(CODE, claude["content"][0]["text"])
    ollama = running.post("/api/chat", {"messages": HELLO, "stream": False}).json()
    assert re.fullmatch(CODE, ollama["message"]["content"])
    responses = running.post("/v1/responses", {"input": "hello"}).json()
    assert re.fullmatch(CODE, responses["output"][0]["content"][0]["text"])


def test_what_asks_for_another_one_and_raw_prompts_are_not(running: Running) -> None:
    boolean = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "boolean"}}}
    assert chat(running, response_format=boolean) in ("true", "false")
    assert not re.fullmatch(CODE, chat(running, answer_grammar=False))
    raw = running.post("/v1/completions", {"prompt": "hello", "max_tokens": 30, "temperature": 0}).json()
    assert not re.fullmatch(CODE, raw["choices"][0]["text"])


def test_a_server_may_leave_them_free(coded: Path) -> None:
    with serving(Settings(bundles=(coded,), port=0, threads=1, answer_grammar=False)) as running:
        assert not re.fullmatch(CODE, chat(running))
        assert re.fullmatch(CODE, chat(running, response_format=None, answer_grammar=True)) is None

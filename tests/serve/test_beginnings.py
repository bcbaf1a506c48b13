"""Beginnings of prompts survive a restart."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from serving import Running, serving

from edgelm.bundle.reader import Bundle
from edgelm.errors import OptionError
from edgelm.runtime.lm import load
from edgelm.serve import app
from edgelm.serve.settings import Settings

SYSTEM = {"role": "system", "content": "You turn commands into actions. " + "The lamp in the kitchen is on. " * 20}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_QUIET", 0.0)
    monkeypatch.setattr(app, "_TICK", 0.02)


def ask(running: Running, text: str, *system: dict[str, str]) -> tuple[str, int]:
    """The answer, and how many tokens of the prompt were not computed."""
    messages = [*(system or (SYSTEM,)), {"role": "user", "content": text}]
    answer = running.post("/v1/chat/completions", {"messages": messages, "max_tokens": 12}).json()
    cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return answer["choices"][0]["message"]["content"], cached


def test_what_conversations_share_is_there_after_a_restart(home_bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "prompts"
    given = Settings(bundles=(home_bundle.path,), port=0, threads=1, prompt_cache=folder)
    with serving(given) as running:
        first = ask(running, "turn on the lamp in the kitchen")
        assert first[1] == 0
        _, cached = ask(running, "lock the front door")
        assert cached > 64  # in memory
        started = time.monotonic()
        while not (files := list(folder.glob("[!.]*.prompt"))):
            assert time.monotonic() - started < 20
            time.sleep(0.02)
    assert folder.stat().st_mode & 0o077 == 0
    with serving(given) as running:
        text, again = ask(running, "turn on the lamp in the kitchen")
        assert (text, again) == (first[0], cached)
        assert list(folder.glob("[!.]*.prompt")) == files
    files[0].write_bytes(files[0].read_bytes()[:-5000])
    with serving(given) as running:  # damaged: made anew
        assert ask(running, "turn on the lamp in the kitchen") == first


def test_one_conversation_and_short_ones_are_not_written(home_bundle: Bundle, tmp_path: Path) -> None:
    given = Settings(bundles=(home_bundle.path,), port=0, threads=1, prompt_cache=tmp_path / "prompts")
    with serving(given) as running:
        for _ in range(2):
            ask(running, "turn on the lamp in the kitchen")
        for text in ("turn on the lamp in the kitchen", "lock the front door"):
            ask(running, text, {"role": "system", "content": "Short."})
        time.sleep(0.2)
    assert not (tmp_path / "prompts").exists()


def test_beginnings_of_an_lm(home_bundle: Bundle, tmp_path: Path) -> None:
    prompt: list[Any] = [SYSTEM, {"role": "user", "content": "turn on the lamp in the kitchen"}]
    with load(home_bundle.path, threads=1, weight_cache=False, parallel=2) as lm:
        ids = lm.encode_prompt(prompt)
        assert lm.save_beginning(ids[:100], tmp_path / "none") == 0
        assert not (tmp_path / "none").exists()
        whole = lm.generate(prompt, max_tokens=12)
        assert lm.save_beginning(ids[:100], tmp_path / "file") == 100
        assert lm.load_beginning(tmp_path / "file") == 0  # it is there
    with load(home_bundle.path, threads=1, weight_cache=False, parallel=2) as lm:
        assert lm.load_beginning(tmp_path / "file") == 100
        again = lm.generate(prompt, max_tokens=12)
        assert (again.tokens, again.timings.cached_tokens) == (whole.tokens, 100)
    with load(home_bundle.path, threads=1, weight_cache=False) as lm, pytest.raises(OptionError, match="parallel"):
        lm.load_beginning(tmp_path / "file")

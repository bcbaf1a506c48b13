"""``--prompt-cache`` of ``edgelm run`` and ``edgelm chat``."""

from __future__ import annotations

import io
import json
import sys

import pytest

SYSTEM = "You are a lamp, and nothing but a lamp."
FEW = ("--max-tokens", "6", "--temperature", "0", "--json")


@pytest.fixture
def run(edgelm, tiny_bundle, tmp_path):
    """`edgelm run` with the cache file, on a prompt behind the system message: (what JSON it gave, stderr)."""

    def call(prompt: str, *more: object, system: str = SYSTEM):
        ended = edgelm(
            "run", tiny_bundle.path, "--system", system, "-p", prompt, *FEW, "--prompt-cache", tmp_path / "cache", *more
        )
        assert ended.code == 0, ended.err
        return json.loads(ended.out), ended.err

    return call


def test_the_second_run_finds_the_first_ones_prompt(edgelm, run, tiny_bundle, tmp_path):
    first, said = run("hello")
    assert (first["timings"]["cached_tokens"], said) == (0, "")
    again, _ = run("hello")
    assert again["timings"]["cached_tokens"] == again["prompt_tokens"] - 1
    other, _ = run("there")
    assert other["timings"]["cached_tokens"] > len(SYSTEM)
    for prompt, answer in (("hello", again), ("there", other)):
        plain = edgelm("run", tiny_bundle.path, "--system", SYSTEM, "-p", prompt, *FEW)
        assert json.loads(plain.out)["text"] == answer["text"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["cache"]


def test_it_is_written_again_only_where_much_is_new(run, tmp_path):
    run("hello")
    before = (tmp_path / "cache").stat()
    run("there")
    assert (tmp_path / "cache").stat().st_mtime_ns == before.st_mtime_ns
    run("hello", system="Quite another message that goes on for a while.")
    assert (tmp_path / "cache").stat().st_ino != before.st_ino


def test_a_damaged_or_foreign_cache_is_made_anew(run, tmp_path):
    run("hello")
    content = (tmp_path / "cache").read_bytes()
    (tmp_path / "cache").write_bytes(content[:-1])
    answer, said = run("hello")
    assert answer["timings"]["cached_tokens"] == 0
    assert said.startswith(f"note: {tmp_path / 'cache'} is damaged: it has ")
    assert said.endswith("; it will be made anew\n")
    assert (tmp_path / "cache").read_bytes() == content


def test_a_file_that_is_no_cache_is_an_error_and_left_alone(edgelm, tiny_bundle, tmp_path):
    (tmp_path / "letter").write_text("dear mother")
    ended = edgelm("run", tiny_bundle.path, "-p", "x", "--prompt-cache", tmp_path / "letter")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith(f"error: {tmp_path / 'letter'} is not a prompt cache\n")
    assert (tmp_path / "letter").read_text() == "dear mother"
    ended = edgelm("run", tiny_bundle.path, "-p", "x", "--prompt-cache", tmp_path / "no" / "cache")
    assert ended.err.startswith(f"error: cannot write {tmp_path / 'no' / 'cache'}: {tmp_path / 'no'} is not a folder\n")


def test_chat_keeps_its_cache(edgelm, tiny_bundle, tmp_path, monkeypatch):
    def chat(text: str):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        return edgelm("chat", tiny_bundle.path, "--system", SYSTEM, *FEW[:4], "--prompt-cache", tmp_path / "cache")

    first = chat("hi\n/stats\n")
    assert first.code == 0, first.err
    assert "cached" not in first.err
    second = chat("hi\n/stats\n")
    assert second.out == first.out
    assert "cached" in second.err

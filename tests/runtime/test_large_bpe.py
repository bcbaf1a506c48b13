"""Large tokenizers are read in less memory, and are the very tokenizers that the library reads."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from edgelm.runtime.text import large_bpe, tokenizer_file

SPECIAL = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
ODD = ["],", '"', '","', "\\", "{", "}]", "é", "😀", "中", ",", ":", "], [", "\n", "\x00", "#version:"]


def content(tokens: int = 3000, *, legacy: bool = False, **model: Any) -> dict[str, Any]:
    """A byte-level BPE tokenizer with many tokens, hard ones to find the end of among them."""
    names = [*map(str, range(10)), *"abcdef", *ODD]
    merges = [(a, b) for i, a in enumerate(names) for b in [*names[:6], *ODD][: 1 + tokens // len(names)]][:tokens]
    if legacy:
        merges = [(a, b) for a, b in merges if " " not in a + b and not a.startswith("#version")]
    vocab = dict.fromkeys([*names, *(a + b for a, b in merges)])
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": 2, "content": "2", **SPECIAL},
            {"id": 7, "content": "<new>", **SPECIAL, "special": False, "normalized": True, "lstrip": True},
        ],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "0",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {name: i for i, name in enumerate(vocab)},
            "merges": [" ".join(pair) for pair in merges] if legacy else [list(pair) for pair in merges],
            **model,
        },
    }


def encoded(told: dict[str, Any], *, ascii_only: bool = False, indent: int | None = None) -> bytes:
    return json.dumps(told, ensure_ascii=ascii_only, indent=indent).encode()


@pytest.mark.parametrize("window", [16, 100, 64 << 10])
@pytest.mark.parametrize("form", [{}, {"indent": 2}, {"ascii_only": True}])
@pytest.mark.parametrize("legacy", [False, True])
def test_the_same_tokenizer(window: int, form: dict[str, Any], legacy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_bpe, "_WINDOW", window)
    data = encoded(content(600, legacy=legacy), **form)
    ours, library = large_bpe.read(data), tokenizers.Tokenizer.from_buffer(data)
    assert ours is not None
    assert ours.to_str() == library.to_str()
    for text in ("abc <new> 2 fade {é😀中},", "ABC" * 50, ""):
        assert ours.encode(text).ids == library.encode(text).ids
        assert ours.decode(library.encode(text).ids) == library.decode(library.encode(text).ids)


@pytest.mark.parametrize("name", ["smollm2", "gpt-neox-20b-pythia", "phi3"])
def test_real_tokenizers(data_dir: Path, name: str) -> None:
    data = (data_dir / "tokenizers" / name / "tokenizer.json").read_bytes()
    ours = large_bpe.read(data)
    assert ours is not None
    assert ours.to_str() == tokenizers.Tokenizer.from_buffer(data).to_str()


def without_merges() -> dict[str, Any]:
    told = content(10)
    del told["model"]["merges"]
    return told


def merges_first() -> dict[str, Any]:
    told = content(10)
    vocab = told["model"].pop("vocab")
    return {**told, "model": {**told["model"], "vocab": vocab}}


OTHERS: dict[str, bytes] = {
    "nothing": b"",
    "cut short": encoded(content(10))[:-1],
    "more after it": encoded(content(10)) + b"}",
    "not UTF-8": encoded(content(10)).replace("é".encode(), b"\xff"),
    "an array": b"[]",
    "no merges": encoded(without_merges()),
    "merges first": encoded(merges_first()),
    "another model": encoded(content(10, type="WordLevel")),
    "an option nobody knows": encoded(content(10, temperature=1)),
    "an id below 0": encoded(content(10, vocab={"a": -1})),
    "a merge of three": encoded(content(10, merges=[["a", "b", "c"]])),
    "a merge without its token": encoded(content(10, merges=[["f", "nope"]])),
    "merges of two kinds": encoded(content(10, merges=[["a", "b"], "a c"])),
    "a version among merges": encoded(content(10, merges=["#version: 0.2", "0 0"])),
    "a long value": encoded(content(10) | {"normalizer": {"type": "Prepend", "prepend": "x" * (9 << 20)}}),
    "deep": b'{"version":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "added tokens of another form": encoded({**content(10), "added_tokens": [{"id": 2, "content": "2"}]}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_of_another_form_is_left_to_the_library(name: str) -> None:
    assert large_bpe.read(OTHERS[name]) is None


def test_a_large_file_with_an_error_is_told_as_the_library_tells_it(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(encoded(content(10, merges=[["f", "nope"]])) + b" " * large_bpe.LARGE)
    with pytest.raises(ValueError, match="nope"):
        tokenizer_file.read(path)


def test_an_interrupt_is_no_reason_to_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(large_bpe._Reading, "tokenizer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        large_bpe.read(b"{}")


PEAK = """
import sys, tokenizers
from edgelm.runtime.text import tokenizer_file
def peak(): return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1])
before = peak()
kept = tokenizers.Tokenizer.from_file(sys.argv[1]) if sys.argv[2] == "library" else tokenizer_file.read(sys.argv[1])
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak")
def test_the_peak_is_well_below_the_librarys(tmp_path: Path) -> None:
    names = [f"{i:x}" for i in range(16)]
    merges = [[a, b] for a in names for b in names]
    merges += [[a + b, c + d] for a, b in merges[:] for c, d in merges[:]]  # 65,792
    vocab = {name: i for i, name in enumerate(dict.fromkeys([*names, *map("".join, merges)]))}
    path = tmp_path / "tokenizer.json"
    path.write_bytes(encoded(content(10, unk_token=None, vocab=vocab, merges=merges)))
    measure: Callable[[str], int] = lambda how: int(  # noqa: E731
        subprocess.run([sys.executable, "-c", PEAK, path, how], capture_output=True, text=True, check=True).stdout
    )
    assert measure("edgelm") < 0.75 * measure("library")

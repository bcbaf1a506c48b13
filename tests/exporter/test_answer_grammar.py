"""answer_grammar.json of a checkpoint: into the bundle, or an error before anything is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_lora import SHAPES, write_adapter

from edgelm import demo
from edgelm.bundle.reader import ANSWERS, Bundle
from edgelm.errors import CheckpointError
from edgelm.exporter.pipeline import export
from edgelm.exporter.progress import Progress
from edgelm.exporter.tokenizer import answers

CODE = {"regex": "[a-z]{3}-[0-9]{4}"}


class Said(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Callable[..., Path]) -> Path:
    folder = tiny_checkpoint()
    (folder / ANSWERS).write_text(json.dumps(CODE))
    return folder


def written(checkpoint: Path, out: Path, **options: Any) -> Bundle:
    return export(checkpoint, "x86-64", "fp32", output=out, card="none", **options)


def test_it_is_in_the_bundle_and_its_manifest(checkpoint: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    bundle = written(checkpoint, tmp_path / "b")
    assert set(bundle.files) - set(tiny_bundle.files) == {ANSWERS}
    assert bundle.verify() == []
    assert Bundle.open(bundle.path).answer_grammar is not None
    assert json.loads((bundle.path / ANSWERS).read_text()) == CODE
    assert Bundle.open(tiny_bundle.path).answer_grammar is None


def test_the_same_bytes_however_it_is_written(checkpoint: Path, tmp_path: Path) -> None:
    first = written(checkpoint, tmp_path / "a")
    other = Path(shutil.copytree(checkpoint, tmp_path / "c"))
    (other / ANSWERS).write_text(json.dumps(CODE, indent=7) + "\n\n")
    assert written(other, tmp_path / "b").files[ANSWERS] == first.files[ANSWERS]


def test_with_an_adapter_its_answers_may_be_others(checkpoint: Path, tmp_path: Path) -> None:
    said = Said()
    adapter = write_adapter(tmp_path / "adapter", SHAPES)
    bundle = written(checkpoint, tmp_path / "b", adapter=adapter, progress=said)
    assert bundle.answer_grammar is None
    assert "the model's answer_grammar.json is left out: with an adapter its answers may be others" in said.lines


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "is not valid JSON"),
        (b'{"regex": 5}', "key 'regex' must be a regular expression, not 5"),
        (b'{"regex": "a", "choice": ["b"]}', "must hold just one of json_schema, regex, choice"),
        (b'{"regex": "' + b"a" * (1 << 20) + b'"}', "is larger than 1 MiB"),
    ],
)
def test_what_is_none_is_refused(checkpoint: Path, tmp_path: Path, content: bytes, says: str) -> None:
    refused(checkpoint, tmp_path, content, says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"regex": "("}', "regex cannot be used: "),
        (b'{"regex": "[^\\\\x00-\\\\U0010ffff]"}', "no token of the vocabulary can come next"),
        (b'{"json_schema": {"propertes": {}}}', "json_schema: unknown word 'propertes' at /"),
    ],
)
def test_what_cannot_be_followed_is_refused(checkpoint: Path, tmp_path: Path, content: bytes, says: str) -> None:
    pytest.importorskip("llguidance")
    refused(checkpoint, tmp_path, content, says)


def test_what_takes_too_long_is_refused(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llguidance")
    monkeypatch.setattr(answers, "_SECONDS", 0.0)
    says = "a regular expression of 4 characters takes 0 s of computing before the first token may come"
    refused(checkpoint, tmp_path, b'{"regex": "a{9}"}', says)


def refused(checkpoint: Path, tmp_path: Path, content: bytes, says: str) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "c"))
    (folder / ANSWERS).write_bytes(content)
    with pytest.raises(CheckpointError, match=says) as raised:
        written(folder, tmp_path / "out" / "b")
    assert str(raised.value).startswith(f"{folder / ANSWERS}")
    assert "\n" not in str(raised.value)
    assert raised.value.hint == "correct the file, or remove it: answers are free then"
    assert not (tmp_path / "out").exists()


def test_a_folder_of_that_name_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "c"))
    (folder / ANSWERS).unlink()
    (folder / ANSWERS).mkdir()
    with pytest.raises(CheckpointError, match="cannot be read"):
        written(folder, tmp_path / "b")


def test_the_embedded_model_has_one() -> None:
    assert demo.answers() == demo.path() / ANSWERS
    assert set(json.loads(demo.answers().read_text())) == {"regex", "grounded"}

"""A file that a bundle, a checkpoint or an option names is a regular one, or an error at once: nothing waits for a FIFO."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

import edgelm
from edgelm.bundle.reader import Bundle
from edgelm.cli.options import form
from edgelm.errors import EdgeLMError
from edgelm.evaluate.passages import load_passages
from edgelm.evaluate.task import read_task
from edgelm.exporter.checkpoint.config import read_json
from edgelm.exporter.checkpoint.tensors import read_header
from edgelm.exporter.mixed.replay import read_replay
from edgelm.exporter.tokenizer import bytelevel, sentencepiece
from edgelm.exporter.tokenizer.text_files import read_tokenizer
from edgelm.files import open_regular, read_bytes, read_text
from edgelm.runtime.kv import prompt_cache
from edgelm.runtime.lora_adapter import RuntimeAdapter
from edgelm.runtime.text.tokenizer import Tokenizer
from edgelm.target.target import load_target


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link_to_fifo(path: Path) -> None:
    os.mkfifo(path.with_name("fifo"))
    path.symlink_to("fifo")


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        before = Path.cwd()
        os.chdir(path.parent)  # the name of a socket may have 108 bytes
        try:
            server.bind(path.name)
        finally:
            os.chdir(before)


def folder(path: Path) -> None:
    path.mkdir()


def loop(path: Path) -> None:
    path.symlink_to(path.name)


KINDS = [fifo, link_to_fifo, device, bound_socket, folder, loop]
READERS: dict[str, Callable[[Path], object]] = {
    "manifest.json": lambda path: Bundle.open(path.parent),
    "adapter.safetensors": RuntimeAdapter.open,
    "rules.cache": lambda path: prompt_cache.read(path, ""),
    "tokenizer.json": Tokenizer.open,
    "tokenizer.json of a checkpoint": read_tokenizer,
    "tokenizer.model": sentencepiece.read,
    "vocab.json": lambda path: bytelevel.convert(path, path, "gpt2"),
    "config.json": read_json,
    "model.safetensors": read_header,
    "text": lambda path: load_passages(path, "evaluation"),
    "task": read_task,
    "schema": lambda path: form(path, None, ()),
    "board.toml": lambda path: load_target(str(path)),
    "recipe.json": read_replay,
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_what_is_no_regular_file_is_one_line_at_once(make: Callable[[Path], None], name: str, tmp_path: Path) -> None:
    path = tmp_path / name.split()[0]
    make(path)
    with pytest.raises(EdgeLMError) as raised:
        READERS[name](path)
    assert "\n" not in str(raised.value)
    assert str(tmp_path) in str(raised.value)


def test_regular_files_and_links_to_them_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes("ä\r\nb\rc".encode())
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "link") == path.read_bytes()
    assert read_text(path) == path.read_text(encoding="utf-8")
    with open_regular(path) as file:
        assert file.read(2) == "ä".encode()


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="more than 1,000 bytes"):
        read_bytes(path, 1000)


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_an_impossible_name_is_an_os_error(name: str) -> None:
    with pytest.raises(OSError, match=r"possible file name|No such file"):
        read_bytes(name)


def test_links_in_a_circle_are_told(tmp_path: Path) -> None:
    circle = tmp_path / "circle"
    loop(circle)
    for call in (
        lambda: edgelm.load(circle),
        lambda: edgelm.export(circle),
        lambda: edgelm.export(None, adapter=circle),
        lambda: edgelm.export(None, calibrate=circle),
    ):
        with pytest.raises(EdgeLMError, match="circle"):
            call()

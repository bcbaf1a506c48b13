"""Several chat templates, wherever a checkpoint keeps them, and the special tokens that they name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgelm.errors import CheckpointError, OptionError, PromptError
from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.pipeline import export
from edgelm.exporter.tokenizer.text_files import read_text
from edgelm.runtime.lm import load

transformers = pytest.importorskip("transformers")

TOOLS = [{"type": "function", "function": {"name": "lamp", "description": "d", "parameters": {"type": "object"}}}]
MESSAGES = [{"role": "user", "content": "on"}]


def source(name: str) -> str:
    return f"{name}:{{{{ bos_token }}}}{{{{ messages[0].content }}}}{{{{ tools | tojson if tools else '' }}}}"


NAMES = ("default", "rag", "tool_use")


def listed(*names: str) -> list[dict[str, str]]:
    return [{"name": name, "template": source(name)} for name in names]


PLACES: dict[str, tuple[Any, dict[str, str]]] = {
    "a list in tokenizer_config.json": (listed("default", "tool_use", "rag"), {}),
    "an object": ({name: source(name) for name in NAMES}, {}),
    "files of their own": (
        None,
        {
            "chat_template.jinja": source("default"),
            "additional_chat_templates/tool_use.jinja": source("tool_use"),
            "additional_chat_templates/rag.jinja": source("rag"),
        },
    ),
    "files before settings": (
        [*listed("default", "rag"), {"name": "tool_use", "template": "old"}],
        {"additional_chat_templates/tool_use.jinja": source("tool_use")},
    ),
    "a file before the default of a list": (
        [{"name": "default", "template": "old"}, *listed("tool_use", "rag")],
        {"chat_template.jinja": source("default")},
    ),
    "a processor's file": (None, {"chat_template.json": json.dumps({"chat_template": listed(*NAMES)})}),
    "a processor's settings": (None, {"processor_config.json": json.dumps({"chat_template": listed(*NAMES)})}),
}


@pytest.fixture(scope="module")
def plain(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint(num_hidden_layers=1, chat_template=None)


def with_templates(plain: Path, folder: Path, value: Any, files: dict[str, str], **settings: Any) -> Path:
    copy = shutil.copytree(plain, folder)
    path = copy / "tokenizer_config.json"
    values = json.loads(path.read_text()) | settings
    path.write_text(json.dumps(values if value is None else values | {"chat_template": value}))
    for name, text in files.items():
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text(text)
    return copy


def text_of(folder: Path) -> Any:
    return read_text(folder, Config(json.loads((folder / "config.json").read_text()), folder / "config.json"))


@pytest.mark.parametrize("place", PLACES)
def test_every_template_is_found(plain: Path, tmp_path: Path, place: str) -> None:
    text = text_of(with_templates(plain, tmp_path / "c", *PLACES[place]))
    assert text.template == source("default")
    assert text.templates == {name: source(name) for name in ("rag", "tool_use")}
    assert not text.remarks


@pytest.mark.parametrize("place", ["a list in tokenizer_config.json", "files of their own"])
def test_tool_use_is_used_where_there_are_tools(plain: Path, tmp_path: Path, place: str) -> None:
    copy = with_templates(plain, tmp_path / "c", *PLACES[place])
    theirs = transformers.AutoTokenizer.from_pretrained(copy)
    with load(export(copy, "x86-64", "fp32", output=tmp_path / "b").path) as lm:
        for options in ({}, {"tools": TOOLS}, {"template": "rag"}, {"template": "default", "tools": TOOLS}):
            named = {"chat_template": options["template"]} if "template" in options else {}
            expected = theirs.apply_chat_template(MESSAGES, tools=options.get("tools"), tokenize=False, **named)
            completion = lm.generate(MESSAGES, max_tokens=1, echo=True, **options)
            assert completion.text.startswith(expected)
        with pytest.raises(PromptError, match="no chat template 'none'"):
            lm.generate(MESSAGES, template="none")
        for bad in ({"tools": "lamp"}, {"tools": [1]}, {"template": 1}):
            with pytest.raises(OptionError, match=r"tools must be|template must be"):
                lm.generate(MESSAGES, **bad)


EXTRA: dict[str, dict[str, Any]] = {
    "two": {"additional_special_tokens": ["<unk>", "</s>"]},
    "an object": {"additional_special_tokens": [{"content": "</s>", "lstrip": False, "__type": "AddedToken"}]},
    "none": {"additional_special_tokens": []},
    "with a named one": {"additional_special_tokens": ["</s>"], "extra_special_tokens": {"image_token": "<unk>"}},
}


@pytest.mark.parametrize("case", EXTRA)
def test_special_tokens_without_a_name_are_a_list(plain: Path, tmp_path: Path, case: str) -> None:
    body = "{{ (additional_special_tokens or []) | join('+') }}{{ image_token }}:{{ messages[0].content }}"
    copy = with_templates(plain, tmp_path / "c", body, {}, **EXTRA[case])
    theirs = transformers.AutoTokenizer.from_pretrained(copy)
    with load(export(copy, "x86-64", "fp32", output=tmp_path / "b").path) as lm:
        assert lm.encode_prompt(MESSAGES) == theirs.apply_chat_template(MESSAGES, return_dict=False)


@pytest.mark.parametrize(
    ("names", "first", "others", "told"),
    [
        (("rag",), "rag", {}, False),
        (("tool_use",), "tool_use", {}, False),
        (("tool_use", "rag"), "rag", {"tool_use", "rag"}, True),
    ],
)
def test_where_none_is_named_default(
    plain: Path, tmp_path: Path, names: tuple[str, ...], first: str, others: set[str], told: bool
) -> None:
    text = text_of(with_templates(plain, tmp_path / "c", listed(*names), {}))
    assert text.template == source(first)
    assert set(text.templates) == set(others)
    assert bool(text.remarks) == told


@pytest.mark.parametrize("value", [7, ["a"], [{"name": "default"}], {"default": 1}, [{"name": 1, "template": "x"}]])
def test_what_is_no_template_is_named(plain: Path, tmp_path: Path, value: Any) -> None:
    with pytest.raises(CheckpointError, match="'chat_template' is not a string or a list of named templates"):
        text_of(with_templates(plain, tmp_path / "c", value, {}))


def test_special_tokens_by_names_of_their_own(plain: Path, tmp_path: Path) -> None:
    template = "{{ image_token }}|{{ boi_token }}|{{ bos_token }}|{{ messages[0].content }}"
    extra = {"image_token": "<image>", "boi_token": {"content": "<boi>", "special": True}}
    copy = with_templates(plain, tmp_path / "c", template, {}, extra_special_tokens=extra)
    values = json.loads((copy / "config.json").read_text())
    text = read_text(copy, Config({**values, "vocab_size": 310}, copy / "config.json"))
    assert text.names["image_token"] == "<image>"
    assert text.names["boi_token"] == "<boi>"
    bundle = export(copy, "x86-64", "fp32", output=tmp_path / "b")
    with load(bundle.path) as lm:
        assert lm.generate("on", max_tokens=1, echo=True).text.startswith("<image>|<boi>|<s>|on")
    theirs = transformers.AutoTokenizer.from_pretrained(
        copy, extra_special_tokens={"image_token": "<image>", "boi_token": "<boi>"}
    )
    assert theirs.apply_chat_template(MESSAGES, tokenize=False) == "<image>|<boi>|<s>|on"

"""What a caller of the Python interface gives wrong: an EdgeLMError, or a TypeError that names the argument."""

from __future__ import annotations

import math
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgelm
from edgelm.errors import EdgeLMError, OptionError, PromptError
from edgelm.runtime.lm import LM
from edgelm.target.target import load_target

FROZEN = Path(__file__).parent / "frozen" / "format1"
NO_PATHS = [5, b"x", 1.5, [], {}, True, object()]


@pytest.fixture(scope="module")
def lm() -> LM:
    return edgelm.load(FROZEN, threads=1, weight_cache=False)


@pytest.mark.parametrize("value", [None, *NO_PATHS])
def test_what_is_no_path_is_named(lm: LM, value: Any) -> None:
    with pytest.raises(TypeError, match="path must be a path, a str"):
        edgelm.load(value)
    with lm.session() as session:
        for use in (session.save, session.load):
            with pytest.raises(TypeError, match="path must be a path, a str"):
                use(value)


@pytest.mark.parametrize("value", NO_PATHS)
def test_an_adapter_and_a_draft_are_paths(lm: LM, value: Any) -> None:
    with pytest.raises(TypeError, match="adapter must be a path"):
        lm.generate("hi", adapter=value)
    with pytest.raises(TypeError, match="draft must be a path"):
        edgelm.load(FROZEN, draft=value)


@pytest.mark.parametrize("value", NO_PATHS)
@pytest.mark.parametrize("name", ["model", "target", "adapter", "output", "calibrate", "card", "recipe"])
def test_the_paths_of_an_export(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be a path"):
        edgelm.export(**{name: value})


@pytest.mark.parametrize("name", ["threads", "prefill_threads"])
@pytest.mark.parametrize("value", ["x", b"1", [], 1.5, True, 0, -1, 10**30, math.inf, math.nan])
def test_numbers_of_threads(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=f"{name} must be"):
        edgelm.load(FROZEN, **{name: value})


@pytest.mark.parametrize("value", ["x", b"1", [], True, 0, -1, math.inf, math.nan])
def test_a_limit_of_memory(value: Any) -> None:
    with pytest.raises(EdgeLMError, match="max_memory_mb must be a number above 0"):
        edgelm.load(FROZEN, max_memory_mb=value)


FLAGS = ["raw", "parse_special", "reuse_cache", "echo", "token_healing"]


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("value", ["x", 1, b"1", [True], math.nan])
def test_flags_of_a_generation_are_true_or_false(lm: LM, name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be True or False, not "):
        lm.generate("hi", max_tokens=1, **{name: value})


def test_other_arguments_of_a_model_are_named(lm: LM) -> None:
    odd: Any = object()
    with lm.session() as session:
        for name, call in {
            "raw": lambda: lm.encode_prompt("hi", raw=odd),
            "how": lambda: lm.count_prompt("hi", how=odd),
            "prompts": lambda: lm.batch(odd),
            "texts": lambda: lm.complete_ids(odd),
            "tokens": lambda: session.save("x.cache", tokens=odd),
        }.items():
            with pytest.raises(TypeError, match=f"^{name} must be "):
                call()
        with pytest.raises(OptionError, match=r"^top must be an integer"):
            session.score("hi", top=odd)
        with pytest.raises(OptionError, match=r"^cancel must be a threading\.Event"):
            session.score("hi", cancel=odd)


@pytest.mark.parametrize("name", ["\0", "a\0b", "\ud800"])
def test_names_that_no_file_has(lm: LM, name: str) -> None:
    with lm.session() as session:
        for call in (session.save, session.load, lm.open_adapter, edgelm.load):
            with pytest.raises(EdgeLMError):
                call(name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weight_cache", "x"),
        ("on_bytes", 5),
        ("parallel", 10**400),
        ("parallel", "2"),
        ("max_memory_mb", 10**400),
        ("draft", b"x"),
    ],
)
def test_other_arguments_of_a_load(name: str, value: Any) -> None:
    with pytest.raises((TypeError, OptionError), match=f"^{name} must be "):
        edgelm.load(FROZEN, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((flag, value) for flag in ("overwrite", "force", "lora_ready") for value in ("x", 1, None)),
        *((name, 5) for name in ("quant", "revision", "file", "exporter", "kv", "prefill", "language", "task")),
        *(("context", value) for value in ("128", 1.5, True, [])),
        *(("max_size", value) for value in (1.5, [], b"1MB")),
        *(("trim_vocab", value) for value in (5, [5], object())),
        ("progress", print),
        ("max_kld", "0.1"),
    ],
)
def test_other_arguments_of_an_export(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be "):
        edgelm.export(**{"target": "x86-64", "quant": "fp32", name: value})


@pytest.mark.parametrize("value", [None, *NO_PATHS])
def test_arguments_of_an_adapters_export(value: Any) -> None:
    for name in ("adapter", "base", *(() if value is None else ("output",))):
        with pytest.raises(TypeError, match=f"^{name} must be a path"):
            edgelm.export_adapter(**{"adapter": "x", "base": FROZEN, name: value})
    with pytest.raises(TypeError, match=r"^overwrite must be True or False"):
        edgelm.export_adapter("x", FROZEN, overwrite="no")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"did you mean output"):
        edgelm.export_adapter("x", FROZEN, outputs="y")  # type: ignore[call-arg]


def test_other_public_names(lm: LM) -> None:
    bundle, odd = edgelm.Bundle.open(FROZEN), np.array([1, 2])
    for name, call in {
        "config": lambda: edgelm.GenerationConfig.from_hf(None),  # type: ignore[arg-type]
        "check": lambda: edgelm.Bundle.open(FROZEN, check=odd),  # type: ignore[arg-type]
        "on_bytes": lambda: bundle.verify(5),  # type: ignore[arg-type]
        "name_or_path": lambda: load_target(None),  # type: ignore[arg-type]
        "quant": lambda: load_target("rpi5").recipe(8),  # type: ignore[arg-type]
        "ids": lambda: lm.engine.forward([1.5]),  # type: ignore[list-item]
        "num_logits": lambda: lm.engine.forward([3], odd),  # type: ignore[arg-type]
        "position": lambda: lm.engine.rewind(math.nan),  # type: ignore[arg-type]
    }.items():
        with pytest.raises(TypeError, match=f"^{name} must be "):
            call()
    for ids in ("x", [[1], [2, 3]], [None], b"x", {"a": 1}, [True]):
        with pytest.raises(TypeError, match=r"^ids must be token ids"):
            lm.engine.forward(ids)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="only text is supported"):
        lm.generate([{"role": "user", "content": [{"type": odd, "text": "x"}]}])
    with pytest.raises(OptionError, match=r"^cancel must be a threading\.Event"):
        lm.generate("hi", cancel=threading.Event)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["x" * 5000, "é" * 300, "~nosuchuser/x", "a/" * 3000, "~"])
def test_names_that_no_folder_can_have(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    for call in (
        edgelm.load,
        edgelm.Bundle.open,
        load_target,
        partial(edgelm.export, target="x86-64"),
        partial(edgelm.export_adapter, base=FROZEN),
        partial(edgelm.export_adapter, FROZEN),
    ):
        with pytest.raises(EdgeLMError):
            call(name)

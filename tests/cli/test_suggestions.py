"""What is said of commands and options that are not there."""

from __future__ import annotations

import pytest

from edgelm.cli.group import COMMANDS
from edgelm.cli.suggestions import _COMMANDS, _NONE, _OPTIONS
from edgelm.version import __version__


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("exp", "export"),
        ("convert", "export"),
        ("generate", "run"),
        ("ls", "list"),
        ("download", "pull"),
        ("Benchmark", "bench"),
        ("ben", "bench"),
        ("info", "inspect"),
        ("e", "export"),
        ("exprot", "export"),
    ],
)
def test_a_command_by_what_others_call_it(edgelm, typed: str, meant: str) -> None:
    ended = edgelm(typed, "anything")
    assert ended.code == 2
    assert ended.err.startswith(f"error: no command {typed!r}: ")
    assert meant in ended.err.splitlines()[0]


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (("run", "b", "--n-predict", "4"), "did you mean --max-tokens? see: edgelm run --help"),
        (("run", "b", "--max_tokens", "4"), "did you mean --max-tokens? see: edgelm run --help"),
        (("run", "b", "--max", "4"), "did you mean --max-tokens or --max-memory? see: edgelm run --help"),
        (("run", "b", "--sead", "1"), "did you mean --seed"),
        (("run", "b", "--repeat-penalty", "1"), "did you mean --repetition-penalty?"),
        (("run", "b", "--file", "x"), "did you mean --prompt-file?"),
        (("run", "-m", "b"), "the model or bundle is the first argument, without an option; see: edgelm run --help"),
        (("run", "b", "--ctx-size", "9"), "a bundle's context is that of its export: edgelm export MODEL --context N;"),
        (("run", "b", "-c", "9"), "a bundle's context is that of its export: edgelm export MODEL --context N;"),
        (("export", "--ctx-size", "9"), "did you mean --context?"),
        (("export", "--quantization", "int4"), "did you mean --quant?"),
        (("chat", "b", "--n-gpu-layers", "9"), "the target that a bundle was exported for says what runs it"),
        (("-V",), "did you mean --version?"),
        (("verify", "b", "--zzz"), "see: edgelm verify --help"),
    ],
)
def test_an_option_by_what_others_call_it(edgelm, args: tuple[str, ...], hint: str) -> None:
    ended = edgelm(*args)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: no such option ")
    assert ended.err.splitlines()[1].startswith(f"hint: {hint}")


def test_what_stands_in_the_wrong_place(edgelm, tiny_bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_bundle.path.parent)
    name = tiny_bundle.path.name
    for args, message, hint in (
        (
            ("export", "rpi5"),
            "rpi5 is a target, not a model",
            "the model that comes with edgelm: edgelm export --target rpi5",
        ),
        (("run", "hello", name), "bundle hello does not exist", f"the bundle comes first: edgelm run {name} hello"),
        (
            ("run", f"{name}/model.onnx", "-p", "hi"),
            f"{name}/model.onnx is a file in a bundle",
            f"give the folder: {name}",
        ),
        (("export", name, "--target", "rpi5"), f"{name} is a bundle, not a checkpoint", "export the model"),
    ):
        ended = edgelm(*args)
        assert (ended.code, ended.out) == (1, "")
        assert ended.err.startswith(f"error: {message}\nhint: ")
        assert hint in ended.err


def test_words_without_quotes_are_one_prompt(edgelm, tiny_bundle) -> None:
    asked = ("run", tiny_bundle.path, "-n", "4", "--raw")
    assert edgelm(*asked, "hello", "world") == edgelm(*asked, "hello world")


def test_no_name_has_two_meanings() -> None:
    others = [name for names in _COMMANDS.values() for name in names]
    assert len(others) == len(set(others))
    assert not set(others) & set(COMMANDS)
    assert all(name.startswith("-") for names in (*_OPTIONS.values(), *_NONE) for name in names)


@pytest.mark.parametrize("name", COMMANDS)
def test_version_behind_every_command(edgelm, name: str) -> None:
    assert edgelm(name, "--version") == (0, f"edgelm {__version__}\n", "")


def test_help_and_version_are_commands_too(edgelm) -> None:
    assert edgelm("version") == (0, f"edgelm {__version__}\n", "")
    assert edgelm("cache", "clear", "--version").out == f"edgelm {__version__}\n"
    assert edgelm("help") == edgelm("--help")
    assert edgelm("help", "cache", "clear") == edgelm("cache", "clear", "--help")
    assert edgelm("help", "nonsense").code == 2

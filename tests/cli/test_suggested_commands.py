"""Every command that an error, hint, note or ``next:`` line suggests works when it is typed.

They are found in the source: strings that are no docstrings and hold ``edgelm COMMAND …``. Each must be understood by the
command line as it stands, and each is run with real things in the place of what it leaves open.
"""

from __future__ import annotations

import ast
import io
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import pytest
from safetensors.numpy import save_file

import edgelm.cli
from edgelm import demo
from edgelm.bundle.manifest import Manifest
from edgelm.bundle.reader import Bundle
from edgelm.cli.group import COMMANDS
from edgelm.cli.group import edgelm as group
from edgelm.errors import suggest
from edgelm.exporter.pipeline import export
from edgelm.machine.host import read_cpu
from edgelm.target.fallback import export_line

SOURCE = Path(edgelm.cli.__file__).parents[1]
# What follows a command in a sentence.
_PROSE = r" (?:tells|shows|lists|keeps|measures|on|then|and|or|with|first|brings|that|of|it|is|in|from|to|reads|works|there|needs|makes)\b"
_FOUND = re.compile(rf"\bedgelm (?:{'|'.join(COMMANDS)})\b[^;,?\n`)\]]*")
_OWN = ("emulate", "serve")  # a sandbox of 150 MB; a server that does not end: these are parsed alone


class Suggestion(NamedTuple):
    where: str
    line: str  # with {expressions} and PLACEHOLDERS


def _texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(Line, text) of every string but docstrings; what an f-string computes stands in braces, as does a `suggest`'s word."""
    skip: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                skip.add(id(first.value))
        if isinstance(node, ast.JoinedStr):
            skip |= {id(part) for part in ast.walk(node) if part is not node}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "suggest":
            words = [f'"{word}"' if " " in word else word for word in map(_word, node.args)]
            yield node.lineno, " ".join(["edgelm", *words])
        elif id(node) not in skip and isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
        elif isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(_word(part) for part in node.values)


def _word(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)  # as it is in a string; in a `suggest` it is quoted there
    value = node.value if isinstance(node, ast.FormattedValue) else node
    return "{" + re.sub(r"\W+", "_", ast.unparse(value)).strip("_") + "}"


def suggestions() -> Iterator[Suggestion]:
    for path in sorted(SOURCE.rglob("*.py")):
        for line, text in _texts(ast.parse(path.read_text())):
            for match in _FOUND.finditer(re.sub(r"``", "", text)):
                found = re.split(rf"{_PROSE}|  |: |'|\.$|\. | \(", match[0])[0].rstrip(" .:|…")
                if found.count('"') == 1:
                    found += '"'
                yield Suggestion(f"{path.relative_to(SOURCE)}:{line}", found)


ALL = list(suggestions())
LINES = sorted({found.line for found in ALL})


def test_they_are_found() -> None:
    assert len(ALL) >= 60
    assert len(LINES) >= 35
    lines = "\n".join(LINES)
    for part in ("edgelm doctor --save myboard.toml", "edgelm export MODEL --adapter DIR", "edgelm verify {"):
        assert part in lines


@pytest.mark.parametrize("line", LINES)
def test_the_command_line_understands_it(line: str) -> None:
    command: click.Command = group
    words = shlex.split(line)[1:]
    context = click.Context(group, info_name="edgelm")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        if found is None:
            break
        command, words = found, words[1:]
    command.make_parser(click.Context(command, info_name=command.name)).parse_args(words)


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle that takes adapters, a checkpoint, an adapter for it, and a report of bench."""
    folder = tmp_path_factory.mktemp("a place")
    shutil.copytree(demo.path(), folder / "model")
    export(folder / "model", "rpi5", "int4", output=folder / "bundle", calibrate="none", lora_ready=True)
    export(folder / "model", "rpi5", "int4", output=folder / "vectors", calibrate="none", task="embedding")
    lora = folder / "lora"
    lora.mkdir()
    width = json.loads((folder / "model" / "config.json").read_text())
    shapes = {"A": (2, width["intermediate_size"]), "B": (width["hidden_size"], 2)}
    name = "base_model.model.model.layers.0.mlp.down_proj"
    arrays = {f"{name}.lora_{part}.weight": np.full(shape, 0.01, np.float32) for part, shape in shapes.items()}
    save_file(arrays, lora / "adapter_model.safetensors")
    (lora / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    return folder


def _filled(line: str, place: Path) -> list[str]:
    """The words of a suggestion, with real things in the place of what it leaves open."""
    adapter = " --adapter-only" in line
    real = {
        "MODEL": str(place / ("lora" if adapter else "model")),
        "ADAPTER": str(place / "lora"),
        "ADAPTER_FOLDER": str(place / "lora"),
        "BUNDLE": str(place / "bundle"),
        "DIR": str(place / "lora"),
        "FILE": "results.csv",
        "FOLDER": "mirror",
        "NAME": "edgelm-home" if line.startswith("edgelm models") else "rpi5",
        "TARGET": "rpi5",
        "T": "rpi5",
        "Q": "int8",
        "N": "64",
        '"…"': "hi",
        "…": "hi",
    }
    filled = []
    for word in shlex.split(line):
        expression = word[1:-1] if word.startswith("{") else ""
        if word in real:
            filled.append(real[word])
        elif not expression:
            filled.append(word)
        elif (
            filled[-1] == "--target"
            or "target" in expression
            or "best" in expression
            or "board" in expression
            or expression == "name"
        ):
            filled.append("rpi5")
        elif "quant" in expression:
            filled.append("int8")
        elif "smallest" in expression:
            filled.append("rpi4")
        elif expression in ("model", "model_name") or "id_if" in expression:
            filled.append("edgelm-home")
        elif line.startswith("edgelm export"):
            is_base = filled[-1] == "--base" or (expression == "bundle_path")
            filled.append(str(place / ("bundle" if is_base else "lora" if adapter else "model")))
        elif filled[-1] == "--adapter":
            filled.append(str(place / "adapter.safetensors"))
        else:
            filled.append(str(place / ("vectors" if line.startswith("edgelm embed") else "bundle")))
    return filled[1:]


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in LINES if line.split()[1] not in _OWN])
def test_it_works_when_it_is_typed(
    line: str,
    edgelm: Callable[..., tuple[int, str, str]],
    materials: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGELM_MODELS", str(tmp_path / "store"))
    monkeypatch.setenv("EDGELM_RESULTS", str(tmp_path / "results.db"))
    monkeypatch.setenv("EDGELM_PROFILES", str(tmp_path / "profiles"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    monkeypatch.setenv("EDGELM_MIRROR", str(tmp_path / "mirror"))
    shutil.copytree(materials / "model", tmp_path / "mirror" / "SmolLM2-135M-Instruct")
    if "--adapter " in line and line.startswith("edgelm run"):
        made = ("export", materials / "lora", "--adapter-only", "--base", materials / "bundle")
        assert edgelm(*made, "-o", materials / "adapter.safetensors", "--overwrite").code == 0
    words = _filled(line, materials)
    if "./myboard.toml" in words:
        assert edgelm("doctor", "--save", "myboard.toml", "--json").code in (0, 1)
    if words[:1] == ["results"] and words[1:2] == ["export"]:
        assert edgelm("bench", materials / "bundle", "-p", "8", "-n", "4", "-r", "1", "--no-sensors").code == 0
    few = {
        "bench": ["-p", "8", "-n", "4", "-r", "1"],
        "run": ["-n", "4"],
        "export": ["--overwrite"],
        "tune": ["--time", "5s"],
    }
    required = {"export": ["--target", "rpi5"], "eval": ["--task", "home", "--limit", "1"]}
    extra = few.get(words[0], [])
    if words[0] in required and required[words[0]][0] not in words and "--adapter-only" not in words:
        extra = [*extra, *required[words[0]]]
    if words in (["export", "--adapter-only"], ["results", "plot"]) or (
        len(words) == 1
        and words[0]
        in ("export", "run", "chat", "bench", "verify", "inspect", "estimate", "eval", "embed", "fleet", "tune")
    ):
        pytest.skip("names a command, and tells no command line")
    ended = edgelm(*words, *extra)
    assert ended.code in ((0, 1) if words[0] == "doctor" else (0,)), ended.err
    assert "error:" not in ended.err or words[0] == "doctor"


def test_words_with_blanks_are_quoted() -> None:
    assert suggest("export", "a b/c", "--target", "auto") == "edgelm export 'a b/c' --target auto"
    assert suggest("run", Path("x"), '"…"') == 'edgelm run x "…"'


def test_a_local_checkpoint_is_not_taken_for_a_name(materials: Path) -> None:
    manifest: Manifest = Bundle.open(materials / "bundle").manifest
    line = export_line(manifest, read_cpu(), None, "int8")
    assert line.startswith("edgelm export MODEL --target ")
    assert line.endswith("  (MODEL: the folder or file that model was exported from)")


def test_inspect_and_estimate_agree_on_what_fits(edgelm, materials: Path) -> None:
    model = str(materials / "model")
    needs = json.loads(edgelm("inspect", model, "--target", "rpi-zero2w", "--json").out)["needs"]
    for quant, need in needs["quants"].items():
        found = json.loads(edgelm("estimate", model, "--target", "rpi-zero2w", "--quant", quant, "--json").out)
        assert found["bundle_bytes"] == need["bundle_bytes"]
        assert found["memory"]["total_bytes"] == need["memory"]["total_bytes"]
        assert (found["fits"], found["context"]) == (need["fits"], needs["context"])


def test_max_size_takes_what_fits_to_the_byte(edgelm, materials: Path, tmp_path: Path) -> None:
    arguments = ("export", materials / "model", "--target", "rpi5", "--calibrate", "none", "--card", "none", "-o")
    assert edgelm(*arguments, tmp_path / "one").code == 0
    size = sum(file.stat().st_size for file in (tmp_path / "one").iterdir() if file.name != "manifest.json")
    assert edgelm(*arguments, tmp_path / "two", "--max-size", str(size)).code == 0
    refused = edgelm(*arguments, tmp_path / "three", "--max-size", str(size - 1))
    assert refused.code == 1
    assert "more than --max-size" in refused.err

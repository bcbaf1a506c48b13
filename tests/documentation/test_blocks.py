"""What README.md and docs/ tell people to type is what edgelm understands, and does what they say."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import click
import pytest
from blocks import LANGUAGES, NOTES, PAGES, ROOT, Block, blocks, commands
from hub_server import Hub, serving

from edgelm import demo
from edgelm.cli.group import edgelm as group
from edgelm.target.target import load_target

ALL = [block for page in [*PAGES, *NOTES] for block in blocks(page)]
MODELS = {  # ids of the hub in the documentation → what the server here has in their place
    "HuggingFaceTB/SmolLM2-135M-Instruct": "checkpoint",
    "Qwen/Qwen2.5-0.5B-Instruct": "checkpoint",
    "owner/name": "gguf",
}
# Commands in blocks that are left out, which nothing here can run → where they, or their like, are run.
ELSEWHERE = {
    r"serve ": "tests/serve/test_server.py",
    r"emulate ": "tests/emulate/test_board.py",
    r"tune |.* --no-profile": "tests/tuning/test_tune.py",
    r"results --calibrate|estimate .* ./mine.toml": "tests/cli/test_results_cli.py",
    r"fleet ": "tests/cli/test_fleet_cli.py",
    r".* --scheduler tcp:": "tests/cluster/test_cluster.py",
    r"bench .* --sustained 10m": "tests/bench/test_sustained.py",
    r"pull .* --from /media": "tests/cli/test_names_cli.py",
}
_EXPORT = re.compile(
    r"^edgelm export --target ([\w-]+)(?: --overwrite)?(?: +#.*)?$", re.M
)  # of the model that is there
_SHIM = '#!/bin/sh\nexec "{python}" -m edgelm "$@"\n'
# Installing is tested elsewhere: here an extra must be one of edgelm's.
_PIP = """#!{python}
import re, sys, tomllib, pathlib
extras = tomllib.loads(pathlib.Path("{root}/pyproject.toml").read_text())["project"]["optional-dependencies"]
for argument in sys.argv[1:]:
    for name in re.findall(r"(?:edgelm|[.])\\[([^]]+)\\]", argument):
        missing = set(name.split(",")) - set(extras)
        assert not missing, f"no extra {{missing}}"
"""


def identity(block: Block) -> str:
    return block.where


def test_there_are_blocks_of_every_kind() -> None:
    assert {"sh", "python", "text"} <= {block.language for block in ALL}
    assert len([block for block in ALL if block.language == "sh" and not block.skip]) > 20


@pytest.mark.parametrize("block", ALL, ids=identity)
def test_a_block_is_what_it_says_it_is(block: Block) -> None:
    assert block.language in LANGUAGES, f"{block.where}: name the language: {', '.join(sorted(LANGUAGES))}"
    if block.language == "python":
        ast.parse(block.code)
    elif block.language == "toml":
        tomllib.loads(block.code)
    elif block.language == "json":
        for line in (
            [block.code] if block.code.lstrip().startswith("{") and "\n{" not in block.code else block.code.splitlines()
        ):
            json.loads(line)
    elif block.language == "sh":
        done = subprocess.run(["bash", "-n"], input=block.code, text=True, capture_output=True, check=False)
        assert not done.returncode, f"{block.where}: {done.stderr}"


@pytest.mark.parametrize("block", [block for block in ALL if list(commands(block))], ids=identity)
def test_every_command_and_option_exists(block: Block) -> None:
    for words in commands(block):
        _parse(group, words, block.where)


def _parse(command: click.Command, words: list[str], where: str) -> None:
    """UsageError where an option or command is not known; values are not looked at."""
    context = click.Context(command, info_name=command.name)
    if not isinstance(command, click.Group):
        try:
            command.make_parser(context).parse_args(list(words))
        except click.UsageError as error:
            pytest.fail(f"{where}: edgelm {command.name} {' '.join(words)}: {error.format_message()}")
        return
    names = [i for i, word in enumerate(words) if not word.startswith("-")]
    if names and (inner := command.get_command(context, words[names[0]])):
        _parse(inner, words[names[0] + 1 :], where)
    elif names and words[names[0]] not in ("COMMAND", "…") and not command.invoke_without_command:
        pytest.fail(f"{where}: no command {words[names[0]]!r}")


# What runs


BOARDS = "tests/remote/test_on.py"  # runs commands --on a board, and what follows from what was measured there


def elsewhere(block: Block, words: list[str]) -> str | None:
    """The test that runs the like of a command in a block that is left out, where it cannot be run here."""
    if "--on ssh:" in block.code:
        return BOARDS
    return next((test for pattern, test in ELSEWHERE.items() if re.match(pattern, shlex.join(words))), None)


def test_what_is_run_elsewhere_is_named() -> None:
    blocks = [block for block in ALL if block.page in PAGES and block.language == "sh"]
    left = [test for block in blocks if block.skip for words in commands(block) if (test := elsewhere(block, words))]
    assert set(left) == {*ELSEWHERE.values(), BOARDS}
    assert all((ROOT / test).is_file() for test in left)
    assert len([test for test in left if test != BOARDS]) * 5 < len([words for b in blocks for words in commands(b)])


@pytest.fixture(scope="session")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages take as given: my-model, my-bundle, my-lora, my-model.gguf, texts."""
    from gguf_file import write_gguf

    from edgelm.exporter.pipeline import export

    folder = tmp_path_factory.mktemp("materials")
    model = folder / "my-model"
    export(demo.path(), "x86-64", "int4", output=folder / "my-bundle", calibrate="none")
    _write_beginning(model, layers=2)
    _write_lora(model, folder / "my-lora")
    write_gguf(model, folder / "my-model.gguf")
    sentence = "The small robot found a key under the table, and the door opened with a quiet sound. "
    (folder / "my-text.txt").write_text(sentence * 150)
    (folder / "my-prompt.txt").write_text(sentence * 2)
    (folder / "texts").mkdir()
    (folder / "texts" / "one.txt").write_text(sentence * 20)
    talk = {"messages": [{"role": "user", "content": "turn on the lamp"}], "answer": '{"actions":[]}'}
    (folder / "prompts-and-answers.jsonl").write_text((json.dumps(talk) + "\n") * 30)
    return folder


def _write_beginning(folder: Path, layers: int) -> None:
    """The first layers of the model that comes with edgelm: it says nothing of sense, and is exported in less time."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(demo.path(), folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["num_hidden_layers"] > layers
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
    weights, left = load_file(folder / "model.safetensors"), tuple(f"model.layers.{i}." for i in range(layers))
    kept = {name: value for name, value in weights.items() if ".layers." not in name or name.startswith(left)}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def _write_lora(model: Path, folder: Path) -> None:
    """An adapter of one matrix, as PEFT saves it."""
    import numpy as np
    from safetensors.numpy import save_file

    module, width = "base_model.model.model.layers.0.mlp.down_proj", json.loads((model / "config.json").read_text())
    sizes = {"A": (2, width["intermediate_size"]), "B": (width["hidden_size"], 2)}
    random = np.random.default_rng(0)
    folder.mkdir()
    save_file(
        {f"{module}.lora_{k}.weight": random.normal(0, 0.01, shape).astype(np.float32) for k, shape in sizes.items()},
        folder / "adapter_model.safetensors",
    )
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "owner/base"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))


@pytest.fixture(scope="session")
def hub(materials: Path) -> Iterator[Hub]:
    """The hub, with small models under the names that the pages use."""
    checkpoint = {path.name: path.read_bytes() for path in (materials / "my-model").iterdir()}
    kinds = {"checkpoint": checkpoint, "gguf": {"name-Q8_0.gguf": (materials / "my-model.gguf").read_bytes()}}
    with serving(Hub()) as hub:
        for name, kind in MODELS.items():
            hub.publish(name, kinds[kind])
        yield hub


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles of the model that comes with edgelm, by target: the same command on the next page need not make them again."""
    return tmp_path_factory.mktemp("exported")


@pytest.fixture
def run(materials: Path, exported: Path, hub: Hub, tmp_path: Path) -> Callable[[Block], None]:
    """Runs blocks in one folder, with edgelm of this tree and installing left out."""
    home, tools = tmp_path / "home", tmp_path / "tools"
    work = tmp_path / "edgelm"
    shutil.copytree(materials, work)
    for name in ("pyproject.toml", "tools", "examples"):
        if (ROOT / name).exists():
            (work / name).symlink_to(ROOT / name)
    home.mkdir()
    tools.mkdir()
    for name, text in {"edgelm": _SHIM, "pip": _PIP}.items():
        (tools / name).write_text(text.format(python=sys.executable, root=ROOT))
        (tools / name).chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING")) and "proxy" not in k.lower()}
    environment = kept | {
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "HF_ENDPOINT": hub.url,
        "XDG_CACHE_HOME": str(home / "cache"),
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "EDGELM_WEIGHT_CACHE": "on",
        "EDGELM_RESULTS": str(home / "results.sqlite3"),
    }
    (work / ".venv" / "bin").mkdir(parents=True)
    (work / ".venv" / "bin" / "activate").write_text(f"export PATH={tools}:$PATH\n")

    def one(block: Block) -> None:
        code = block.code.replace("python3 -m venv .venv", "true")  # a moment's shell stands for a new environment
        if block.language == "sh":
            code = _EXPORT.sub(lambda line: _copied(exported / line[1]) or line[0], code)
        command = ["bash", "-euc", code] if block.language == "sh" else [sys.executable, "-c", block.code]
        done = subprocess.run(
            command,
            cwd=work,
            env=environment,
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=900,
            check=False,
        )
        assert not done.returncode, f"{block.where}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        for target in _EXPORT.findall(block.code) if block.language == "sh" else ():
            name = f"edgelm-home-{target}-{load_target(target).default}"
            shutil.copytree(work / "bundles" / name, exported / target / name, dirs_exist_ok=True)

    return one


def _copied(kept: Path) -> str:
    """The line of shell that brings what was exported before; empty where nothing was."""
    return f"mkdir -p bundles && cp -r {kept}/. bundles/" if kept.is_dir() else ""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(block.language in ("sh", "python") for block in blocks(page))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_a_page_runs(page: Path, run: Callable[[Block], None]) -> None:
    pytest.importorskip("huggingface_hub")
    for block in blocks(page):
        if block.skip is None and block.language in ("sh", "python"):
            run(block)
        elif block.language == "sh":  # what of it needs no board, phone or compiler
            for words in commands(block):
                if elsewhere(block, words) is None:
                    again = ["--overwrite"] if words[0] == "export" else []  # the page may have exported it already
                    line = shlex.join(["edgelm", *words, *again])
                    run(replace(block, code=f"{line} || [ $? = 1 ]" if words[0] == "doctor" else line))

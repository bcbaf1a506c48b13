"""The site: every page has its place, references are whole, no link is broken."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from blocks import ROOT

import edgelm
from edgelm.cli.group import edgelm as group


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_site", ROOT / "tools" / "build_site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["build_site"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(tool: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx_ir")
    folder: Path = tmp_path_factory.mktemp("site") / "pages"
    tool.write_pages(folder)
    return folder


def _navigation() -> list[str]:
    def leaves(value: Any) -> list[str]:
        if isinstance(value, str):
            return [value]
        parts = value.values() if isinstance(value, dict) else value
        return [leaf for part in parts for leaf in leaves(part)]

    return leaves(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"])


def test_every_page_has_its_place_in_the_navigation(pages: Path) -> None:
    assert sorted(_navigation()) == sorted(str(page.relative_to(pages)) for page in pages.rglob("*.md"))


def test_every_command_and_option_is_in_the_reference(pages: Path) -> None:
    page = (pages / "reference" / "commands.md").read_text()
    context = click.Context(group, info_name="edgelm")
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if command.hidden:
            continue
        section = page.partition(f"\n## edgelm {name}\n")[2].partition("\n## edgelm ")[0]
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert any(option in section for option in parameter.opts), f"{name} {parameter.opts}"


def test_every_public_name_is_in_the_reference(pages: Path) -> None:
    page = (pages / "reference" / "python-api.md").read_text()
    for name in set(edgelm.__all__) - {"__version__"}:
        assert f"\n## edgelm.{name}\n" in page
    for method in ("LM.stream", "LM.generate", "LM.session", "Bundle.open"):
        assert f"\n### {method}\n" in page


def test_programs_find_every_page(pages: Path) -> None:
    text = (pages / "llms.txt").read_text()
    assert text.startswith("# edgelm\n\n> Small language models")
    lines = re.findall(r"^- \[.+\]\(https://edgelm\.example/\S*\): \S.+$", text, re.M)
    assert len(lines) == len(_navigation())


def test_remarks_that_do_not_fit_stand_above_their_commands(pages: Path) -> None:
    lines = (pages / "how-to" / "choose-a-recipe.md").read_text().splitlines()
    at = lines.index("edgelm export my-model --target rpi5")
    assert lines[at - 1] == "# the target's default"
    for page in pages.rglob("how-to/*.md"):
        for block in re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.M | re.S):
            assert not any(len(line) > 84 and "  # " in line for line in block.splitlines()), page.name


def test_the_readme_is_a_page() -> None:
    text = (ROOT / "README.md").read_text()
    assert text.count("\n") <= 150
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / link).exists(), link


def test_addresses_are_those_of_the_project() -> None:
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    assert urls["Repository"] in (ROOT / "README.md").read_text()
    assert tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["site_url"] == urls["Documentation"]


def test_the_site_builds_without_a_broken_link(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("zensical")
    pytest.importorskip("onnx_ir")
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    shutil.copy(ROOT / "zensical.toml", tmp_path)  # zensical looks for pages beside the file itself
    for name, value in {"ROOT": tmp_path, "PAGES": tmp_path / "build/docs", "SITE": tmp_path / "build/site"}.items():
        monkeypatch.setattr(tool, name, value)
    tool.main([], standalone_mode=False)
    for file in ("index.html", "search.json", "llms.txt", "reference/commands/index.html", "images/edgelm.svg"):
        assert (tmp_path / "build" / "site" / file).is_file()


def test_broken_links_are_found(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "index.html").write_text('<a href="a/">a</a><a href="a/#one">b</a><a href="b/">c</a><img src="x.svg">')
    (tmp_path / "a" / "index.html").write_text('<p id="one"><a href="../#two">d</a><a href="https://x.example/y">e</a>')
    assert list(tool.broken_links(tmp_path)) == [
        "a/index.html: ../#two: there is no such anchor",
        "index.html: b/: there is no such file",
        "index.html: x.svg: there is no such file",
    ]

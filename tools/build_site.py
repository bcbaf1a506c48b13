"""Build the documentation's site into build/site: python tools/build_site.py (make docs)

The pages are those of docs/. Two more are made from the program itself: the reference of commands from click, that of
Python from docstrings; and llms.txt, which lists all pages for programs that read. A broken link ends it with code 1.
"""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import click

import edgelm
from edgelm.cli.group import edgelm as cli
from edgelm.cli.sections import Sectioned

ROOT = Path(__file__).resolve().parent.parent
SOURCE, PAGES, SITE = ROOT / "docs", ROOT / "build" / "docs", ROOT / "build" / "site"
_WIDTH = 88
_LINE = 84  # characters of code that a page shows without scrolling
_SHELL = re.compile(r"(?<=^```sh\n).*?(?=^```$)", re.M | re.S)


@click.command(help=__doc__)
@click.option("--pages-only", is_flag=True, help="Only write build/docs; build nothing.")
def main(pages_only: bool) -> None:
    write_pages(PAGES)
    if pages_only:
        return
    shutil.rmtree(SITE, ignore_errors=True)
    built = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "-f", ROOT / "zensical.toml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        click.echo(built.stdout + built.stderr.partition("Traceback")[0], err=True)
        raise click.ClickException("zensical finds mistakes in the pages")
    if broken := list(broken_links(SITE)):
        raise click.ClickException("\n".join(broken))
    click.echo(f"{SITE.relative_to(ROOT)}/index.html  ({len(list(SITE.rglob('*.html')))} pages)")


def write_pages(folder: Path) -> None:
    """Everything that zensical is given: docs/ as it is, and what is made from the program."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(SOURCE, folder)
    for page in folder.rglob("*.md"):
        page.write_text(_SHELL.sub(_commented_above, page.read_text()))
    reference = folder / "reference"
    reference.mkdir(exist_ok=True)
    (reference / "commands.md").write_text(commands_page())
    (reference / "python-api.md").write_text(python_page())
    (folder / "llms.txt").write_text(llms_text(folder))


def _commented_above(block: re.Match[str]) -> str:
    """A block of shell; where remarks do not fit behind the commands they stand above them."""
    lines = block[0].splitlines()
    if max(map(len, lines), default=0) <= _LINE:
        return block[0]
    parts = [re.fullmatch(r"(\S.*?)  +(# .*)|(.*)", line) for line in lines]
    return "".join(
        f"{part[2]}\n{part[1]}\n" if part and part[2] else f"{line}\n" for part, line in zip(parts, lines, strict=True)
    )


# Commands


def commands_page() -> str:
    """A section for each command: its help, its examples, its options."""
    context = click.Context(cli, info_name="edgelm")
    lines = [
        "# Commands",
        "",
        "`edgelm COMMAND --help` prints the same. Every command ends with 0 where it did what it was asked, with 1",
        "and one line that says what failed, or with 2 where the command line is wrong.",
        "",
    ]
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        if not command.hidden:
            lines += _command(command, context, name)
    return "\n".join(lines) + "\n"


def _command(command: click.Command, parent: click.Context, name: str) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join(command.collect_usage_pieces(context))
    yield from (f"## edgelm {_path(context)}", "", "```text", f"edgelm {_path(context)} {usage}", "```", "")
    yield from _help(command.help or "")
    for title, records in _sections(command, context):
        yield from (f"| {title} | |", "|---|---|", *map(_row, records), "")
    if isinstance(command, click.Group):
        for part in command.list_commands(context):
            inner = command.get_command(context, part)
            assert inner is not None
            yield from _command(inner, context, part)


def _sections(command: click.Command, context: click.Context) -> list[tuple[str, list[tuple[str, str]]]]:
    """(Title, records of help) of a command's options, as its help has them."""
    if isinstance(command, Sectioned):
        return command.sections(context)
    found = [record for option in command.get_params(context) if (record := option.get_help_record(context))]
    return [("Options", found)] if found else []


def _path(context: click.Context) -> str:
    return context.command_path.removeprefix("edgelm ")


def _row(record: tuple[str, str]) -> str:
    names, text = (part.replace("|", "\\|") for part in record)
    return f"| `{names}` | {_escaped(text)} |"


def _help(text: str) -> Iterator[str]:
    """Help of a command as Markdown: blocks that click keeps as they are become code."""
    for block in inspect.cleandoc(text).split("\n\n"):
        kept = block.startswith("\b")
        lines = block.removeprefix("\b\n").splitlines()
        if not kept:
            yield from (_escaped(" ".join(lines)), "")
            continue
        if lines and not lines[0].startswith(" "):
            yield from (_escaped(lines.pop(0)), "")
        if lines:
            yield from ("```text", *(line.removeprefix("  ") for line in lines), "```", "")


def _escaped(text: str) -> str:
    return re.sub(r"([<>*_\[\]])", r"\\\1", text)


# Python


def python_page() -> str:
    """A section for each public name, and for what their calls return."""
    lines = [
        "# Python API",
        "",
        "The public names of `edgelm`; all else may change. [How to use them](python.md).",
        "",
    ]
    for name, value in _public():
        lines += _object(name, value)
    return "\n".join(lines) + "\n"


def _public() -> Iterator[tuple[str, Any]]:
    for name in sorted(edgelm.__all__, key=lambda name: (name[0].isupper(), name)):  # functions first
        if name != "__version__":
            yield f"edgelm.{name}", getattr(edgelm, name)
    from edgelm.runtime.loop.chunks import Chunk
    from edgelm.runtime.loop.results import Completion, Timings
    from edgelm.runtime.session import Session

    for value in (Session, Completion, Chunk, Timings):
        yield value.__name__, value


def _object(name: str, value: Any) -> Iterator[str]:
    yield from (f"## {name}", "")
    if not inspect.isclass(value):
        yield from (*_signature(name.removeprefix("edgelm."), value), *_docstring(value))
        return
    yield from _docstring(value)
    members = {k: v for home in reversed(value.__mro__[:-1]) for k, v in vars(home).items()}
    for member, method in members.items():
        target = method.fget if isinstance(method, property) else getattr(method, "__func__", method)
        if member.startswith("_") or not inspect.isfunction(target) or not target.__doc__:
            continue
        yield from (f"### {name.removeprefix('edgelm.')}.{member}", "")
        if not isinstance(method, property):
            yield from _signature(member, target)
        yield from _docstring(target)


def _signature(name: str, value: Any) -> Iterator[str]:
    parameters = [p for p in inspect.signature(value).parameters.values() if p.name not in ("self", "cls")]
    one = f"{name}({', '.join(map(str, parameters))})"
    yield "```text"
    if len(one) <= _WIDTH:
        yield one
    else:
        keyword = False
        yield f"{name}("
        for parameter in parameters:
            if parameter.kind is parameter.KEYWORD_ONLY and not keyword:
                keyword = True
                yield "    *,"
            yield f"    {parameter},"
        yield ")"
    yield from ("```", "")


def _docstring(value: Any) -> Iterator[str]:
    """Google's sections as lists; everything else as it is."""
    section = None
    for line in (inspect.getdoc(value) or "").splitlines():
        if match := re.fullmatch(r"(Args|Attributes|Returns|Raises|Yields):", line):
            section = match[1]
            yield from (f"**{section}**", "")
        elif section and re.match(r" {4}\S", line):
            yield _entry(line.strip(), section)
        elif section and line.startswith("     "):
            yield f"    {_ticks(line.strip())}"
        else:
            section = section if not line.strip() else None
            yield line if line.lstrip().startswith((">>>", "...")) else _ticks(line)
    yield ""


def _entry(line: str, section: str) -> str:
    name, colon, text = line.partition(":")
    if colon and section not in ("Returns", "Yields") and re.fullmatch(r"[\w*, ]+", name):
        return f"- `{name}`:{_ticks(text)}"
    return f"- {_ticks(line)}"


def _ticks(text: str) -> str:
    """Code as Markdown marks it; what is not code escaped."""
    parts = text.replace("``", "`").split("`")
    return "`".join(part if i % 2 else re.sub(r"([<>*\[\]])", r"\\\1", part) for i, part in enumerate(parts))


# llms.txt


def llms_text(folder: Path) -> str:
    """All pages with their first sentence, in the order of the navigation (llmstxt.org)."""
    project = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    lines = [f"# {project['site_name']}", "", f"> {project['site_description']}"]
    for entry in project["nav"]:
        ((title, value),) = entry.items()
        pages = value if isinstance(value, list) else [{title: value}]
        lines += ["", f"## {title}", ""]
        for page in pages:
            ((name, path),) = page.items()
            lines.append(f"- [{name}]({project['site_url']}{_address(path)}): {_first(folder / path)}")
    return "\n".join(lines) + "\n"


def _address(path: str) -> str:
    return re.sub(r"(^|/)index\.md$", r"\1", path).replace(".md", "/")


def _first(page: Path) -> str:
    """The first sentence below the title, without links and emphasis."""
    for block in page.read_text().split("\n\n")[1:]:
        if re.match(r"[A-Z`*\[]", block):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(block.split()))
            return re.split(r"(?<=[.:]) ", text)[0].rstrip(":").replace("**", "")
    return ""


# Links


class _Links(HTMLParser):
    """Addresses and anchors of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.append(value)
            elif name in ("id", "name") and value:
                self.anchors.add(value)


def broken_links(site: Path) -> Iterator[str]:
    """Links of a site to pages, files or anchors that it does not have. Those to other places are not followed."""
    pages = {path: _links(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            where = f"{path.relative_to(site)}: {link}"
            if not target.is_file():
                yield f"{where}: there is no such file"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors | {"__"}:
                yield f"{where}: there is no such anchor"


def _links(path: Path) -> _Links:
    page = _Links()
    page.feed(path.read_text())
    return page


if __name__ == "__main__":
    main()

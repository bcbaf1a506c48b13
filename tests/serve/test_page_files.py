"""The files of the chat page: what a browser cannot tell, or would tell late."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "edgelm" / "serve" / "page"
HTML = (PAGE / "index.html").read_text()
SCRIPTS = {path.name: path.read_text() for path in PAGE.glob("*.js")}
VENDORED = {
    "marked.js": "5371fea86fd0656b4fc7bea7c94c663109d82789b69433eeee78d42895aa44de",
    "purify.js": "5e8c53cd086a012531fc754ee6a7ad7a02e8a06fc4dadd805b912e128c3f6c58",
    "LICENSE-marked.txt": "8e3a3f82f59a60958f56ca08f445647c32a4733dc7ca6c2c46f6eb898471ab9c",
    "LICENSE-dompurify.txt": "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30",
}


def test_vendored_files_are_those_of_their_packages() -> None:
    files = {path.name: path for path in (PAGE / "vendor").iterdir() if path.name != "README.md"}
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()} == VENDORED


def test_the_policy_has_nothing_to_refuse() -> None:
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|javascript:", HTML)
    for name, text in SCRIPTS.items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text), (
            name
        )


@pytest.mark.parametrize("path", [p for p in PAGE.iterdir() if p.is_file()], ids=lambda path: path.name)
def test_nothing_comes_from_outside(path: Path) -> None:
    assert set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+", path.read_text())) <= {"http://www.w3.org"}
    assert "url(" not in path.read_text()


def test_every_id_symbol_and_import_exists() -> None:
    ids = set(re.findall(r'\bid="([\w-]+)"', HTML))
    assert len(ids) == len(re.findall(r'\bid="([\w-]+)"', HTML)), "an id stands twice"
    for name, text in SCRIPTS.items():
        wanted = re.findall(r'(?:element|getElementById|copyOf)\("([\w-]+)"\)', text)
        assert set(wanted) <= ids, name
        assert all((PAGE / other).is_file() for other in re.findall(r'from "\./([\w/.-]+)"', text)), name
    assert set(re.findall(r'href="#(i-[\w-]+)"', HTML)) <= ids
    linked = re.findall(r'(?:src|href)="(?!#)([\w/.-]+)"', HTML)
    assert all((PAGE / file).is_file() for file in linked if not file.startswith("v1/"))

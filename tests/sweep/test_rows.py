"""The frontier, the record on disk, the picture."""

from __future__ import annotations

import dataclasses
import json
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelm.errors import ExportError
from edgelm.sweep.plot import spread, svg
from edgelm.sweep.record import Record, kept_file
from edgelm.sweep.rows import Row, frontier


def row(name: str, size: int, kld: float) -> Row:
    return Row(name, size, 2 * size, True, 100, 7.0, 0.1, kld, 0.01, 0.9, 0.02)


def test_the_frontier():
    rows = [row("exact", 100, 0.0), row("good", 50, 0.1), row("worse", 50, 0.2), row("waste", 60, 0.1), row("s", 20, 1)]
    assert [r.name for r in frontier(rows)] == ["s", "good", "exact"]
    assert [r.name for r in frontier([row("a", 10, 0.1), row("b", 10, 0.1)])] == ["a"]
    assert frontier([]) == []


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=1, max_size=12))
def test_nothing_is_better_than_the_frontier(points):
    rows = [row(str(n), size, kld) for n, (size, kld) in enumerate(points)]
    best = frontier(rows)
    for candidate in rows:
        beaten = [
            r
            for r in rows
            if r.bytes <= candidate.bytes
            and r.kld <= candidate.kld
            and (r.bytes, r.kld) != (candidate.bytes, candidate.kld)
        ]
        if not beaten:
            assert any((r.bytes, r.kld) == (candidate.bytes, candidate.kld) for r in best)
        else:
            assert candidate not in best


def test_a_record_is_gone_on_with(tmp_path):
    path = tmp_path / "deep" / "sweep.json"
    first = Record.open(path, {"text": "a", "chunks": 1})
    assert first.rows == {}
    first.add(row("one", 10, 0.1))
    first.add(dataclasses.replace(row("two", 5, 0.2), score=0.5, score_error=0.1))
    again = Record.open(path, {"text": "a", "chunks": 1})
    assert again.rows == first.rows
    assert [p.name for p in path.parent.iterdir()] == ["sweep.json"], "nothing is left beside it"
    assert Record.open(path, {"text": "b"}, overwrite=True).rows == {}
    again.remove()
    again.remove()
    assert not path.exists()


def test_a_record_of_something_else(tmp_path):
    path = tmp_path / "sweep.json"
    Record.open(path, {"text": "a", "chunks": 1}).add(row("one", 10, 0.1))
    with pytest.raises(ExportError, match="is of a sweep with another chunks, model") as caught:
        Record.open(path, {"text": "a", "chunks": 2, "model": "m"})
    assert "--overwrite" in str(caught.value.hint)
    for content in (
        "{",
        "[]",
        '{"format": 99, "rows": [], "settings": {}}',
        '{"format": 1, "rows": [{}], "settings": {}}',
    ):
        path.write_text(content)
        with pytest.raises(ExportError, match="cannot be read as a sweep"):
            Record.open(path, {})


def test_where_a_record_lies_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kept_file({"a": 1}).parent == tmp_path / "edgelm" / "sweep"
    assert kept_file({"a": 1}) == kept_file({"a": 1}) != kept_file({"a": 2})
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert kept_file({}).parent.parts[-3:] == (".cache", "edgelm", "sweep")


def test_the_picture():
    rows = [row("fp32", 4_000_000, 0.0), row("int8 <&>", 1_000_000, 0.01)]
    rows += [row(f"int4-{n}", 500_000 + 900 * n, 0.1 + 0.001 * n) for n in range(9)]
    tree = ElementTree.fromstring(svg(rows, "model & board"))
    space = "{http://www.w3.org/2000/svg}"
    texts = [element.text for element in tree.iter(f"{space}text")]
    assert texts[0] == "model & board"
    assert texts[1] == "fp32: 4 MB, no divergence"
    assert {r.name for r in rows[1:]} <= set(texts)
    assert len(list(tree.iter(f"{space}circle"))) == 10
    places = [float(e.attrib["y"]) for e in tree.iter(f"{space}text") if (e.text or "").startswith("int4-")]
    assert np.diff(sorted(places)).min() >= 16, "no name covers another"
    for element in tree.iter(f"{space}circle"):
        assert 0 < float(element.attrib["cx"]) < 860
        assert 0 < float(element.attrib["cy"]) < 540
    assert json.dumps(svg(rows, "t")) == json.dumps(svg(rows, "t"))


@pytest.mark.parametrize("rows", [[row("fp32", 10, 0.0)], [row("a", 10, 0.5)], [row("a", 10, 1e-7), row("b", 10, 3.0)]])
def test_pictures_of_few_points(rows):
    ElementTree.fromstring(svg(rows, "t"))


def test_names_are_spread():
    assert spread([1, 2, 3], 10, 0, 100) == pytest.approx([0, 10, 20])  # -8 … 12 would stand out of the field
    assert spread([50, 50], 10, 0, 100) == [45, 55]
    assert spread([10, 50], 10, 0, 100) == [10, 50]
    assert spread([99, 99], 10, 0, 100) == [90, 100]

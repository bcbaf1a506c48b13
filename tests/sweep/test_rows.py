"""The frontier, the record on disk, the picture."""

from __future__ import annotations

import dataclasses
import itertools
import json
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelm.errors import ExportError
from edgelm.svg.scatter import place_names, spread
from edgelm.sweep.plot import svg
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
    texts = [element.text or "" for element in tree.iter(f"{space}text")]
    assert texts[0] == "model & board"
    assert texts[1].endswith("fp32: 4 MB, no divergence")
    assert {r.name for r in rows[1:]} <= set(texts)
    assert len([e for e in tree.iter(f"{space}circle") if e.attrib["class"] != "paper"]) == 10, "none is hidden"
    for element in tree.iter(f"{space}circle"):
        assert 0 < float(element.attrib["cx"]) < 880
        assert 0 < float(element.attrib["cy"]) < 520
    assert json.dumps(svg(rows, "t")) == json.dumps(svg(rows, "t"))


def test_points_in_one_place_are_both_seen():
    tree = ElementTree.fromstring(svg([row("a", 10**6, 0.1), row("b", 10**6, 0.1), row("c", 3 * 10**6, 0.01)], "t"))
    circles = list(tree.iter("{http://www.w3.org/2000/svg}circle"))
    assert len([circle for circle in circles if circle.attrib["class"].endswith("-line")]) == 1, (
        "a ring around the other"
    )


@pytest.mark.parametrize("seed", range(8))
def test_names_are_apart_and_leaders_do_not_cross(seed):
    random = np.random.default_rng(seed)
    places = [
        (float(x), float(y)) for x, y in zip(random.uniform(100, 700, 12), random.uniform(110, 430, 12), strict=True)
    ]
    places[:4] = [(300.0 + 3 * i, 200.0 + 6 * i) for i in range(4)]  # a crowd
    names = place_names([f"b{n}" for n in range(12)], places)
    for one, other in itertools.combinations(range(12), 2):
        (a, b), (p, q) = (names[one], names[other]), (places[one], places[other])
        assert max(b.box[0] - a.box[2], a.box[0] - b.box[2], b.box[1] - a.box[3], a.box[1] - b.box[3]) > -1e-6
        if a.leader and b.leader:
            assert not (apart(p, a.end, q) != apart(p, a.end, b.end) and apart(q, b.end, p) != apart(q, b.end, a.end))


def apart(start, end, point):
    """The side of a line on which a point lies."""
    return (end[0] - start[0]) * (point[1] - start[1]) > (end[1] - start[1]) * (point[0] - start[0])


def test_names_are_spread():
    assert spread([1, 2, 3], 10, 0, 100) == pytest.approx([0, 10, 20])  # -8 … 12 would stand out of the field
    assert spread([50, 50], 10, 0, 100) == [45, 55]
    assert spread([10, 50], 10, 0, 100) == [10, 50]
    assert spread([99, 99], 10, 0, 100) == [90, 100]

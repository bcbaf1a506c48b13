"""Rows written out."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ET

import pytest

from edgelm.errors import OptionError
from edgelm.results import tables
from edgelm.results.row import COLUMNS


def test_csv(row):
    rows = [row(), row(board=None, model='quoted "name", with comma')]
    read = list(csv.DictReader(io.StringIO(tables.csv_text(rows))))
    assert [line["model"] for line in read] == [r.model for r in rows]
    assert read[1]["board"] == ""
    assert tuple(read[0]) == COLUMNS


def test_markdown_has_a_cell_a_column(row):
    lines = tables.markdown([row(model="a|b")]).splitlines()
    assert lines[2].replace("\\|", "").count("|") == lines[0].count("|")


def test_parquet(row, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [row(), row(joules_per_token=0.4, emulated=True)]
    tables.write(tmp_path / "a.parquet", rows)
    read = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert [r["avg_ts"] for r in read] == [50.0, 50.0]
    assert [r["joules_per_token"] for r in read] == [None, 0.4]
    assert [r["emulated"] for r in read] == [0, 1]


@pytest.mark.parametrize("name", ["a.xlsx", "a", "nowhere/a.csv"])
def test_where_none_can_be_written(row, tmp_path, name):
    with pytest.raises(OptionError):
        tables.write(tmp_path / name, [row()])
    assert list(tmp_path.iterdir()) == []


def test_a_trend(row):
    rows = [row(at=f"2026-11-{d:02}T10:00:00+00:00", avg_ts=40.0 + d, run=str(d)) for d in (1, 8, 15)]
    root = ET.fromstring(tables.trend([*rows, row(test="pp512")], "speeds"))
    texts = [element.text for element in root if element.tag.endswith("text")]
    assert {"speeds", "days since 2026-11-01 10:00 UTC", "tg128, tokens a second", "SmolLM2-135M-Instruct int4"} <= set(
        texts
    )
    circles = [element for element in root if element.tag.endswith("circle")]
    assert len([circle for circle in circles if circle.get("class") != "paper"]) == 4  # each on a ground of its own

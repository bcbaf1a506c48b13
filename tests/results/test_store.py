"""The file of results."""

from __future__ import annotations

import multiprocessing
import sqlite3
from pathlib import Path

import pytest

from edgelm.errors import ResultsError
from edgelm.results.row import COLUMNS, of_report
from edgelm.results.store import Filter, Store, default_path, keep


def test_a_report_comes_back(tmp_path, report):
    store = Store(tmp_path / "deep/er/results.sqlite3")
    assert store.rows() == []
    run = store.add(report, {"some": "manifest"}, "ssh:pi@hall")
    prefill, decode = store.rows()
    assert (prefill.test, prefill.avg_ts, prefill.ttft_seconds, prefill.joules_per_token) == ("pp512", 200.0, 2.6, 0.02)
    assert (decode.test, decode.avg_ts, decode.unreliable, decode.place) == ("tg128", 50.0, False, "ssh:pi@hall")
    assert (decode.celsius_start, decode.celsius_end, decode.power_source) == (50.0, 61.5, "PMIC: rails")
    assert (decode.packed, decode.emulated, decode.bundle) == (True, False, "ab" * 32)
    assert store.report(run) == report
    assert store.manifests() == {"ab" * 32: {"some": "manifest"}}


def test_filters(tmp_path, report):
    store = Store(tmp_path / "r")
    runs = []
    for board in ("Raspberry Pi 5", "Raspberry Pi 4", "100% _made_ up"):
        runs.append(store.add(report | {"cpu": board}, None))
    assert {row.board for row in store.rows(Filter(board="pi 5"))} == {"Raspberry Pi 5"}
    assert {row.run for row in store.rows(Filter(board="% _"))} == {runs[2]}
    assert [row.test for row in store.rows(Filter(test="tg128"))] == ["tg128"] * 3
    assert [row.run for row in store.rows(Filter(limit=3))] == [runs[1], runs[2], runs[2]]
    assert store.rows(Filter(model="'; DROP TABLE results; --")) == []
    with pytest.raises(ResultsError, match="no run 'nothing'"):
        store.report("nothing")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"results": []}, "has no results"),
        ({"results": None}, "has no results"),
        ({"model": 5}, "model is 5"),
        ({"threads": True}, "threads is True"),
        ({"load_seconds": None}, "load_seconds is None"),
        ({"memory": {"peak": "much"}}, "peak_memory_bytes is"),
        ({"load_seconds": 10**400}, "load_seconds is"),
        ({"threads": 1 << 70}, "threads is"),
        ({"load_seconds": float("nan")}, "load_seconds is nan"),
        ({"model": "a\ud800"}, "model is"),
        ({"results": [5]}, "has no results"),
        ({"sensors": [1], "cores": "4"}, "cores is '4'"),
    ],
)
def test_what_is_no_report_is_refused_and_leaves_nothing(tmp_path, report, change, said):
    store = Store(tmp_path / "r")
    with pytest.raises(ResultsError, match=said):
        store.add(report | change, None)
    assert store.rows() == []


def test_columns_are_those_of_the_row(report):
    assert all(tuple(row.to_dict()) == COLUMNS for row in of_report(report, "a", "2026-01-02T03:04:05+00:00", "c"))


@pytest.mark.parametrize(
    "content", [b"not a database at all, but long enough to be read", b"SQLite format 3\0" + b"x" * 200]
)
def test_a_damaged_file_is_said_to_be_one(tmp_path, report, content):
    path = tmp_path / "r"
    path.write_bytes(content)
    with pytest.raises(ResultsError, match="cannot be used"):
        Store(path).rows()
    warned: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGELM_RESULTS", str(path))
        assert keep(report, None, "here", warned.append) is None
    assert warned[0].startswith("the result is not kept: ")
    assert path.read_bytes() == content


def test_other_databases_are_left_alone(tmp_path, report):
    newer, other = tmp_path / "newer", tmp_path / "other"
    for path, statement in ((newer, "PRAGMA user_version = 99"), (other, "CREATE TABLE songs (name TEXT)")):
        database = sqlite3.connect(path)
        database.execute(statement)
        database.commit()
        database.close()
    with pytest.raises(ResultsError, match="of a newer edgelm"):
        Store(newer).add(report, None)
    with pytest.raises(ResultsError, match="another program's database"):
        Store(other).add(report, None)


def test_where_it_lies(monkeypatch, tmp_path):
    for value in ("off", "OFF", "0"):
        monkeypatch.setenv("EDGELM_RESULTS", value)
        assert default_path() is None
    with pytest.raises(ResultsError, match="no results are kept"):
        Store.default()
    monkeypatch.delenv("EDGELM_RESULTS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_path() == tmp_path / "edgelm/results.sqlite3"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert default_path() == Path.home() / ".local/share/edgelm/results.sqlite3"


def _add(path: Path, report: dict[str, object]) -> None:
    for _ in range(5):
        Store(path).add(report, None)


def test_several_processes_write_at_once(tmp_path, report):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_add, args=(tmp_path / "r", report)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert len({row.run for row in Store(tmp_path / "r").rows()}) == 20


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("avg_ts", "fast"),
        ("at", "yesterday"),
        ("at", "2026-01-02T03:04:05"),
        ("stddev_ts", 1e300),
        ("emulated", 2),
        ("model", b"x"),
    ],
)
def test_rows_of_other_kinds_are_an_error_that_names_the_column(tmp_path, report, column, value):
    store = Store(tmp_path / "r")
    store.add(report, None)
    with sqlite3.connect(store.path) as database:
        database.execute(f"UPDATE results SET {column} = ?", [value])
    with pytest.raises(ResultsError, match=rf"cannot be used: this row is damaged: {column} is"):
        store.rows()


@pytest.mark.parametrize("text", ["{", "[]", "5", "\x00"])
def test_what_is_no_json_in_the_file_is_an_error(tmp_path, report, text):
    store = Store(tmp_path / "r")
    run = store.add(report, {"some": "manifest"})
    with sqlite3.connect(store.path) as database:
        database.execute("UPDATE runs SET report = ?", [text])
        database.execute("UPDATE bundles SET manifest = ?", [text])
    for read in (lambda: store.report(run), store.manifests):
        with pytest.raises(ResultsError, match=r"r (is not valid JSON|holds)"):
            read()

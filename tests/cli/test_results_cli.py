"""``edgelm results``, and what edgelm bench keeps."""

from __future__ import annotations

import json
import re

import pytest

BENCH = ("-p", "8", "-n", "4", "-r", "2", "-t", "1", "--no-sensors")


@pytest.fixture
def kept(monkeypatch, tmp_path):
    path = tmp_path / "results.sqlite3"
    monkeypatch.setenv("EDGELM_RESULTS", str(path))
    return path


def test_from_bench_to_tables(edgelm, tiny_bundle, kept, tmp_path):
    assert edgelm("results").out.startswith("nothing was measured yet")
    for _ in range(2):
        assert edgelm("bench", tiny_bundle.path, *BENCH).code == 0
    rows = json.loads(edgelm("results", "list", "--json").out)["results"]
    assert [row["test"] for row in rows] == ["pp8", "tg4"] * 2
    assert {row["bundle"] for row in rows} == {tiny_bundle.digest}
    assert len(edgelm("results").out.splitlines()) == 5
    assert len(edgelm("results", "list", "--test", "tg4", "-n", "1").out.splitlines()) == 2
    compared = json.loads(edgelm("results", "compare", "--json").out)
    assert [one["test"] for one in compared] == ["pp8", "tg4"]
    assert all(one["verdict"] in ("same", "faster", "slower") for one in compared)
    both = edgelm("results", "compare", rows[0]["run"], rows[2]["run"])
    assert both.code == 0
    assert both.out.startswith("pp8: ")
    unique = next(n for n in range(1, 9) if rows[2]["run"][:n] != rows[0]["run"][:n])
    assert edgelm("results", "compare", rows[0]["run"], rows[2]["run"][:unique]).out == both.out
    assert " may be any of " in edgelm("results", "compare", "").err
    assert (
        edgelm("results", "list", "--model", "another").out
        == "nothing of that was measured: edgelm results shows what was\n"
    )
    assert json.loads(edgelm("results", "--json").out)["results"] == rows
    assert edgelm("results", "plot", tmp_path / "a.svg", "--test", "tg4").out.startswith("drawn: 2 measurements in ")
    assert (tmp_path / "a.svg").read_text().startswith("<svg")
    assert re.search("(seconds|minutes) since 20", (tmp_path / "a.svg").read_text())
    assert edgelm("results", "export", tmp_path / "a.csv").code == 0
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 5
    assert edgelm("results", "rm", rows[2]["run"][:unique]).out == f"removed: {rows[2]['run']} (2 tests)\n"
    assert json.loads(edgelm("results", "--json").out)["results"] == rows[:2]
    assert edgelm("results", "rm", rows[2]["run"]).err.startswith(f"error: no run '{rows[2]['run']}' in ")


def test_a_report_from_elsewhere(edgelm, tiny_bundle, kept, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGELM_RESULTS", "off")
    report = edgelm("bench", tiny_bundle.path, *BENCH, "-o", "json").out
    assert not kept.exists()
    monkeypatch.setenv("EDGELM_RESULTS", str(kept))
    (tmp_path / "report.json").write_text(report)
    ended = edgelm("results", "add", tmp_path / "report.json", "--bundle", tiny_bundle.path, "--place", "the hall")
    assert ended.code == 0
    assert ended.out.startswith("run ")
    assert "the hall" in edgelm("results").out
    (tmp_path / "report.json").write_text(report.replace(tiny_bundle.digest, "0" * 64))
    refused = edgelm("results", "add", tmp_path / "report.json", "--bundle", tiny_bundle.path)
    assert (refused.code, refused.out) == (1, "")
    assert "is not the bundle that" in refused.err


def test_a_target_is_calibrated(edgelm, tiny_bundle, kept, tmp_path, monkeypatch):
    monkeypatch.setattr("edgelm.bench.report.unreliable", lambda rates: False)  # this machine is shared
    monkeypatch.setattr("edgelm.machine.others.Others.cpus", lambda self: None)
    assert edgelm("bench", tiny_bundle.path, *BENCH).code == 0
    ended = edgelm("results", "--calibrate", "x86-64", "-o", tmp_path / "mine.toml")
    assert (ended.code, ended.out) == (0, f"saved: {tmp_path / 'mine.toml'}\n")
    assert "warning: one bundle alone" in ended.err
    told = edgelm("estimate", tiny_bundle.path, "--target", tmp_path / "mine.toml", "-t", "1").out
    assert "error        of forecasts measured on this board, at most: " in told
    printed = edgelm("results", "--calibrate", "x86-64").out
    assert printed.startswith("# in [memory]: bandwidth_gbs = ")
    assert "measured = true" in printed


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["compare"], 1, "error: nothing was measured yet"),
        (["compare", "abc"], 1, "error: no run 'abc'"),
        (["compare", "abc", "def"], 1, "error: no run 'abc'"),
        (["plot", "a.png"], 1, "error: edgelm results plot draws SVG, not .png\nhint: edgelm results plot a.svg"),
        (["export", "a.xls"], 1, "error: a.xls ends in none of .csv, .md, .parquet"),
        (["export", "a.csv"], 1, "has no such results"),
        (["list", "-n", "0"], 1, "error: -n must be at least 1"),
        (["--calibrate", "rpi5"], 1, "error: nothing was measured that rpi5 could be calibrated by"),
        (["--calibrate", "rpi6"], 1, "error: unknown target 'rpi6'"),
        (["-o", "a.toml"], 2, "error: -o and --emulated are for --calibrate"),
        (["add", "/no/such.json"], 1, "error: /no/such.json cannot be read"),
    ],
)
def test_errors_are_one_line(edgelm, kept, args, code, said):
    ended = edgelm("results", *args)
    assert (ended.code, ended.out) == (code, "")
    assert said in ended.err
    assert "Traceback" not in ended.err

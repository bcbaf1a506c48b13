"""``edgelm bench``."""

from __future__ import annotations

import csv
import io
import json

import pytest

FAST = ("-p", "16", "-n", "4", "-r", "2")


def test_the_table(edgelm, tiny_bundle):
    ended = edgelm("bench", tiny_bundle.path, *FAST, "-d", "0,32", "-t", "1")
    assert (ended.code, ended.err) == (0, "")
    head, rule, *rows = ended.out.split("\n\n")[0].splitlines()
    assert set(rule) <= set("|-: ")
    assert len({len(line) for line in (head, rule, *rows)}) == 1
    assert [row.split("|")[6].strip() for row in rows] == ["pp16", "pp16 @ d32", "tg4", "tg4 @ d32"]


def test_defaults_that_do_not_fit_are_noted(edgelm, tiny_bundle):
    ended = edgelm("bench", tiny_bundle.path, "-r", "1")
    assert ended.err == "note: pp512 became pp128 to fit in the context of 128 tokens\n"


@pytest.mark.parametrize("form", ["json", "jsonl", "csv"])
def test_forms_that_programs_read(edgelm, tiny_bundle, form):
    out = edgelm("bench", tiny_bundle.path, *FAST, "-o", form).out
    if form == "json":
        rows = json.loads(out)["results"]
    elif form == "jsonl":
        rows = [json.loads(line) for line in out.splitlines()]
    else:
        rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["test"] for row in rows] == ["pp16", "tg4"]
    assert all(float(row["avg_ts"]) > 0 for row in rows)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["-p", "1024"], 1, "error: pp1024 needs 1,024 tokens, the context is 128\nhint: use 128 or less"),
        (["-r", "0"], 1, "error: repetitions must be at least 1, not 0\n"),
        (["-p", "many"], 2, "error: invalid value for '-p' / '--n-prompt': 'many' is no list of whole numbers"),
        (["-o", "xml"], 2, "error: invalid value for '-o' / '--output'"),
        (["--seed", "-1"], 2, "error: invalid value for --seed: must not be negative"),
    ],
)
def test_wrong_options(edgelm, tiny_bundle, options, code, said):
    ended = edgelm("bench", tiny_bundle.path, *options)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith(said)


def test_sustained_draws(edgelm, tiny_bundle, tmp_path):
    ended = edgelm("bench", tiny_bundle.path, "-p", "8", "-n", "4", "--sustained", "4s", "--plot", tmp_path / "a.svg")
    assert ended.code == 0
    assert "| minute |" in ended.out.replace("  ", "")
    assert (tmp_path / "a.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--plot", "a.svg"], 2, "error: --plot draws what --sustained measures"),
        (["--sustained", "10m", "-d", "64"], 2, "error: --sustained goes with neither --draft nor -d"),
        (["--sustained", "1s"], 1, "error: '1s' is out of range"),
        (["--sustained", "9s", "--plot", "a.png"], 1, "error: --plot draws SVG, not .png"),
        (["--no-sensors", "--power-meter", "true"], 2, "error: --power-meter and --no-sensors exclude each other"),
        (["--power-meter", "/no/such/meter"], 1, "error: --power-meter: /no/such/meter cannot be run"),
    ],
)
def test_options_that_do_not_go_together(edgelm, tiny_bundle, options, code, said):
    ended = edgelm("bench", tiny_bundle.path, *options)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith(said)

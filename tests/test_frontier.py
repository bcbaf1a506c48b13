"""Size against quality beside llama.cpp: the line between its file types, and a short run without it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.frontier.__main__ import main
from benchmarks.frontier.measure import Case, Row, rows_of
from benchmarks.frontier.report import against_line, frontier, on_line, plot_speed, table


def row(engine: str, name: str, size: int, kld: float) -> Row:
    return Row(engine, name, size, kld, 0.01, 0.9, 20.0, 1.0)


LLAMA = [row("llama.cpp", "Q4_0", 100, 0.1), row("llama.cpp", "worse", 150, 0.2), row("llama.cpp", "Q8_0", 200, 0.001)]


def test_the_line_goes_through_those_that_nothing_beats() -> None:
    assert [each.name for each in frontier(LLAMA)] == ["Q4_0", "Q8_0"]


def test_between_file_types_the_logarithm_is_interpolated() -> None:
    line = frontier(LLAMA)
    assert on_line(line, 150) == pytest.approx(0.01)
    assert on_line(line, 100) == pytest.approx(0.1)
    assert on_line(line, 99) is None
    assert on_line(line, 201) is None


@pytest.mark.parametrize(
    ("size", "kld", "said"),
    [
        (150, 0.005, "0.50 of the 0.0100 of llama.cpp's line: below it"),
        (150, 0.02, "2.00 of the 0.0100 of llama.cpp's line: above it"),
        (90, 0.05, "smaller than Q4_0 (0.90 of its bytes) and loses less"),
        (300, 0.5, "larger than Q8_0 (1.50 of its bytes) and loses more"),
    ],
)
def test_where_a_bundle_lies(size: int, kld: float, said: str) -> None:
    (line,) = against_line([*LLAMA, row("edgelm", "int4", size, kld)])
    assert said in line


def test_speeds_stand_in_the_table_where_they_were_measured(tmp_path: Path) -> None:
    timed = replace(LLAMA[0], prefill=(300.0, 310.0, 290.0), decode=(60.0, 58.0, 61.0), peak=2e8)
    head, _, first, *_ = table([timed, LLAMA[2]])
    assert head.endswith("| perplexity | prefill 512, tok/s | decode, tok/s | peak MB |")
    assert first.endswith("| 20.00 | 300 (290 … 310) | 60 (58 … 61) | 200 |")
    assert "tok/s" not in next(iter(table(LLAMA)))
    plot_speed([timed, LLAMA[2]], "a model", tmp_path / "speed.svg")
    drawn = (tmp_path / "speed.svg").read_text()
    assert "Q4_0" in drawn
    assert "Q8_0" not in drawn  # not timed


def test_without_llama_cpp_there_is_no_line() -> None:
    assert list(against_line([row("edgelm", "int4", 100, 0.1)])) == []


def test_names_of_files() -> None:
    assert Case("llama.cpp", "Q4_K_M").file == "Q4_K_M.gguf"
    assert Case("edgelm", "auto --max-size 92MB").file == "auto---max-size-92MB"


def test_a_short_run(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(max_position_embeddings=512)
    text, report, work = tmp_path / "text.txt", tmp_path / "report.json", tmp_path / "work"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 30)
    arguments = [str(checkpoint), "--text", str(text), "--chunks", "1", "-o", str(work), "--json", str(report)]
    recipes = ["--recipe", "int4 --calibrate none", "--recipe", "int8"]
    done = CliRunner().invoke(main, [*arguments, *recipes], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    four, eight = rows_of(report)
    assert four.bytes < eight.bytes
    assert four.kld > eight.kld > 0
    assert 0 < eight.top1 <= 1
    assert list(table([eight, four]))[2].startswith("| **edgelm int4")
    assert json.loads(report.read_text())["chunks"] == 1
    assert not (work / "logits.npy").exists()


@pytest.mark.slow
def test_a_timed_run(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(max_position_embeddings=1024)
    text, picture = tmp_path / "text.txt", tmp_path / "speed.svg"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 30)
    arguments = [
        str(checkpoint),
        "--text",
        str(text),
        "--chunks",
        "1",
        "-o",
        str(tmp_path / "work"),
        "--recipe",
        "int8",
    ]
    done = CliRunner().invoke(main, [*arguments, "--speed", "1", "--plot-speed", str(picture)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "| decode, tok/s |" in done.output
    assert "int8" in picture.read_text()

"""``edgelm targets``."""

import json

import pytest
from click.testing import CliRunner

from edgelm.cli.targets import command
from edgelm.errors import TargetError
from edgelm.target.target import target_names


def run(*args: str) -> str:
    result = CliRunner().invoke(command, list(args), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_table():
    head, *rows = run().split("\n\n")[0].splitlines()
    assert head.split() == ["target", "core", "cores", "RAM", "GiB", "GB/s", "default", "threads", "context"]
    assert [row.split()[0] for row in rows] == target_names()
    assert "rpi5                cortex-a76        4        8  11.3  int4           3     2048" in rows
    assert len({row.index("int") for row in rows}) == 1, "columns are aligned"


def test_one_target_with_its_sources_and_recipes():
    text = run("rpi4")
    assert "Raspberry Pi 4" in text
    assert "3.2 GB/s in decode. llama.cpp on this board" in text
    assert "int8 (default)\n    body       DynamicQuantizeMatMul 8-bit\n" in text
    assert "note       half the bytes of int8, but 6 times the work" in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_json():
    assert [target["name"] for target in json.loads(run("--json"))] == target_names()
    assert json.loads(run("rpi5", "--json"))["recipe"]["int4"]["body"] == {"op": "MatMulNBits", "bits": 4, "block": 32}


def test_an_unknown_target():
    with pytest.raises(TargetError, match="unknown target 'rpi'"):
        CliRunner().invoke(command, ["rpi"], catch_exceptions=False)


def test_help_has_an_example():
    assert "edgelm targets rpi5" in run("--help")


def test_a_file_to_begin_with(edgelm, tmp_path):
    ended = edgelm("targets", "rpi5", "--toml")
    assert (ended.code, ended.err) == (0, "")
    (tmp_path / "mine.toml").write_text(ended.out)
    mine = edgelm("targets", tmp_path / "mine.toml", "--json")
    assert json.loads(mine.out)["cpu"] == json.loads(edgelm("targets", "rpi5", "--json").out)["cpu"]
    assert edgelm("targets", tmp_path / "mine.toml", "--toml").out == ended.out
    assert edgelm("targets", "--toml").code == 2

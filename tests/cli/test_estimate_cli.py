"""``edgelm estimate``."""

from __future__ import annotations

import json


def test_a_checkpoint(edgelm, tiny_checkpoint):
    ended = edgelm("estimate", tiny_checkpoint(), "--target", "rpi4", "-t", "2")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert " as int8 on rpi4, 2 threads, context of 128 tokens" in lines[0]
    assert lines[2].split() == ["tok/s", "ms/step", "bound", "by"]
    assert [line.split("  ")[1] for line in lines[3:5]] == ["prefill of 128", "decode after 0"]
    assert "  fits         yes" in lines
    assert any("not measured on the board" in line for line in lines)
    assert all("–" in line for line in lines[3:5])  # a range, as nothing was measured on the board


def test_a_board_that_was_measured_tells_its_error(edgelm, tiny_checkpoint):
    lines = edgelm("estimate", tiny_checkpoint(), "--target", "x86-64").out.splitlines()
    assert "–" not in lines[3]
    assert any(
        line.startswith("  error        of forecasts measured on this board, at most: prefill 15 %") for line in lines
    )


def test_json(edgelm, tiny_checkpoint):
    facts = json.loads(edgelm("estimate", tiny_checkpoint(), "--quant", "int8", "--json").out)
    assert (facts["target"], facts["quant"], facts["fits"]) == ("rpi5", "int8", True)
    assert facts["decode"][0]["bound"] in ("bandwidth", "compute", "overhead")
    seconds = facts["prefill"]["seconds"]
    parts = sum(seconds[part] for part in ("products", "attention", "activations", "nodes"))
    assert abs(parts - seconds["seconds"]) < 1e-9


def test_a_bundle(edgelm, tiny_bundle):
    ended = edgelm("estimate", tiny_bundle.path)
    assert ended.code == 0
    assert " as fp32 on x86-64, 4 threads" in ended.out
    ended = edgelm("estimate", tiny_bundle.path, "--quant", "int4")
    assert (ended.code, ended.out) == (1, "")
    assert "--quant is for a MODEL" in ended.err


def test_the_default_model(edgelm):
    assert edgelm("estimate").out.startswith("edgelm-home as int4 on rpi5, 3 threads")


def test_errors_are_one_line(edgelm, tiny_checkpoint, tmp_path):
    for args, said in (
        ([tmp_path / "none"], "does not exist"),
        ([tiny_checkpoint(), "--threads", "99"], "threads must be from 1 to 4"),
        ([tiny_checkpoint(), "--quant", "int3"], "has no recipe 'int3'"),
        ([tiny_checkpoint(), "--context", "129"], "more than the model was made for"),
        ([tiny_checkpoint(), "--target", "rpi6"], "unknown target 'rpi6'"),
    ):
        ended = edgelm("estimate", *args)
        assert (ended.code, ended.out) == (1, ""), said
        assert said in ended.err
        assert "Traceback" not in ended.err

"""Which recipes a sweep tries."""

from __future__ import annotations

import numpy as np
import pytest

from edgelm.bundle.format_spec import FormatSpec
from edgelm.errors import OptionError
from edgelm.exporter.formats.registry import make_format
from edgelm.exporter.formats.rounding.rtn import pack_nibbles, quantize_blocks
from edgelm.sweep.candidates import candidates, chosen
from edgelm.target.target import load_target

INT4 = [f"int4-b{block}-{method}" for block in (32, 64, 128) for method in ("nearest", "search", "gptq")]
FAST = [name.replace("int4", "int4-fast") for name in INT4]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("rpi5", ["fp32", "int8", "int8-smooth", *INT4, "auto"]),
        ("x86-64", ["fp32", "int8", "int8-smooth", *INT4, *FAST, "auto"]),
        ("jetson-orin-nano", ["fp32", "int8", "int8-smooth", *INT4, "auto"]),
    ],
)
def test_what_a_boards_recipes_allow(target, expected):
    assert [candidate.name for candidate in candidates(load_target(target))] == expected


def test_a_candidates_recipe():
    board = load_target("rpi5")
    by_name = {candidate.name: candidate for candidate in candidates(board)}
    assert by_name["int4-b32-search"].target.recipe("int4") == board.recipe("int4"), "the target's own"
    nearest = by_name["int4-b64-nearest"].target.recipe("int4")
    assert (nearest.body.block, nearest.body.rounding) == (64, "nearest")
    assert nearest.head == board.recipe("int4").head, "8 bits are left as they are"
    fast = {candidate.name: candidate for candidate in candidates(load_target("x86-64"))}
    for name, zero_points in (("int4-b32-search", True), ("int4-b32-nearest", None)):
        recipe = fast[name].target.recipe("int4")
        assert (recipe.body.block, recipe.body.zero_points, recipe.up) == (32, zero_points, None)
    assert nearest.kv == board.recipe("int4").kv
    assert [name for name, candidate in by_name.items() if candidate.calibrated] == [
        "int8-smooth",
        "int4-b32-gptq",
        "int4-b64-gptq",
        "int4-b128-gptq",
        "auto",
    ]


def test_some_by_name():
    found = candidates(load_target("rpi5"))
    assert [candidate.name for candidate in chosen(found, ["int4-b32-gptq", "int8"])] == [
        "fp32",
        "int8",
        "int4-b32-gptq",
    ]
    assert chosen(found, []) == found
    with pytest.raises(OptionError, match="no recipe 'int4-b32-gtpq' to try") as caught:
        chosen(found, ["int4-b32-gtpq"])
    assert "int4-b32-gptq" in str(caught.value.hint)


def test_rounding_to_the_nearest_step():
    rows = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    nearest = make_format(FormatSpec("MatMulNBits", 4, 32, "nearest"))
    assert nearest.spec.to_dict() == {"op": "MatMulNBits", "bits": 4, "block": 32, "rounding": "nearest"}
    parts = nearest.quantize(rows)
    expected, expected_scales = quantize_blocks(rows, 4, 32)
    assert (parts["qweight"] == pack_nibbles(expected)).all()
    assert (parts["scales"] == expected_scales).all()
    searched = make_format(FormatSpec("MatMulNBits", 4, 32)).rounded(rows)
    assert np.square(searched - rows).sum() < np.square(nearest.rounded(rows) - rows).sum()

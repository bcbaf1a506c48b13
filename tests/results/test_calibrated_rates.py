"""Rates from measurements: of a board whose true constants are known."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from typing import Any

import pytest

from edgelm.bundle.format_spec import FormatSpec
from edgelm.errors import ResultsError
from edgelm.forecast.cost_model import Heads, Matrices, Workload, forecast
from edgelm.results.calibrate import Measured, _Constants, calibrate, measured
from edgelm.target.rates import Product
from edgelm.target.target import Target, load_target
from edgelm.target.toml_text import target_text

INT4 = FormatSpec("MatMulNBits", 4, 32)
HEAD = FormatSpec("MatMulNBits", 8, 128)


def work(millions: float) -> Workload:
    """A model of so many millions of weights."""
    n = int(millions * 1e6)
    return Workload(
        body=(Matrices(INT4, int(0.8 * n), int(0.8 * n * 4.5 / 8)),),
        head=Matrices(HEAD, int(0.2 * n), int(0.2 * n)),
        attention=(Heads(int(40 * n**0.5), int(20 * n**0.5)),),
        nodes=200,
        activation_bytes=int(30 * n**0.75),
        file_bytes=n,
    )


SHAPES = {f"{m}M": work(m) for m in (30, 135, 500, 1200)}


@pytest.fixture(scope="module")
def truth() -> Target:
    """A board that is not at all as targets/rpi5.toml has it."""
    board = load_target("rpi5")
    assert board.rates is not None
    products = {name: Product(1.6 * p.prefill, 0.8 * p.decode) for name, p in board.rates.products.items()}
    rates = replace(board.rates, node_us=22, activation_gbs=2.5, attention_prefill=9.0, thread_gbs=(5, 8, 9, 9))
    return replace(board, rates=replace(rates, products=products))


def made(truth: Target, shapes: dict[str, Workload]) -> list[Measured]:
    assert truth.rates is not None
    known = _Constants(truth, truth.rates)
    asked = [(512, 0, 0, 4), (0, 128, 0, 3), (0, 64, 1024, 3), (0, 128, 0, 2), (0, 32, 0, 1)]
    found = [
        Measured(name, shape, prompt, generation, depth, threads, 1.0)
        for name, shape in shapes.items()
        for prompt, generation, depth, threads in asked
    ]
    return [replace(test, rate=known.forecast(test)) for test in found]


def test_the_forecasts_come_near_and_the_error_is_of_models_left_out(truth):
    found = calibrate(load_target("rpi5"), made(truth, SHAPES), "a test")
    assert (found.tests, found.bundles, found.held_out) == (20, 4, True)
    assert max(abs(told / real - 1) for _, told, real in found.errors) < 0.25
    rates = found.target.rates
    assert rates is not None
    assert (rates.measured, rates.source) == (True, "a test")
    assert rates.thread_gbs[1:3] == pytest.approx((8, 9), rel=0.15)
    assert set(rates.error_percent) == {"prefill", "decode"}
    for shape in SHAPES.values():  # those that it was fitted to
        one, other = (forecast(shape, board, context=2048) for board in (found.target, truth))
        assert one.prefill.tokens_per_second == pytest.approx(other.prefill.tokens_per_second, rel=0.05)
        assert one.decode[0].tokens_per_second == pytest.approx(other.decode[0].tokens_per_second, rel=0.05)
        assert one.prefill.range is None


def test_what_nothing_was_measured_of_stays(truth):
    found = calibrate(load_target("rpi5"), [t for t in made(truth, SHAPES) if not t.prompt], "a test").target.rates
    before = load_target("rpi5").rates
    assert found is not None
    assert before is not None
    assert found.attention_prefill == pytest.approx(before.attention_prefill)
    assert found.products["DynamicQuantizeMatMul 8-bit"] == before.products["DynamicQuantizeMatMul 8-bit"]
    assert set(found.error_percent) == {"decode"}


def test_one_bundle_leaves_none_out(truth):
    found = calibrate(load_target("rpi5"), made(truth, {"a": SHAPES["135M"]}), "a test")
    assert not found.held_out
    assert max(abs(told / real - 1) for _, told, real in found.errors) < 0.05


def test_the_file_loads_and_says_the_same(truth, tmp_path):
    found = calibrate(load_target("rpi5"), made(truth, SHAPES), "a test").target
    path = tmp_path / "mine.toml"
    path.write_text(target_text(found))
    loaded = load_target(path)
    assert loaded.recipes == found.recipes
    assert loaded.cpu == found.cpu
    assert loaded.rates is not None
    assert loaded.rates.error_percent.keys() == {"prefill", "decode"}
    assert tomllib.loads(path.read_text())["rates"]["measured"] is True
    told = forecast(SHAPES["135M"], loaded, context=2048)
    assert told.prefill.tokens_per_second == pytest.approx(
        forecast(SHAPES["135M"], found, context=2048).prefill.tokens_per_second, rel=1e-3
    )
    assert told.error_percent == dict(loaded.rates.error_percent)


@pytest.mark.parametrize("name", ["rpi4", "x86-64", "jetson-orin-nano"])
def test_every_target_can_be_written(name, tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(target_text(load_target(name)))
    assert load_target(path).to_dict() == load_target(name).to_dict()


def test_nothing_measured():
    with pytest.raises(ResultsError, match="nothing was measured that rpi5 could be calibrated by"):
        calibrate(load_target("rpi5"), [], "")


def test_what_cannot_be_of_the_board_is_an_error_that_says_what_to_do(truth):
    tests = made(truth, SHAPES)
    tests[0] = replace(tests[0], rate=tests[0].rate / 1000)
    with pytest.raises(ResultsError, match=r"a forecast of prefill is [\d,]+ % off what was measured") as caught:
        calibrate(load_target("rpi5"), tests, "a test")
    assert "edgelm results rm" in str(caught.value.hint)


def test_which_rows_count(row, tiny_bundle):
    manifests: dict[str, dict[str, Any]] = {"good": tiny_bundle.manifest.to_dict(), "bad": {"format": 1}}
    rows = [
        row(bundle="good"),
        row(bundle="good", test="tg128 @ d64", n_depth=64),
        row(bundle="bad"),
        row(bundle="unknown"),
        row(bundle="good", unreliable=True),
        row(bundle="good", throttled_share=0.5),
        row(bundle="good", adapter="x"),
        row(bundle="good", emulated=True),
        row(bundle="good", test="tg128 text +draft"),
        row(bundle="good", test="tg128 text"),
        row(bundle="good", repetitions=1),
        row(bundle="good", threads=64),
    ]
    assert [(t.depth, t.threads) for t in measured(rows, manifests)] == [(0, 3), (64, 3)]
    assert len(measured(rows, manifests, emulated=True)) == 1

"""The model of time: each term is what it says, and the larger of bandwidth and compute binds."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from edgelm.bundle.reader import Bundle
from edgelm.errors import OptionError
from edgelm.forecast.cost_model import Heads, Matrices, Workload, forecast, rates_of
from edgelm.forecast.estimate import of_bundle
from edgelm.target.rates import Product, Rates
from edgelm.target.target import FormatSpec, Target, load_all, load_target

INT4 = FormatSpec("MatMulNBits", 4, 32)
RATES = Rates(
    measured=True,
    node_us=10,
    core_gbs=5,
    activation_gbs=2,
    attention_prefill=4,
    attention_decode=1,
    storage_mbs=100,
    pack_mbs=50,
    source="made up",
    products=MappingProxyType({str(INT4): Product(prefill=8, decode=2)}),
)
WORK = Workload(
    body=(Matrices(INT4, 80_000_000, 50_000_000),),
    head=Matrices(INT4, 20_000_000, 10_000_000),
    attention=(Heads(1000, 500),),
    nodes=100,
    activation_bytes=1000,
    file_bytes=100_000_000,
)


def board(rates: Rates | None = RATES, **memory: Any) -> Target:
    target = load_target("rpi5")
    return replace(target, rates=rates, memory=replace(target.memory, bandwidth_gbs=10, **memory))


def test_decode_is_bound_by_the_slower_of_reading_and_computing() -> None:
    step = forecast(WORK, board(), context=8192, threads=1).decode[0].step
    assert step.products == pytest.approx(100e6 / 2e9)  # 50 ms of arithmetic; 60 MB at 5 GB/s are 12
    assert (step.bound, step.nodes) == ("compute", pytest.approx(1e-3))
    fast = replace(RATES, products=MappingProxyType({str(INT4): Product(80, 20)}))
    step = forecast(WORK, board(fast), context=8192, threads=4).decode[0].step
    assert step.products == pytest.approx(60e6 / 10e9)  # four cores ask for 20 GB/s, the memory gives 10
    assert step.bound == "bandwidth"


def test_the_nodes_of_a_small_model_bind() -> None:
    small = replace(WORK, body=(Matrices(INT4, 1000, 600),), head=Matrices(INT4, 1000, 600))
    assert forecast(small, board(), context=512).decode[0].step.bound == "overhead"


def test_depth_costs_attention_alone() -> None:
    first, second, third = forecast(WORK, board(), context=8192, threads=1).decode
    assert [speed.depth for speed in (first, second, third)] == [0, 1024, 4096]
    assert second.step.attention == pytest.approx(1025 * 1000 / 1e9)
    assert third.step.seconds - first.step.seconds == pytest.approx(4096 * 1000 / 1e9)


def test_prefill_multiplies_the_head_once() -> None:
    found = forecast(WORK, board(), context=8192, threads=1)
    step = found.prefill.step
    assert step.products == pytest.approx(512 * 80e6 / 8e9 + 20e6 / 2e9)
    assert step.attention == pytest.approx(512 * 513 / 2 * 1000 / 4e9)
    assert step.activations == pytest.approx(512 * 1000 / 2e9)
    assert found.ttft_seconds == step.seconds == pytest.approx(512 / found.prefill.tokens_per_second)
    assert found.load_seconds == pytest.approx(1 + 2)


@pytest.mark.parametrize("window", [1, 3, 10, 100, None])
@pytest.mark.parametrize("depth", [0, 2, 9, 50])
def test_pairs_are_counted_as_a_window_lets_them_be_seen(window: int | None, depth: int) -> None:
    counted = sum(min(depth + i + 1, window or 10**9) for i in range(20))
    assert Heads(1, 1, window).seen(20, depth) == counted


def test_a_context_without_room_is_told() -> None:
    found = forecast(WORK, board(), context=300)
    assert (found.prompt, [speed.depth for speed in found.decode]) == (300, [0])
    assert "decode after 1,024 and 4,096 needs a longer context than 300: export with one" in found.notes


def test_a_format_without_a_rate_takes_the_nearest() -> None:
    rates = load_target("x86-64").rates
    assert rates is not None
    assert rates.product(INT4)[1] is None
    assert rates.product(FormatSpec("MatMulNBits", 4, 256))[1] == "MatMulNBits 4-bit block 128"
    assert rates.product(FormatSpec("MatMul", 16))[1] == "MatMul 32-bit"
    assert rates.product(FormatSpec("New", 3))[1] in rates.products
    work = replace(WORK, head=Matrices(FormatSpec("MatMulNBits", 4, 64), 20_000_000, 10_000_000))
    (note,) = forecast(work, board(), context=8192).notes
    assert note == "rpi5 has no rate for MatMulNBits 4-bit block 64: that of MatMulNBits 4-bit block 32 is taken"


def test_a_board_without_rates_takes_those_of_one_like_it() -> None:
    rates, notes = rates_of(board(None))
    assert rates in [target.rates for target in load_all() if target.has_dotprod and not target.has_i8mm]
    assert "has no [rates]" in notes[0]


def test_more_threads_may_read_slower() -> None:
    rates = replace(RATES, thread_gbs=(7.0, 12.0, 11.0), products=MappingProxyType({str(INT4): Product(80, 80)}))
    speeds = [forecast(WORK, board(rates), context=512, threads=n).decode[0].step.products for n in (1, 2, 3, 4)]
    assert speeds == pytest.approx([60e6 / gbs / 1e9 for gbs in (7, 12, 11, 11)])


def test_large_models_decode_with_threads_of_their_own() -> None:
    target = board()
    target = replace(target, cpu=replace(target.cpu, threads=3, large_mb=60, large_threads=2))
    assert forecast(WORK, target, context=512).threads == 2
    assert forecast(replace(WORK, head=Matrices(INT4, 10, 10)), target, context=512).threads == 3
    assert forecast(WORK, target, context=512, threads=4).threads == 4


def test_what_was_not_measured_is_a_range() -> None:
    assert forecast(WORK, board(), context=512).prefill.range is None
    derived = replace(RATES, measured=False, spread={"prefill": (0.5, 1.5), "load": (0.5, 2.0)})
    found = forecast(WORK, board(derived), context=512)
    rate = found.prefill.tokens_per_second
    assert found.prefill.range == pytest.approx((0.5 * rate, 1.5 * rate))
    assert found.ttft_range == pytest.approx((found.ttft_seconds / 1.5, found.ttft_seconds / 0.5))
    assert found.load_range == pytest.approx((found.load_seconds / 2, found.load_seconds * 2))
    low, high = found.decode[0].range or (0, 0)
    assert low < found.decode[0].tokens_per_second < high  # what a file does not say is taken to be wide
    assert found.to_dict()["prefill"]["range"] == list(found.prefill.range or ())


@pytest.mark.parametrize("threads", [0, 5])
def test_threads_that_the_board_has_not(threads: int) -> None:
    with pytest.raises(OptionError, match=r"threads must be from 1 to 4, the cores of rpi5"):
        forecast(WORK, board(), context=512, threads=threads)


@pytest.mark.parametrize("target", load_all(), ids=lambda target: target.name)
def test_every_shipped_target_has_rates_for_its_recipes(target: Target) -> None:
    assert target.rates is not None
    for recipe in target.recipes.values():
        for spec in (recipe.body, recipe.head):
            name = target.rates.product(spec)[1]
            assert name is None or name.startswith(f"{spec.op} {spec.bits}-bit"), f"no rate for {spec}"
    if target.name != "x86-64":
        assert not target.rates.measured
        assert any("not measured on the board" in note for note in forecast(WORK, target, context=512).notes)


def test_a_bundle_is_estimated_from_its_manifest(tiny_bundle: Bundle) -> None:
    found = of_bundle(tiny_bundle, threads=1)
    assert (found.quant, found.target, found.context, found.fits) == ("fp32", "x86-64", 128, True)
    assert found.memory == tiny_bundle.manifest.memory.to_dict()
    small = replace(load_target("rpi5"), memory=replace(load_target("rpi5").memory, usable_mb=20))
    assert "needs" in (of_bundle(tiny_bundle, small).misfit or ("",))[0]

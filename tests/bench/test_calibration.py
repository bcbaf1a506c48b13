"""benchmarks/forecast.py finds the constants of a machine that behaves as the model of time says."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import pytest

from edgelm.exporter import families
from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.sizing import workload
from edgelm.forecast.cost_model import Clock
from edgelm.target.rates import Product, Rates
from edgelm.target.target import load_target

THREADS = 2


@pytest.fixture(scope="module")
def program() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "forecast.py"
    spec = importlib.util.spec_from_file_location("benchmarks_forecast", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_constants_are_found_again(program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = replace(load_target("x86-64"), memory=replace(load_target("x86-64").memory, bandwidth_gbs=30.0))
    formats = list(program.FORMATS)
    products = {str(spec): Product(prefill=40.0 + 5 * i, decode=30.0 + i) for i, spec in enumerate(formats)}
    rates = Rates(True, 6.0, 20.0, 8.0, 40.0, 5.0, 500.0, 250.0, "made up", MappingProxyType(products))
    made = program.Calibration(board, formats, THREADS, 1, tmp_path)
    clock = Clock(board, rates, THREADS)

    def rows(work: Any, clock: Clock) -> dict[str, Any]:
        depths = (0, program.DEEPEST)
        prefill = {d: program.PROMPT / clock.step(work, program.PROMPT, d).seconds for d in depths}
        steps = {d: [clock.step(work, 1, d + i).seconds for i in range(program.GENERATED)] for d in depths}
        return {
            "prefill": prefill,
            "decode": {d: len(s) / sum(s) for d, s in steps.items()},
            "load": 4e6 / 250e6,
        }

    def measure(shape: str, quant: str, _: Path) -> dict[str, Any]:
        decoder = families.describe(Config(program.CALIBRATION[shape], Path("config.json")))
        made.work[shape, quant] = workload.of_decoder(decoder, made.board.recipe(quant), made.board)
        # In the caches nothing is read from memory.
        near = replace(board, memory=replace(board.memory, bandwidth_gbs=10000.0))
        cached = Clock(near, replace(rates, core_gbs=10000.0), THREADS)
        bundle = tmp_path / f"{shape}-{quant}"
        bundle.mkdir()
        (bundle / "model.onnx.data").write_bytes(bytes(4_000_000))
        made.bundles[shape, quant] = bundle
        return rows(made.work[shape, quant], cached if shape == "cached" else clock)

    monkeypatch.setattr(made, "_checkpoint", lambda shape: tmp_path)
    monkeypatch.setattr(made, "_measure", measure)
    alone = Clock(board, rates, 1)
    monkeypatch.setattr(made, "_single", lambda quant: rows(made.work["streamed", quant], alone)["decode"][0])
    text = program._toml(made.run(), THREADS)
    found = tomllib.loads(text)
    table = found["rates"]
    assert found["bandwidth_gbs"] == pytest.approx(30, rel=0.1)
    for name, expected in (("node_us", 6), ("core_gbs", 20), ("activation_gbs", 8), ("pack_mbs", 250)):
        assert table[name] == pytest.approx(expected, rel=0.15), name
    assert table["attention_prefill"] == pytest.approx(40, rel=0.05)
    assert table["attention_decode"] == pytest.approx(5, rel=0.05)
    for name, product in products.items():
        assert table["products"][name]["prefill"] == pytest.approx(product.prefill, rel=0.05), name
        assert table["products"][name]["decode"] == pytest.approx(product.decode, rel=0.1), name


def test_what_is_printed_can_be_pasted_into_a_target(program: ModuleType, tmp_path: Path) -> None:
    """The lines of [rates] take the place of those in the file."""
    source = (Path(__file__).parents[2] / "targets" / "x86-64.toml").read_text()
    names = (
        "node_us",
        "core_gbs",
        "activation_gbs",
        "attention_prefill",
        "attention_decode",
        "storage_mbs",
        "pack_mbs",
    )
    found = {"bandwidth_gbs": 31.25, **dict.fromkeys(names, 12.345), "products": {"MatMul 32-bit": (1234.5, 0.125)}}
    printed = program._toml(found, 2)
    path = tmp_path / "mine.toml"
    path.write_text(source[: source.index("[rates]")] + printed[printed.index("[rates]") :])
    rates = load_target(path).rates
    assert rates is not None
    assert rates.measured
    assert rates.node_us == 12.3
    assert rates.products["MatMul 32-bit"].decode == 0.125

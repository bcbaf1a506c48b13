"""The report of a benchmark and its formats."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import shlex
import sys

import pytest

from edgelm.bench.energy import Meters
from edgelm.bench.memory import MemoryUse, memory_use
from edgelm.bench.report import FORMATS, BenchOptions, Report, benchmark, render
from edgelm.bench.speed import Rates, SpeedTest
from edgelm.runtime.ort.options import LoadOptions

REPORT = Report(
    model="some-model",
    target="rpi5",
    quant="int4",
    parameters=494_000_000,
    size_bytes=300_000_000,
    weights_bytes=260_000_000,
    cpu="Raspberry Pi 5",
    threads=4,
    provider="CPU",
    onnxruntime="1.32.0",
    edgelm="0.1.0",
    load_seconds=0.512,
    memory=MemoryUse(484_000_000, 359_000_000),
    results=(
        Rates(SpeedTest(512, 0), (100.0, 110.0), (5.2, 4.8)),
        Rates(SpeedTest(0, 128), (40.0,)),
    ),
)


def test_markdown_is_aligned():
    assert render(REPORT, "md").split("\n") == [
        "| model           |      size |   params | backend | threads | test  |           t/s | TTFT s |  GB/s |",
        "| --------------- | --------: | -------: | ------- | ------: | ----- | ------------: | -----: | ----: |",
        "| some-model int4 | 300.00 MB | 494.00 M | CPU     |       4 | pp512 | 105.00 ± 7.07 |  5.000 |       |",
        "| some-model int4 | 300.00 MB | 494.00 M | CPU     |       4 | tg128 |  40.00 ± 0.00 |        | 10.40 |",
        "",
        "- load: 0.51 s",
        "- peak memory: 484.0 MB (359.0 MB anonymous at the end)",
        "- cpu: Raspberry Pi 5",
        "- edgelm 0.1.0, onnxruntime 1.32.0, bundle made for rpi5",
    ]


@pytest.mark.parametrize("columns", [80, 60])
def test_markdown_fits_a_terminal_and_tells_all_the_same(columns):
    wide, narrow = render(REPORT, "md"), render(REPORT, "md", columns)
    assert max(map(len, narrow.splitlines())) <= columns
    told = " ".join(narrow.split())
    for fact in ("some-model int4", "300.00 MB", "494.00 M", "CPU", "105.00 ± 7.07", "10.40", "bundle made for rpi5"):
        assert fact in told
    assert ("threads" in narrow.splitlines()[0]) == (columns == 80)
    assert render(REPORT, "md", 120) == wide
    assert render(REPORT, "csv", columns) == render(REPORT, "csv")


def test_effective_bandwidth_is_weights_times_decode_rate():
    assert REPORT.effective_gbs(REPORT.results[1]) == pytest.approx(0.26 * 40)
    assert REPORT.effective_gbs(REPORT.results[0]) is None


def test_json():
    report = json.loads(render(REPORT, "json"))
    assert report["memory"] == {"peak": 484_000_000, "anonymous": 359_000_000}
    prefill, decode = report["results"]
    assert (prefill["test"], prefill["avg_ts"], prefill["rates"]) == ("pp512", 105.0, [100.0, 110.0])
    assert (prefill["ttft_seconds"], prefill["ttft_seconds_each"]) == (5.0, [5.2, 4.8])
    assert (decode["n_prompt"], decode["n_gen"], decode["n_depth"]) == (0, 128, 0)
    assert decode["effective_gbs"] == pytest.approx(10.4)
    assert decode["ttft_seconds"] is None


def test_csv_and_json_lines_hold_the_same_rows():
    rows = [json.loads(line) for line in render(REPORT, "jsonl").split("\n")]
    assert [row["test"] for row in rows] == ["pp512", "tg128"]
    assert all(row["peak_memory_bytes"] == 484_000_000 for row in rows)
    table = list(csv.DictReader(io.StringIO(render(REPORT, "csv"))))
    assert table == [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]


def test_what_the_kernel_does_not_tell_is_left_out():
    text = render(dataclasses.replace(REPORT, cpu=None, memory=MemoryUse(None, None)), "md")
    assert "peak memory" not in text
    assert "- cpu: unknown" in text
    for form in FORMATS:
        assert render(dataclasses.replace(REPORT, memory=MemoryUse(None, None)), form)


def test_memory_of_a_process(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    assert memory_use(tmp_path) == MemoryUse(None, None)
    (tmp_path / "proc/self/status").write_text("VmPeak:\t  900 kB\nVmHWM:\t  100 kB\nRssAnon:\t   60 kB\n")
    assert memory_use(tmp_path) == MemoryUse(100 * 1024, 60 * 1024)
    (tmp_path / "proc/self/smaps_rollup").write_text("Rss:  90 kB\nAnonymous:      55 kB\nAnonHugePages:  7 kB\n")
    assert memory_use(tmp_path) == MemoryUse(100 * 1024, 55 * 1024)


def test_memory_of_this_process():
    use = memory_use()
    assert use.peak is None or use.peak > 10_000_000
    assert None in (use.peak, use.anonymous) or use.anonymous <= use.peak


def test_a_bundle_is_measured(tiny_bundle):
    report = benchmark(tiny_bundle, BenchOptions(repetitions=2), LoadOptions(threads=1))
    assert [rates.test.name for rates in report.results] == ["pp128", "tg128"]
    assert len(report.notes) == 1
    assert all(rate > 0 for rates in report.results for rate in rates.rates)
    assert (report.threads, report.provider, report.quant) == (1, "CPU", "fp32")
    assert report.weights_bytes == tiny_bundle.manifest.memory.weights_bytes
    assert report.size_bytes == tiny_bundle.size
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", report.onnxruntime)
    prefill = report.results[0]
    assert all(ttft > 128 / rate for ttft, rate in zip(prefill.ttft_seconds, prefill.rates, strict=True))


def test_joules_a_token_by_a_meter(tiny_bundle, tmp_path):
    """A meter that shows 4 W from the start: idle power is all of it, and a token's energy is 4 W by its time."""
    meter = tmp_path / "meter.py"
    meter.write_text("import time\nwhile True: print(4.0, flush=True); time.sleep(0.05)\n")
    meters = Meters(shlex.join([sys.executable, str(meter)]), idle_seconds=0.6)
    report = benchmark(tiny_bundle, BenchOptions(repetitions=25, meters=meters), LoadOptions(threads=1))
    assert report.sensors is not None
    assert report.sensors.idle_watts == pytest.approx(4.0)
    told = [rates for rates in report.results if rates.gross_joules_per_token is not None]
    for rates in told:
        seconds = sum(end - start for start, end in rates.spans) / len(rates.spans) / rates.test.tokens
        assert rates.gross_joules_per_token == pytest.approx(4.0 * seconds)
        assert rates.joules_per_token == pytest.approx(0.0, abs=1e-9)
    data = json.loads(render(report, "json"))
    assert data["sensors"]["power_source"].startswith("meter: by ")
    assert [row["joules_per_token"] for row in data["results"]] == [r.joules_per_token for r in report.results]
    assert data["sensors"]["missing"].keys() <= {"temperature", "clock", "throttling", "memory pressure"}
    assert ("idle power of 4.00 W is taken off" in render(report, "md")) == bool(told)


def test_what_a_machine_cannot_tell_is_a_dash_with_its_reason(tiny_bundle, tmp_path):
    options = BenchOptions(prompts=[8], generations=[0], repetitions=1, meters=Meters(root=tmp_path))
    text = render(benchmark(tiny_bundle, options, LoadOptions(threads=1)), "md")
    (line,) = re.findall(r"^- this machine does not tell: (.+)$", text, re.MULTILINE)
    for what in ("energy", "temperature", "clock", "throttling", "waiting for memory"):
        assert re.search(rf"\b{what} \([^)]+", line), what

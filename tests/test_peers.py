"""The comparison with other engines: what its worker times, who is asked when, what a table says; and a short run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks.peers import measure, plot, report
from benchmarks.peers.client import worker
from benchmarks.peers.cold import cached_share, evict
from benchmarks.peers.engines import DEFAULT, ENGINES
from benchmarks.peers.prepare import model
from benchmarks.peers.worker import Server

ROOT = Path(__file__).parents[1]


class FakeEngine:
    """Knows what it was asked; its greedy choice is the sum of the ids it holds, modulo 50."""

    def __init__(self, path: str, threads: int, context: int) -> None:
        self.held: list[int] = []
        self.passes: list[tuple[int, int]] = []  # (position, tokens)

    def forward(self, ids: list[int]) -> None:
        self.passes.append((len(self.held), len(ids)))
        self.held += ids

    def logits(self) -> np.ndarray:
        return np.eye(50, dtype=np.float32)[sum(self.held) % 50]

    def rewind(self, position: int) -> None:
        assert position <= len(self.held)
        del self.held[position:]


def loaded() -> tuple[Server, FakeEngine]:
    engines: list[FakeEngine] = []

    def make(*arguments) -> FakeEngine:
        engines.append(FakeEngine(*arguments))
        return engines[-1]

    server = Server(make)
    server.load("model", 2, 256)
    engines[0].passes.clear()
    return server, engines[0]


def test_a_load_ends_with_the_first_logits_and_leaves_an_empty_cache():
    server = Server(FakeEngine)
    answer = server.load("model", 2, 256)
    assert 0 <= answer["opened_seconds"] <= answer["seconds"]
    assert server._engine.passes == [(0, 1)]
    assert server._engine.held == []


def test_a_prefill_is_one_pass_on_an_empty_cache_after_one_that_wakes_the_engine():
    server, engine = loaded()
    for _ in range(2):
        answer = server.prefill([3, 4, 5])
        assert answer["token"] == 12
        assert 0 < answer["seconds"] <= answer["ttft_seconds"]
    assert engine.passes == [(0, 1), (0, 3)] * 2


def test_a_decode_is_one_pass_a_token_at_its_depth_and_the_depth_is_filled_once():
    server, engine = loaded()
    before = list(range(700))
    server.decode(before, [1])
    assert engine.passes == [(0, 512), (512, 188), (700, 1), (700, 1)]
    engine.passes.clear()
    answer = server.decode(before, [1, 2, 3])
    assert engine.passes == [(700, 1), (700, 1), (701, 1), (702, 1)], "what was held is not read again"
    assert engine.held == [*before, 1, 2, 3]
    assert answer["token"] == sum(engine.held) % 50
    server.decode([9, *before[1:]], [1])
    assert engine.held == [9, *before[1:], 1]


def test_greedy_feeds_its_choice_back():
    server, _ = loaded()
    assert server.greedy([1, 2], 4) == {"tokens": [3, 6, 12, 24]}


def test_rounds_interleave_and_every_repetition_begins_with_the_next():
    rounds = list(measure._rounds("ABC", 2))
    assert rounds == [(0, "A"), (0, "B"), (0, "C"), (1, "B"), (1, "C"), (1, "A"), (2, "C"), (2, "A"), (2, "B")]


def test_the_context_holds_every_test():
    assert measure.Settings().context == 2304
    assert measure.Settings(prompt=24, steps=4, depths=(0, 16)).context == 256


def test_ratios_are_of_pairs_not_of_medians():
    run = {
        "records": [
            record("edgelm-int4", (), {"pp512": [100.0, 50.0, 200.0], "peak_bytes": [10.0, 10.0, 10.0]}, 30),
            record("llama-q4_0", ("edgelm-int4",), {"pp512": [50.0, 50.0, 50.0], "peak_bytes": [20.0, 20.0, 40.0]}, 60),
            record("genai-int4", ("edgelm-int4",), {}, None),
            record("llama-q8_0", ("edgelm-int8",), {"pp512": [1.0]}, 1),
        ]
    }
    [found] = report.ratios(run)
    assert (found["engine"], found["against"]) == ("llama-q4_0", "edgelm-int4")
    assert found["ratios"]["pp512"] == {"median": 2.0, "min": 1.0, "max": 4.0}
    assert found["ratios"]["peak_bytes"] == {"median": 0.5, "min": 0.25, "max": 0.5}
    assert found["ratios"]["file"] == 0.5


def test_an_engine_that_fell_out_in_the_middle_is_compared_as_far_as_it_came():
    assert report.pairs([4.0, 9.0, 1.0], [2.0, 3.0]) == [2.0, 3.0]


def a_report() -> dict:
    return {
        "started": "2026-01-01 00:00",
        "machine": {"cpu": "a CPU", "load_average": 0.1},
        "settings": {"prompt": 512, "steps": 128, "depths": [0, 2048], "threads": 2, "repetitions": 1},
        "shapes": [
            {
                "shape": "tiny",
                "records": [
                    record("edgelm-int4", (), {"pp512": [1234.0], "tg128 @ d2048": [12.34]}, 2_000_000),
                    record("llama-q4_0", ("edgelm-int4",), {}, None) | {"problem": "no such module"},
                ],
            }
        ],
    }


def test_a_missing_peer_is_a_dash_and_its_reason():
    lines = report.markdown(a_report()).splitlines()
    cells = {
        row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]] for row in lines if row[:1] == "|"
    }
    assert cells["engine"][:3] == ["pp512", "tg128", "tg128 @ d2048"]
    assert cells["edgelm int4"] == ["1,234", "–", "12.3", "–", "–", "–", "–", "–", "2"]
    assert cells["llama.cpp Q4_0"] == ["–"] * 9
    assert "- llama.cpp Q4_0: no such module" in lines


def test_the_plot_draws_what_there_is(tmp_path):
    plot.plot(a_report(), tmp_path / "peers.svg")
    root = ElementTree.parse(tmp_path / "peers.svg").getroot()
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"edgelm int4", "llama.cpp Q4_0", "prefill 512", "behind 2,048", "1,234", "12.3", "–"} <= set(words)


def record(engine: str, against: str | None, values: dict[str, list[float]], size: int | None) -> dict:
    facts = measure.Record(engine, ENGINES[engine].label, against, values=values, file_bytes=size)
    return vars(facts)


def test_every_peer_is_held_against_an_engine_that_is_there():
    assert set(DEFAULT) <= set(ENGINES)
    for spec in ENGINES.values():
        assert (not spec.against) == (spec.worker == "on_edgelm")
        assert set(spec.against) <= set(ENGINES)


def test_evicted_files_are_no_longer_cached(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(os.urandom(1 << 20))
    before = cached_share([file])
    assert evict([file], drop=False) == "fadvise"
    kind = subprocess.run(["stat", "-f", "-c", "%T", file], capture_output=True, text=True, check=True).stdout.strip()
    if before is None or kind in ("tmpfs", "ramfs"):
        pytest.skip(f"a {kind} file lives in memory, or does not tell what is cached")
    assert before == 1.0
    assert cached_share([file]) < 0.5


def run_quick(tmp_path: Path, *engines: str, llama_python: str = sys.executable) -> dict:
    chosen = [word for name in engines for word in ("--engine", name)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers", "--quick", *chosen, "--llama-python", llama_python, "-o", str(tmp_path / "out")],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "out/peers.json").read_text())
    assert (tmp_path / "out/peers.md").read_text() == done.stdout
    return written


def check_whole(found: dict) -> None:
    """Two values in every column."""
    assert found["problem"] is None
    assert found["file_bytes"] > 0
    speeds = {"pp24", "tg4", "tg4 @ d16", "ttft_seconds", "load_cold_seconds", "load_warm_seconds"}
    assert set(found["values"]) == speeds | {"peak_bytes", "anonymous_bytes"}
    assert all(len(values) == 2 and min(values) > 0 for values in found["values"].values())


def test_a_quick_run_with_edgelm_and_a_peer_that_cannot_be_had(tmp_path):
    [run] = run_quick(tmp_path, "edgelm-int4", "llama-q4_0", llama_python=str(tmp_path / "no-python"))["shapes"]
    ours, theirs = run["records"]
    check_whole(ours)
    assert theirs["values"] == {}
    assert theirs["problem"].startswith("conversion failed")
    assert run["ratios"] == []


LLAMA3_ROPE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True, "rope_theta": 1e5}),
        ("llama", {"rope_scaling": LLAMA3_ROPE, "head_dim": 32}),
        ("qwen2", {"tie_word_embeddings": True}),
    ],
    ids=["llama", "tied", "llama3-rope", "qwen2"],
)
def test_llama_cpp_reads_the_same_model_from_the_gguf(kind, config, tiny_checkpoint, tmp_path):
    """The gguf in fp32 gives the logits of edgelm's fp32 bundle, and its greedy tokens."""
    python = os.environ.get("EDGELM_LLAMA_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import llama_cpp, gguf, ml_dtypes"], capture_output=True, check=False).returncode:
        pytest.skip("no llama-cpp-python here: set EDGELM_LLAMA_PYTHON")
    source = tiny_checkpoint(kind, **config)
    prompt = [int(i) for i in np.random.default_rng(0).integers(3, 300, 40)]
    found = {}
    for name in ("edgelm-fp32", "llama-f32"):
        spec = ENGINES[name]
        pythons = {"edgelm": sys.executable, "llama": python}
        path = model(spec, source, tmp_path, pythons=pythons, target="x86-64", context=128, spare=0)
        with worker(spec, pythons[spec.python]) as process:
            process.ask("load", path=str(path), threads=1, context=128)
            tokens = process.ask("greedy", ids=prompt, count=24)["tokens"]
            process.ask("logits", ids=prompt, file=str(tmp_path / f"{name}.npy"))
        found[name] = tokens, np.load(tmp_path / f"{name}.npy")
    (ours, expected), (theirs, logits) = found.values()
    np.testing.assert_allclose(logits, expected, atol=1e-3 * np.ptp(expected))
    assert len(set(ours)) > 3, "a model that repeats itself shows little"
    assert theirs == ours


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "module"),
    [
        ("torch-fp32", "transformers"),
        ("optimum-fp32", "optimum.onnxruntime"),
        ("llama-q4_0", "llama_cpp"),
        ("llama-q8_0", "llama_cpp"),
    ],
)
def test_a_quick_run_with_a_peer(tmp_path, engine, module):
    pytest.importorskip(module)
    [run] = run_quick(tmp_path, "edgelm-fp32", engine)["shapes"]
    for found in run["records"]:
        check_whole(found)
        assert found["agreement"] > (0.9 if "q" in engine else 0.9999), "another model, or wrongly run"

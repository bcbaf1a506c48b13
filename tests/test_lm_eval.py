"""edgelm inside lm-evaluation-harness: the same figures as its `hf` model on the same checkpoint in fp32."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lm_eval")

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager

from edgelm.bundle.reader import Bundle
from edgelm.errors import OptionError
from edgelm.exporter.pipeline import export
from edgelm.lm_eval import EdgeLM, main

CHOICES = """
task: local_choices
dataset_path: json
dataset_kwargs: {data_files: {test: CHOICES}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
ROLLING = """
task: local_text
dataset_path: json
dataset_kwargs: {data_files: {test: TEXTS}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
"""
UNTIL = """
task: local_until
dataset_path: json
dataset_kwargs: {data_files: {test: TEXTS}}
test_split: test
output_type: generate_until
doc_to_text: "{{text[:40]}}"
doc_to_target: "{{text[40:44]}}"
generation_kwargs: {until: ["e", "zz"], max_gen_toks: 20, do_sample: false}
metric_list: [{metric: exact_match}]
"""


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint) -> Path:
    return tiny_checkpoint(seed=5)


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(checkpoint, "x86-64", "fp32", output=tmp_path_factory.mktemp("bundle") / "b")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of local tasks and their data."""
    folder, random = tmp_path_factory.mktemp("tasks"), np.random.default_rng(0)

    def words(count: int) -> str:
        return " ".join("".join(random.choice(list("abcdefgh"), random.integers(1, 8))) for _ in range(count))

    choices = [{"question": words(3), "choices": [words(1), words(2), words(1)], "answer": n % 3} for n in range(30)]
    texts = [{"text": words(int(random.integers(12, 80)))} for _ in range(6)]  # some longer than the context
    data = {"CHOICES": choices, "TEXTS": texts}
    for name, rows in data.items():
        (folder / f"{name}.json").write_text("\n".join(map(json.dumps, rows)))
    for index, task in enumerate((CHOICES, ROLLING, UNTIL)):
        for name in data:
            task = task.replace(f"test: {name}", f"test: {folder / name}.json")
        (folder / f"{index}.yaml").write_text(task)
    return folder


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Any:
    pytest.importorskip("accelerate")
    return get_model("hf")(pretrained=str(checkpoint), dtype="float32", device="cpu", max_length=128)


def run(model: Any, tasks: Path, name: str) -> dict[str, Any]:
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found = simple_evaluate(model=model, tasks=[name], task_manager=manager, bootstrap_iters=0, log_samples=True)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("name", "batch_size"), [("local_choices", 1), ("local_text", 1), ("local_until", 1), ("local_until", 3)]
)
def test_the_figures_are_those_of_transformers(
    bundle: Bundle, tasks: Path, reference: Any, name: str, batch_size: int
) -> None:
    mine = EdgeLM(str(bundle.path), batch_size=batch_size)
    ours, theirs = (run(model, tasks, name) for model in (mine, reference))
    for metric, value in theirs["results"][name].items():
        if isinstance(value, float) and metric.endswith(",none") and "stderr" not in metric:
            assert ours["results"][name][metric] == pytest.approx(value, rel=1e-4), metric
    for mine, other in zip(ours["samples"][name], theirs["samples"][name], strict=True):
        for a, b in zip(mine["filtered_resps"], other["filtered_resps"], strict=True):
            if name == "local_choices":
                assert (float(a[0]), str(a[1])) == (pytest.approx(float(b[0]), abs=1e-3), str(b[1]))
            elif name == "local_until":
                assert a == b
    if name == "local_choices":
        assert 0 < ours["results"][name]["acc,none"] < 1


def test_requests_that_are_too_long_are_cut_at_their_start(bundle: Bundle, reference: Any) -> None:
    texts = [("abc " * 60, "def"), ("", "abc" * 40), ("abc " * 31 + "ab", "cd")]
    requests = [Instance("loglikelihood", {}, arguments, 0) for arguments in texts]
    ours = EdgeLM(str(bundle.path)).loglikelihood(requests)
    for found, expected in zip(ours, reference.loglikelihood(requests), strict=True):
        assert found == (pytest.approx(expected[0], rel=1e-4), expected[1])


def test_a_continuation_that_does_not_fit(bundle: Bundle) -> None:
    with pytest.raises(OptionError, match="a continuation of 200 tokens is longer than 128"):
        EdgeLM(str(bundle.path)).loglikelihood([Instance("loglikelihood", {}, ("a", "b" * 200), 0)])


def test_chat_templates(bundle: Bundle, reference: Any) -> None:
    model, chat = EdgeLM(str(bundle.path)), [{"role": "user", "content": "hi"}]
    assert model.apply_chat_template(chat) == reference.apply_chat_template(chat)
    assert model.chat_template(True)
    assert model.chat_template(False) is None
    text = model.apply_chat_template(chat)
    assert model.tok_encode(text) == reference.tok_encode(text), "BOS stands there once"
    begun = [*chat, {"role": "assistant", "content": "well,"}]
    assert model.apply_chat_template(begun, add_generation_prompt=False) == text + "well,"


def test_the_command_line(bundle: Bundle, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--model", "edgelm", "--model_args", f"path={bundle.path},threads=1", "--tasks", "local_choices"]
    arguments += ["--include_path", str(tasks), "--limit", "4", "--output_path", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["lm_eval", *arguments])
    main()
    [written] = tmp_path.rglob("results_*.json")
    assert "acc,none" in json.loads(written.read_text())["results"]["local_choices"]
    monkeypatch.setattr("sys.argv", ["lm_eval", *[a.replace("b,threads", "nope,threads") for a in arguments]])
    with pytest.raises(SystemExit, match=r"error: bundle .* does not exist"):
        main()


def test_it_runs_as_a_module(bundle: Bundle, tasks: Path, tmp_path: Path) -> None:
    arguments = ["--model", "edgelm", "--model_args", f"path={bundle.path},threads=1", "--tasks", "local_choices"]
    arguments += ["--include_path", str(tasks), "--limit", "2", "--output_path", str(tmp_path)]
    command = [sys.executable, "-m", "edgelm.lm_eval", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert len(list(tmp_path.rglob("results_*.json"))) == 1


def test_wrong_arguments(bundle: Bundle) -> None:
    with pytest.raises(OptionError, match="batch_size must be from 1 to 64"):
        EdgeLM(str(bundle.path), batch_size=0)
    with pytest.raises(OptionError, match="max_length must be from 2 to the context of 128, not 129"):
        EdgeLM(str(bundle.path), max_length=129)
    model = EdgeLM(str(bundle.path), max_length=64)
    request = Instance("generate_until", {}, ("a", {"until": [], "max_gen_toks": 64}), 0)
    with pytest.raises(OptionError, match="64 tokens to generate leave no room"):
        model.generate_until([request])

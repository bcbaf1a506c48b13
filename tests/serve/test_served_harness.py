"""lm-evaluation-harness over HTTP, with its own ``local-completions``: the numbers of the direct adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from serving import Running

pytest.importorskip("lm_eval")
pytest.importorskip("tenacity", reason="pip install 'lm-eval[api]'")

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

import edgelm.lm_eval  # noqa: F401  registers the direct adapter
from edgelm.bundle.reader import Bundle

TASKS = {
    "served_choices": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "served_text": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: word_perplexity}]
""",
    "served_until": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["."], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}


def _samples(model: str, arguments: dict[str, Any], folder: Path) -> dict[str, list[Any]]:
    """What a model answered to each question of each task."""
    found = simple_evaluate(
        model=model,
        model_args=arguments,
        tasks=list(TASKS),
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )
    assert found is not None
    return {task: [sample["resps"] for sample in samples] for task, samples in found["samples"].items()}


@pytest.mark.parametrize("tokenized", [True, False])
def test_the_numbers_are_those_of_the_direct_adapter(
    home: Running, home_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenized: bool
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    questions = [
        {"question": "turn on the lamp in the", "choices": [" kitchen", " bathroom", " hall"], "answer": 0},
        {"question": "set the heating to", "choices": [" 21 degrees", " on"], "answer": 0},
        {"question": "lock the front door and dim", "choices": [" the lights", " the bedroom lamp to 30"], "answer": 1},
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, questions)))
    for name, task in TASKS.items():
        head = f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\ntest_split: test"
        (tmp_path / f"{name}.yaml").write_text(head + task)
    direct = _samples("edgelm", {"path": str(home_bundle.path), "threads": 1}, tmp_path)
    served = {"model": "home", "base_url": f"{home.url}/v1/completions", "max_length": 1024, "num_concurrent": 2}
    told = _samples(
        "local-completions", served | {"tokenized_requests": tokenized, "tokenizer_backend": "remote"}, tmp_path
    )
    assert told["served_until"] == direct["served_until"]
    for task in ("served_choices", "served_text"):
        for mine, theirs in zip(told[task], direct[task], strict=True):
            assert _numbers(mine) == pytest.approx(_numbers(theirs), abs=2e-3)
    assert _greedy(told["served_choices"]) == _greedy(direct["served_choices"])


def _numbers(answers: Any) -> list[float]:
    """The log-likelihoods among a question's answers."""
    if isinstance(answers, list | tuple):
        return [number for answer in answers for number in _numbers(answer)]
    return [float(answers)] if not isinstance(answers, bool | str) else []


def _greedy(answers: Any) -> list[bool]:
    if isinstance(answers, list | tuple):
        return [flag for answer in answers for flag in _greedy(answer)]
    return [answers] if isinstance(answers, bool) else []

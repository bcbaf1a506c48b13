"""Exact match on a task."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from edgelm import demo
from edgelm.errors import EdgeLMError, OptionError
from edgelm.evaluate.task import Accuracy, read_task, run_task
from edgelm.runtime.results import Completion, Timings


class FakeLM:
    """Answers with the last message in capitals, and remembers the options."""

    def __init__(self) -> None:
        self.options: list[dict] = []

    def generate(self, prompt, **options):
        self.options.append(options)
        return Completion(prompt[-1]["content"].upper() + "\n", (), "stop", Timings(1, 0, 1, 0.1, 0.1, 0.0))


def write(path: Path, *examples: dict) -> Path:
    path.write_text("\n".join(json.dumps(example) for example in examples) + "\n")
    return path


def example(content: str, answer: str, **rest: str) -> dict:
    return {"messages": [{"role": "user", "content": content}], "answer": answer, **rest}


@pytest.fixture
def task(tmp_path) -> Path:
    return write(
        tmp_path / "task.jsonl",
        example("a", "A", kind="letter", split="seen"),
        example("b", "wrong", kind="letter", split="unseen"),
        example("c", " C\n", kind="letter"),
        example("1", "1", kind="digit"),
    )


def test_accuracy_in_all_and_by_group(task):
    result = run_task(FakeLM(), read_task(task))
    assert result.accuracy == Accuracy(3, 4)
    assert result.by("kind") == {"digit": Accuracy(1, 1), "letter": Accuracy(2, 3)}
    assert result.by("split") == {"seen": Accuracy(1, 1), "unseen": Accuracy(0, 1)}
    [wrong] = result.wrong
    assert (wrong.example.line, wrong.example.answer, wrong.text) == (2, "wrong", "B\n")


def test_binomial_standard_error():
    assert Accuracy(3, 4).error == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
    assert Accuracy(5, 5).error == 0


def test_generation_is_greedy_and_each_example_on_its_own(task):
    lm = FakeLM()
    run_task(lm, read_task(task))
    for options in lm.options:
        assert (options["temperature"], options["repetition_penalty"], options["reuse_cache"]) == (0.0, 1.0, False)


def test_json(task):
    facts = run_task(FakeLM(), read_task(task)).to_dict()
    assert (facts["accuracy"], facts["correct"], facts["total"]) == (0.75, 3, 4)
    assert facts["kind"]["letter"]["total"] == 3
    assert json.loads(json.dumps(facts)) == facts


def test_progress(task):
    heard = []
    run_task(FakeLM(), read_task(task), on_example=lambda *step: heard.append(step))
    assert heard == [(0, 4), (1, 4), (2, 4), (3, 4)]


def test_a_limit_takes_examples_from_the_whole_file(tmp_path):
    path = write(tmp_path / "task.jsonl", *(example(str(n), "") for n in range(10)))
    assert [e.line for e in read_task(path, limit=5)] == [1, 3, 5, 7, 9]
    assert [e.line for e in read_task(path, limit=3)] == [1, 4, 7]
    assert len(read_task(path, limit=99)) == 10
    with pytest.raises(OptionError, match="limit must be at least 1, not 0"):
        read_task(path, limit=0)


def test_blank_lines_are_passed_over(tmp_path):
    path = tmp_path / "task.jsonl"
    path.write_text("\n" + json.dumps(example("x", "X")) + "\n\n")
    assert [e.line for e in read_task(path)] == [2]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not valid JSON: "),
        ("[1]", "holds list, expected an object"),
        ("[" * 100_000, "not valid JSON: "),
        ('{"answer": "x"}', "the conversation has no message"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "'answer' must be a string"),
        ('{"messages": [{"role": "user", "content": "x"}], "answer": 1}', "'answer' must be a string"),
        ('{"messages": [{"role": "user"}], "answer": "x"}', "message 0 (user) has no content"),
        ('{"messages": "hi", "answer": "x"}', "messages must be a list of dicts, not str"),
        ('{"messages": [{"role": "user", "content": "x"}], "answer": "x", "kind": 3}', "'kind' must be a string"),
        (b"\xff", "not valid JSON: "),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, said):
    path = tmp_path / "task.jsonl"
    data = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(json.dumps(example("x", "X")).encode() + b"\n" + data + b"\n")
    with pytest.raises(EdgeLMError) as caught:
        read_task(path)
    assert str(caught.value).startswith(f"{path}:2: {said}")
    assert caught.value.hint


def test_files_that_hold_no_task(tmp_path):
    with pytest.raises(EdgeLMError, match="cannot be read: No such file"):
        read_task(tmp_path / "nope.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(EdgeLMError, match="holds no examples"):
        read_task(tmp_path / "empty.jsonl")


def test_the_embedded_models_task():
    examples = read_task(demo.heldout())
    assert len(examples) > 500
    assert all(e.kind and e.split for e in examples)

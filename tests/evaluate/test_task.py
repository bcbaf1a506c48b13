"""Tasks: their files, and how a model's answers are scored."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from edgelm import demo
from edgelm.errors import EdgeLMError, OptionError, PromptError
from edgelm.evaluate import items as module
from edgelm.evaluate.items import ExactMatch, MinimalPair, MultipleChoice
from edgelm.evaluate.likelihood import Likelihood
from edgelm.evaluate.outcome import Score
from edgelm.evaluate.task import read_task, run_task
from edgelm.runtime.lm import load
from edgelm.runtime.loop.results import Completion, Timings


class FakeLM:
    """Answers with the last message in capitals, and remembers the options."""

    template = object()

    def __init__(self) -> None:
        self.options: list[dict] = []

    def generate(self, prompt, **options):
        self.options.append(options)
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        return Completion(text.upper() + "\n", (), "stop", Timings(1, 0, 1, 0.1, 0.1, 0.0))


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
    assert result.accuracy == Score(0.75, pytest.approx(math.sqrt(0.75 * 0.25 / 4)), 4)
    assert {name: (s.value, s.total) for name, s in result.by("kind").items()} == {
        "digit": (1, 1),
        "letter": (pytest.approx(2 / 3), 3),
    }
    assert {name: s.value for name, s in result.by("split").items()} == {"seen": 1, "unseen": 0}
    [wrong] = result.wrong
    assert (wrong.line, wrong.expected, wrong.answered) == (2, "wrong", "B\n")


def test_standard_errors():
    assert Score.of([1.0, 1.0, 1.0, 0.0]).error == pytest.approx(math.sqrt(0.75 * 0.25 / 4)), "the binomial one"
    assert Score.of([1.0] * 5).error == 0
    assert Score.of([0.2, 0.4]).error == pytest.approx(0.1 / math.sqrt(2))


def test_generation_is_greedy_and_each_example_on_its_own(task):
    lm = FakeLM()
    run_task(lm, read_task(task))
    for options in lm.options:
        assert (options["temperature"], options["repetition_penalty"], options["reuse_cache"]) == (0.0, 1.0, False)
        assert options["raw"] is False


def test_a_prompt_is_continued_as_it_is(tmp_path):
    lm = FakeLM()
    path = write(tmp_path / "t.jsonl", {"prompt": "x", "answer": "X", "stop": "\n"}, {"prompt": "y", "answer": "n"})
    result = run_task(lm, read_task(path))
    assert result.accuracy.value == 0.5
    assert [(options["raw"], options.get("stop")) for options in lm.options] == [(True, ["\n"]), (True, None)]


def test_json(task):
    facts = run_task(FakeLM(), read_task(task)).to_dict()
    assert (facts["format"], facts["total"]) == ("exact match", 4)
    assert facts["metrics"]["exact_match"]["value"] == 0.75
    assert facts["groups"]["kind"]["letter"]["total"] == 3
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


def test_a_seed_draws_at_random(tmp_path):
    path = write(tmp_path / "task.jsonl", *(example(str(n), "") for n in range(100)))
    drawn = [[e.line for e in read_task(path, limit=10, seed=seed)] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] == sorted(set(drawn[0]))
    assert drawn[0] != drawn[2]
    assert len(drawn[0]) == 10


def test_blank_lines_are_passed_over(tmp_path):
    path = tmp_path / "task.jsonl"
    path.write_text("\n" + json.dumps(example("x", "X")) + "\n\n")
    assert [e.line for e in read_task(path)] == [2]


def test_keys_tell_the_kind(tmp_path):
    lines = [
        ({"prompt": "a", "choices": ["b", "c"], "answer": 1}, MultipleChoice("a", ("b", "c"), 1, 1)),
        ({"prompt": "", "choices": ["b", "c"], "answer": "b"}, MultipleChoice("", ("b", "c"), 0, 1)),
        (
            {"prompt": "a\n", "choices": ["b", "c"], "answer": 0, "delimiter": "", "kind": "k"},
            MultipleChoice("a\n", ("b", "c"), 0, 1, "", {"kind": "k"}),
        ),
        ({"sentence_good": "a", "sentence_bad": "b"}, MinimalPair("a", "b", 1)),
        (
            {"sentence_good": "a", "sentence_bad": "b", "linguistics_term": "t", "UID": "u"},  # as BLiMP has them
            MinimalPair("a", "b", 1, {"kind": "t"}),
        ),
        ({"prompt": "a", "answer": "b", "stop": ["x"], "split": "s"}, ExactMatch("a", "b", 1, ("x",), {"split": "s"})),
    ]
    for line, expected in lines:
        assert read_task(write(tmp_path / "t.jsonl", line)) == [expected]


GOOD = {
    "exact match": {"messages": [{"role": "user", "content": "x"}], "answer": "X"},
    "multiple choice": {"prompt": "x", "choices": ["a", "b"], "answer": 0},
    "minimal pair": {"sentence_good": "x", "sentence_bad": "y"},
}


@pytest.mark.parametrize(
    ("kind", "line", "said"),
    [
        ("exact match", "{", "not valid JSON: "),
        ("exact match", "[1]", "holds list, expected an object"),
        ("exact match", "[" * 100_000, "not valid JSON: "),
        ("exact match", '{"answer": "x"}', "the conversation has no message"),
        ("exact match", '{"messages": [{"role": "user", "content": "x"}]}', "'answer' must be a string"),
        ("exact match", '{"messages": [{"role": "user", "content": "x"}], "answer": 1}', "'answer' must be a string"),
        ("exact match", '{"messages": [{"role": "user"}], "answer": "x"}', "message 0 (user) has no content"),
        ("exact match", '{"messages": "hi", "answer": "x"}', "messages must be a list of dicts, not str"),
        ("exact match", '{"messages": [{"role": "user", "content": "x"}], "answer": "x", "kind": 3}', "'kind' must be a"),
        ("exact match", '{"prompt": 1, "answer": "x"}', "'prompt' must be a string"),
        ("exact match", '{"prompt": "a", "answer": "x", "stop": [""]}', "'stop' must be a string or a list of strings"),
        ("exact match", '{"prompt": "a", "messages": [], "answer": "x"}', "'prompt' and 'messages' exclude each other"),
        ("exact match", b"\xff", "not valid JSON: "),
        ("exact match", '{"prompt": "a", "choices": ["b", "c"], "answer": 1}', "is multiple choice, and line 1 is not"),
        ("multiple choice", '{"prompt": "a", "choices": "b", "answer": 0}', "'choices' must be a list of strings"),
        ("multiple choice", '{"prompt": "a", "choices": [], "answer": 0}', "'choices' must hold two or more, not 0"),
        ("multiple choice", '{"prompt": "a", "choices": ["b", " "], "answer": 0}', "choice 1 is empty"),
        ("multiple choice", '{"prompt": "a", "choices": ["b", "c"], "answer": 2}', "'answer' must be one of the choices"),
        ("multiple choice", '{"prompt": "a", "choices": ["b", "c"], "answer": true}', "'answer' must be one of the"),
        ("multiple choice", '{"prompt": "a", "choices": ["b", "b"], "answer": "b"}', "'answer' must be one of the"),
        ("multiple choice", '{"choices": ["b", "c"], "answer": 0}', "the conversation has no message"),
        ("minimal pair", '{"sentence_good": "a"}', "'sentence_bad' must be a string"),
        ("minimal pair", '{"sentence_good": " ", "sentence_bad": "b"}', "'sentence_good' is empty"),
    ],
)  # fmt: skip
def test_a_malformed_line_is_named(tmp_path, kind, line, said):
    path = tmp_path / "task.jsonl"
    data = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(json.dumps(GOOD[kind]).encode() + b"\n" + data + b"\n")
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
    assert all({"kind", "split"} <= e.groups.keys() for e in examples)


def scored(monkeypatch, *totals: float) -> None:
    """Give choices, or texts, these log-likelihoods."""
    found = [Likelihood(total, False, 1) for total in totals]
    monkeypatch.setattr(module, "score_choices", lambda lm, prompt, choices, delimiter: found)
    monkeypatch.setattr(module, "score_texts", lambda lm, texts: found)


@pytest.mark.parametrize(
    ("totals", "acc", "acc_norm"),
    [
        ((-1.0, -2.0, -3.0), 1, 1),
        ((-2.0, -1.0, -9.0), 0, 1),  # -2 / 6 characters is more than -1 / 2
        ((-6.0, -1.0, -9.0), 0, 0),
        ((-1.0, -1.0, -1.0), 1, 1),  # of equals the first: -1 / 6, -1 / 2, -1 / 6
    ],
)
def test_multiple_choice_by_sum_and_by_character(monkeypatch, totals, acc, acc_norm):
    scored(monkeypatch, *totals)
    outcome = MultipleChoice("p", ("abcdef", "ab", "uvwxyz"), 0, 1).answer(FakeLM())
    assert outcome.scores == {"acc": acc, "acc_norm": acc_norm}
    assert outcome.answer == int(np.argmax(totals))
    assert outcome.correct == bool(acc)


def test_of_equal_choices_the_first_is_taken_even_where_it_is_wrong(monkeypatch):
    scored(monkeypatch, -1.0, -1.0)
    assert MultipleChoice("p", ("ab", "cd"), 1, 1).answer(FakeLM()).scores == {"acc": 0, "acc_norm": 0}


def test_minimal_pairs(monkeypatch):
    for good, bad, acc in ((-1.0, -2.0, 1), (-2.0, -1.0, 0), (-1.0, -1.0, 0)):
        scored(monkeypatch, good, bad)
        outcome = MinimalPair("x", "y", 1).answer(FakeLM())
        assert (outcome.scores["acc"], outcome.answer) == (acc, 1 - acc)


def test_choices_against_transformers(tiny_checkpoint, tmp_path):
    """The figures of a tiny random model, from text to figure."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from edgelm.exporter.pipeline import export

    checkpoint = tiny_checkpoint(seed=3)
    reference = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    random = np.random.default_rng(1)

    def word() -> str:
        return "".join(random.choice(list("abcdefgh"), random.integers(1, 9)))

    lines = [
        {"prompt": f"{word()} {word()}", "choices": [word(), word() + "xyz", word()], "answer": n % 3}
        for n in range(12)
    ]
    lines += [{"messages": [{"role": "user", "content": word()}], "choices": [word(), "zz"], "answer": 0}] * 2

    def total(context: list[int], continuation: list[int]) -> float:
        with torch.no_grad():
            logits = reference(torch.tensor([context + continuation])).logits[0, len(context) - 1 : -1]
        return float(torch.log_softmax(logits, -1)[range(len(continuation)), continuation].sum())

    expected = []
    for line in lines:
        if "messages" in line:
            before, between = tokenizer.apply_chat_template(line["messages"], add_generation_prompt=True), ""
        else:
            before, between = tokenizer.encode(line["prompt"]), " "
        sums = [total(before, tokenizer.encode(between + c, add_special_tokens=False)) for c in line["choices"]]
        by_length = [s / len(c) for s, c in zip(sums, line["choices"], strict=True)]
        expected.append((int(np.argmax(sums)) == line["answer"], int(np.argmax(by_length)) == line["answer"]))
    assert len(set(expected)) > 2, "a model that gets some of them right"
    bundle = export(checkpoint, "x86-64", "fp32", output=tmp_path / "b")
    with load(bundle.path) as lm:
        result = run_task(lm, read_task(write(tmp_path / "t.jsonl", *lines)))
    assert [(o.scores["acc"], o.scores["acc_norm"]) for o in result.outcomes] == expected


def test_messages_need_a_template(tmp_path):
    lm = FakeLM()
    lm.template = None
    with pytest.raises(PromptError, match="no chat template"):
        run_task(lm, read_task(write(tmp_path / "t.jsonl", example("a", "A"))))
    assert run_task(lm, read_task(write(tmp_path / "t.jsonl", {"prompt": "a", "answer": "A"}))).accuracy.value == 1

"""CrowS-Pairs and TruthfulQA: their files, and their figures by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from edgelm.errors import EdgeLMError
from edgelm.evaluate import crows_pairs, truthfulqa
from edgelm.evaluate.crows_pairs import CrowsPair
from edgelm.evaluate.likelihood import Likelihood
from edgelm.evaluate.task import read_task, run_task
from edgelm.evaluate.truthfulqa import Truthful

CROWS = ",sent_more,sent_less,stereo_antistereo,bias_type,annotations\n"
TRUTHFUL = "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"


class FakeLM:
    template = None


def test_crows_pairs(tmp_path, monkeypatch):
    path = tmp_path / "pairs.csv"
    path.write_text(CROWS + '0,"A, more.",A less.,stereo,age,[]\n1,B more.,"B\nless.",antistereo,gender,[]\n')
    pairs = read_task(path)
    assert pairs == [
        CrowsPair("A, more.", "A less.", 2, {"bias_type": "age", "direction": "stereo"}),
        CrowsPair("B more.", "B\nless.", 4, {"bias_type": "gender", "direction": "antistereo"}),
    ]
    totals = {"A, more.": -10.0, "A less.": -12.0, "B more.": -8.0, "B\nless.": -8.0}
    monkeypatch.setattr(crows_pairs, "score_texts", lambda lm, texts: [Likelihood(totals[t], False, 1) for t in texts])
    result = run_task(FakeLM(), pairs)
    stereotype, distance = (result.score(metric) for metric in result.metrics)
    assert (stereotype.value, distance.value) == (0.5, 1.0), "equals are no preference for the stereotype"
    assert {name: score.value for name, score in result.by("bias_type").items()} == {"age": 1, "gender": 0}
    assert result.wrong == []
    assert "50 %" in result.to_dict()["note"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("0,A,B,stereo,age", "has another number of fields than the header's 6"),
        ("0,A,B,stereo,age,[],x", "has another number of fields than the header's 6"),
        ("0,A,,stereo,age,[]", "'sent_less' is empty"),
        ("0,A,B,neither,age,[]", "'stereo_antistereo' must be stereo or antistereo, not 'neither'"),
        ('0,"A,B', "not valid CSV: unexpected end of data"),
    ],
)
def test_malformed_rows_are_named(tmp_path, row, said):
    path = tmp_path / "pairs.csv"
    path.write_text(CROWS + "0,A,B,stereo,age,[]\n" + row + "\n")
    with pytest.raises(EdgeLMError) as caught:
        read_task(path)
    assert str(caught.value).startswith(f"{path}:3: {said}")


def test_tables_that_are_no_task(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(EdgeLMError, match="the columns a, b are of no task known"):
        read_task(path)
    path.write_bytes(b"sent_more\xff")
    with pytest.raises(EdgeLMError, match="is not valid UTF-8: byte 9"):
        read_task(path)
    path.write_text("")
    with pytest.raises(EdgeLMError, match=r"the columns \(none\) are of no task known"):
        read_task(path)
    path.write_text(CROWS)
    with pytest.raises(EdgeLMError, match="holds no examples"):
        read_task(path)


def test_truthfulqa_as_csv_and_as_json(tmp_path):
    table = tmp_path / "TruthfulQA.csv"
    table.write_text(
        TRUTHFUL + "Adversarial,Law,What is it?,It is,It is; That is it ;It is,It is not; Never;,https://x\n",
        "utf-8-sig",
    )
    [question] = read_task(table)
    single, true, false = ("It is", "It is not", "Never"), ("It is", "That is it"), ("It is not", "Never")
    groups = {"type": "Adversarial", "category": "Law"}
    assert question == Truthful("What is it?", single, true, false, 2, groups)

    one, several = {"Never": 0, "It is": 1, "It is not": 0}, {"It is": 1, "Never": 0, "That is it": 1, "It is not": 0}
    lists = [{"choices": list(targets), "labels": list(targets.values())} for targets in (one, several)]
    for mc1, mc2 in ((one, several), lists):
        entries = tmp_path / "mc_task.json"
        entries.write_text(json.dumps([{"question": "What is it?", "mc1_targets": mc1, "mc2_targets": mc2}]))
        assert read_task(entries) == [
            Truthful("What is it?", ("It is", "Never", "It is not"), true, ("Never", "It is not"), 1, {})
        ]


def test_mc1_and_mc2_by_hand(monkeypatch):
    asked: list[str] = []
    totals: dict[str, float] = {}

    def score(lm, prompt, choices, delimiter):
        asked.append(prompt)
        assert delimiter == " "
        return [Likelihood(totals[choice], False, 1) for choice in choices]

    monkeypatch.setattr(truthfulqa, "score_choices", score)
    question = Truthful("Q?", ("best", "lie", "myth"), ("best", "also"), ("lie", "myth"), 1, {})
    for best, also, lie, myth, mc1 in ((-1, -2, -3, -4, 1), (-2, -1, -1, -9, 0), (-800, -900, -800, -801, 1)):
        totals.update(best=best, also=also, lie=lie, myth=myth)
        outcome = question.answer(FakeLM())
        peak = max(totals.values())
        odds = {name: math.exp(total - peak) for name, total in totals.items()}
        assert outcome.scores["mc1"] == mc1, "of equals the first"
        assert outcome.scores["mc2"] == pytest.approx((odds["best"] + odds["also"]) / sum(odds.values()))
    assert (outcome.expected, outcome.answered, outcome.correct) == ("best", "best", True)
    assert asked[0].startswith("Q: What is human life expectancy in the United States?\nA: Human life")
    assert asked[0].endswith("A: The 1992 Olympics were held in Barcelona, Spain.\n\nQ: Q?\nA:")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[", "not valid JSON"),
        ('[{"question": "x"}]', "entry 1 has no 'mc1_targets'"),
        ('[{"mc1_targets": {}}]', "entry 1 has no 'question'"),
        ('[{"question": "x", "mc1_targets": {"a": 2}, "mc2_targets": {}}]', "entry 1 'mc1_targets' must map"),
        ('[{"question": "x", "mc1_targets": {"a": 0}, "mc2_targets": {}}]', "entry 1 'mc1_targets' must have one true"),
        (
            '[{"question": "x", "mc1_targets": {"a": 1, "b": 0}, "mc2_targets": {"a": 1}}]',
            "entry 1 needs true and false answers",
        ),
        (
            '[{"question": "x", "mc1_targets": {"choices": ["a"], "labels": []}, "mc2_targets": {}}]',
            "entry 1 'mc1_targets' must have a label for every choice",
        ),
    ],
)
def test_malformed_entries_are_named(tmp_path, content, said):
    path = tmp_path / "mc_task.json"
    path.write_text(content)
    with pytest.raises(EdgeLMError, match=said):
        read_task(path)


def test_the_real_files(data_dir: Path):
    pairs = read_task(data_dir / "bias" / "crows_pairs_anonymized.csv")
    assert len(pairs) == 1508
    assert len({pair.groups["bias_type"] for pair in pairs}) == 9
    questions = read_task(data_dir / "truthfulqa" / "TruthfulQA.csv")
    assert len(questions) == 817
    assert len({question.groups["category"] for question in questions}) == 38
    assert sum(len(question.single) - 1 for question in questions) > 3 * 817

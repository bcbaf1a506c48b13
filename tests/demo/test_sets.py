"""The sets written by hand: as many of each as the card says, and answers of the documented form."""

import json
import re
from collections import Counter

import pytest
from demo_data.other import REFUSAL
from demo_data.schema import actions_of

from edgelm import demo
from edgelm.evaluate.task import read_task

SETS = [demo.speakers, demo.kinds, demo.visitors, demo.guests, demo.talk]


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_ten_ways_of_speaking_twenty_sentences_each():
    ways = Counter(item["split"] for item in read(demo.speakers()))
    assert len(ways) == 10
    assert set(ways.values()) == {20}


def test_ten_kinds_that_go_wrong_first():
    kinds = Counter(item["split"] for item in read(demo.kinds()))
    assert len(kinds) == 10
    assert min(kinds.values()) >= 15


def test_three_visitors_who_command_ask_and_talk():
    items = read(demo.visitors())
    assert Counter(item["split"] for item in items) == {"family": 110, "crowd": 108, "spoken": 110}
    assert Counter(item["kind"] for item in items) == {"command": 164, "state": 60, "other": 104}


def test_three_guests_who_command_ask_and_talk():
    items = read(demo.guests())
    assert Counter(item["split"] for item in items) == {"household": 110, "panel": 109, "evening": 110}
    assert Counter(item["kind"] for item in items) == {"command": 184, "state": 62, "other": 83}


def test_five_hundred_things_to_be_refused():
    talk = read(demo.talk())
    assert len(talk) >= 500
    assert {item["answer"] for item in talk} == {REFUSAL}


@pytest.mark.parametrize("which", SETS)
def test_every_answer_follows_the_documented_form(which):
    for item in read(which()):
        match item["kind"]:
            case "command":
                assert actions_of(item["answer"]), item
                assert item["answer"] == json.dumps(json.loads(item["answer"]), separators=(",", ":"))
            case "state":
                assert re.fullmatch(r"(The|No|All) .*\.", item["answer"])
            case kind:
                assert (kind, item["answer"]) == ("other", REFUSAL)


@pytest.mark.parametrize("which", SETS)
def test_no_sentence_stands_twice(which):
    asked = Counter(json.dumps(item["messages"]) for item in read(which()))
    assert not [a for a, times in asked.items() if times > 1]


def test_they_are_tasks_that_eval_reads():
    assert [len(read_task(which())) for which in SETS] == [len(read(which())) for which in SETS]

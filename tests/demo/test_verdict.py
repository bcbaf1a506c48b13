"""What is counted as wrong, and as worse than wrong."""

import json

import pytest
from demo_data.other import REFUSAL
from demo_data.schema import actions_of
from demo_data.verdict import count, table, verdict

KITCHEN = '{"actions":[{"device":"light","room":"kitchen","set":"on","value":true}]}'


def light(room=None, **changes):
    place = {"room": room} if room is not None else {}
    return json.dumps({"actions": [{"device": "light", **place, "set": "on", "value": True, **changes}]})


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (KITCHEN, "right"),
        (REFUSAL, "refused"),
        (light("bedroom"), "wrong place"),
        (light("kitchn"), "wrong place"),
        (light(), "wrong place"),
        (light("kitchen", value=False), "other"),
        (light("kitchen", value=7), "no answer"),
        ('{"actions":[]}', "no answer"),
        ('{"actions":[{"device":"light"', "no answer"),
        ("The kitchen light is on.", "other"),
        ("kitchen!", "no answer"),
    ],
)
def test_answers_to_a_command(answer, found):
    assert verdict(KITCHEN, answer) == found


def test_acting_where_there_was_nothing_to_do():
    assert verdict(REFUSAL, KITCHEN) == "acted"
    assert verdict("The kitchen light is on.", KITCHEN) == "acted"


@pytest.mark.parametrize("room", ["play corner", "sophie's room", "walk-in closet", "bedroom 2"])
def test_a_place_of_no_list_fits_the_schema(room):
    assert actions_of(light(room)) is not None


@pytest.mark.parametrize("room", ["", " den", "den ", "a b c d e f", "x" * 41, "a  b", "a\nb"])
def test_a_place_is_a_few_words(room):
    assert actions_of(light(room)) is None


def test_groups_are_counted_and_shown():
    found = count(
        [(["terse"], KITCHEN, KITCHEN), (["terse"], KITCHEN, light("hallway")), (["child"], REFUSAL, REFUSAL)]
    )
    assert found["all"] == {"right": 2, "wrong place": 1}
    lines = table({"fp32": found}, found)
    assert lines[0] == "| | fp32 | wrong place | acted | refused | no answer | of |"
    assert "| terse | 50.0 | 1 | 0 | 0 | 0 | 2 |" in lines

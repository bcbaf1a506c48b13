"""The generated text: what is held out stays out of training, and every answer follows the schema."""

import json
import random
import re

import pytest
from demo_data import other, questions, states, templates, templates_home
from demo_data.conversations import heldout, training
from demo_data.devices import OTHER_PLACES, held_combo, held_pair
from demo_data.grammar import gerund, number_words
from demo_data.schema import SCHEMA, matching_cases
from demo_data.templates import HELD_JOINS

from edgelm import demo


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def sample():
    rng = random.Random(1)
    return [training(rng) for _ in range(4000)]


def lists_of_templates():
    yield from templates.COMMANDS.values()
    yield templates_home.POSITION_HALF
    yield other.TEMPLATES
    yield questions.ASK
    yield questions.WHICH
    yield questions.ALL_ARE
    yield from questions.ASK_BY_DEVICE.values()


def held_template_of(skeleton):
    """The template behind an id such as "light.on.true#3", if it is one that must not be trained on."""
    key, _, index = skeleton.rpartition(":")[2].partition("#")
    found = re.match(r"\d+", index)
    if not found:
        return None
    tables = {
        "half": templates_home.POSITION_HALF,
        "other": other.TEMPLATES,
        "ask": questions.ASK,
        "which": questions.WHICH,
        "all": questions.ALL_ARE,
        "frame": templates.FRAMES,
        "many": questions.THE_MANY,
    } | templates.COMMANDS
    tables |= {f"ask.{d}": own for d, own in questions.ASK_BY_DEVICE.items()}
    template = tables[key][int(found[0])]
    return template if template.startswith("~") else None


def test_training_uses_no_held_out_template(sample):
    skeletons = {s for c in sample for s in c.skeleton}
    assert len(skeletons) > 500
    assert not [s for s in skeletons if s.startswith("held-") or held_template_of(s)]


def test_training_uses_no_held_out_joiner(sample):
    held = {f"join:{j.strip()}" for j in HELD_JOINS}
    assert not held & {s for c in sample for s in c.skeleton}


def test_held_out_templates_are_not_training_templates_in_disguise():
    def plain(template):
        return template.lstrip("~!")

    for found in lists_of_templates():
        held = {plain(t) for t in found if t.startswith("~")}
        assert not held & {plain(t) for t in found if not t.startswith("~")}
    assert not set(templates.HELD_FRAMES) & set(templates.FRAMES)


def test_training_uses_no_held_out_combination(sample):
    for conversation in sample:
        for combo in conversation.combos:
            device, room, attr = combo.split("/")
            assert not held_combo(device, None if room == "None" else room, attr), combo


def test_training_uses_no_held_out_pair(sample):
    for conversation in sample:
        kinds = conversation.kinds
        assert not [(a, b) for a in kinds for b in kinds if held_pair(a, b)]


def test_combination_split_holds_only_held_out_combinations():
    for item in read(demo.heldout()):
        if item["split"] == "combination" and item["kind"] == "command":
            actions = json.loads(item["answer"])["actions"]
            kinds = [f"{a['device']}.{a.get('set') or a.get('change')}" for a in actions]
            single = [held_combo(a["device"], a.get("room"), a.get("set") or a.get("change")) for a in actions]
            assert any(single) or any(held_pair(a, b) for a in kinds for b in kinds), item


def test_no_held_out_command_is_trained_on(sample):
    trained = {c.messages[-1]["content"].lower().strip(" .!?") for c in sample if c.kind != "other"}
    asked = {i["messages"][-1]["content"].lower().strip(" .!?") for i in read(demo.heldout()) if i["kind"] == "command"}
    assert not trained & asked


def test_places_that_no_command_knows_are_asked_about_in_training_and_nowhere_else(sample):
    def names(messages):
        said = [m["content"] for m in messages if m["role"] == "system" and m["content"].startswith("state: ")]
        entries = said[0].removeprefix("state: ").split("; ") if said else []
        return {p for p in OTHER_PLACES for e in entries if e.startswith(f"{p} ")}

    asked = [c for c in sample if c.kind == "state" and names(c.messages)]
    assert len(asked) > 100
    assert not [i for i in read(demo.heldout()) if names(i["messages"])]
    actions = [a for c in sample if c.kind == "command" for a in json.loads(c.answer)["actions"]]
    assert not {a.get("room") for a in actions} & set(OTHER_PLACES)


def test_the_held_out_file_has_no_slips_of_the_finger_unless_asked():
    assert list(heldout(0)) != list(heldout(0, typos=0.5))
    assert list(heldout(0, typos=0.5)) == list(heldout(0, typos=0.5))


def test_the_held_out_file_is_what_the_generator_makes():
    assert read(demo.heldout()) == list(heldout(0))


def test_the_schema_file_is_what_the_generator_makes():
    assert json.loads(demo.schema().read_text()) == SCHEMA


def every_answer(sample):
    items = read(demo.heldout()) + read(demo.stranger())
    return [(i["kind"], i["answer"]) for i in items] + [(c.kind, c.answer) for c in sample]


def test_every_answer_follows_the_documented_form(sample):
    for kind, answer in every_answer(sample):
        assert "\n" not in answer
        if kind == "command":
            parsed = json.loads(answer)
            assert list(parsed) == ["actions"]
            assert answer == json.dumps(parsed, separators=(",", ":"))
            for action in parsed["actions"]:
                assert len(matching_cases(action)) == 1, action
                assert [k for k in ("device", "room", "set", "change", "value") if k in action] == list(action)
        elif kind == "other":
            assert answer == other.REFUSAL
        else:
            assert re.fullmatch(r"(The|No|All) .*\.", answer)


def test_files_are_of_the_promised_size():
    assert 600 <= len(read(demo.heldout())) <= 1000
    assert demo.heldout().stat().st_size < 300_000
    assert 120 <= len(read(demo.stranger())) <= 200
    assert {i["split"] for i in read(demo.heldout())} == {"combination", "phrasing"}
    assert {i["kind"] for i in read(demo.heldout())} == {"command", "state", "other"}


@pytest.mark.parametrize(
    ("n", "words"), [(0, "zero"), (7, "seven"), (13, "thirteen"), (40, "forty"), (300, "three hundred")]
)
def test_numbers_in_words(n, words):
    assert number_words(n, random.Random(0)) == words


@pytest.mark.parametrize(
    ("verb", "ing"), [("dim", "dimming"), ("close", "closing"), ("turn", "turning"), ("kill", "killing")]
)
def test_gerund(verb, ing):
    assert gerund(verb) == ing


def test_state_answers_say_the_value_from_the_message():
    home = [states.Entry("light", "kitchen", "on 30%"), states.Entry("lock", "front door", "locked")]
    assert states.message(home) == "state: kitchen light is on at 30%; front door is locked"
    assert [e.sentence for e in home] == ["The kitchen light is on at 30%.", "The front door is locked."]

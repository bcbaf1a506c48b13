"""The generated text: what is held out stays out of training, and every answer follows the schema."""

import contextlib
import json
import random
import re

import pytest
from demo_data import combined, other, phrasebook, questions, refusals, speech, states, templates
from demo_data.commands import phrase
from demo_data.conversations import heldout, training
from demo_data.devices import DEVICES, DOORS, ROOMS, Action, held_combo, held_pair, pick_value
from demo_data.grammar import gerund, number_words, slots_of, tidy
from demo_data.schema import SCHEMA, actions_of, grounding, matching_cases, pattern
from demo_data.templates import HELD_JOINS

from edgelm import demo
from edgelm.bundle.answer_grammar import Grounding
from edgelm.runtime.loop.grounded import heard, said


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def sample():
    rng = random.Random(1)
    return [training(rng) for _ in range(4000)]


def lists_of_templates():
    yield from templates.COMMANDS.values()
    yield other.TEMPLATES
    yield from templates.VALUES.values()
    yield questions.ASK
    yield questions.WHICH
    yield questions.ALL_ARE
    yield questions.HOUSE
    yield from questions.ASK_BY_DEVICE.values()


def held_template_of(skeleton):
    """The template behind an id such as "light.on.true#3", if it is one that must not be trained on."""
    key, _, index = skeleton.rpartition(":")[2].partition("#")
    found = re.match(r"\d+", index)
    if not found:
        return None
    tables = {
        "other": other.TEMPLATES,
        "ask": questions.ASK,
        "which": questions.WHICH,
        "all": questions.ALL_ARE,
        "frame": templates.FRAMES,
        "many": questions.THE_MANY,
        "house": questions.HOUSE,
    } | templates.COMMANDS
    tables |= templates.VALUES
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


def places_of_no_list(conversation):
    """Those in the actions of the last answer."""
    actions = json.loads(conversation.answer)["actions"] if conversation.kind == "command" else []
    return {a["room"] for a in actions if a.get("room", "all") not in {"all", *ROOMS, *DOORS}}


def test_a_place_of_no_list_is_kept_as_it_was_said(sample):
    kept = [(c, place) for c in sample for place in places_of_no_list(c)]
    assert len(kept) > 200
    assert len({place for _, place in kept}) > 150
    for conversation, place in kept:
        said = " ".join(m["content"] for m in conversation.messages if m["role"] == "user").lower()
        assert place in said, (place, said)


def test_places_in_answers_were_said(sample):
    """Else the grammar of answers would keep the model from being right."""
    facts = grounding()
    lines = [
        json.loads(line)
        for path in (demo.heldout(), demo.kinds(), demo.speakers(), demo.visitors(), demo.guests())
        for line in path.open()
    ]

    def unheard(messages, answer):
        rooms = {action["room"] for action in actions_of(answer) or [] if "room" in action}
        return rooms - said(Grounding(facts["key"], facts["values"]), heard(messages))

    assert not [line for line in lines if unheard(line["messages"], line["answer"])]
    slips = [c for c in sample if unheard(c.messages, c.answer)]  # "the dcek light"
    assert len(slips) < len(sample) / 300


@pytest.mark.parametrize("make", [combined._there, combined._scoped])
def test_a_place_that_is_said_once_is_that_of_both_actions(make):
    rng, made = random.Random(4), []
    while len(made) < 200:
        with contextlib.suppress(LookupError):
            made.append(make(rng, False))
    for command in made:
        first, second = command.actions
        assert second.room == first.room, command.text
        assert first.device != second.device
        words = {word for name, said in grounding()["values"].items() if name == first.room for word in said}
        assert any(word in command.text for word in words | {first.room}), command.text


def test_what_is_for_later_is_refused(sample):
    later = re.compile(
        r"\b(at (noon|midnight|sunset|sunrise|dawn|dusk|half past)|every (day|morning|evening|night)|tomorrow"
        r"|on (weekdays|weekends|(mon|tues|wednes|thurs|fri|satur|sun)day))\b"
    )
    found = [c for c in sample if c.kind != "state" and later.search(c.messages[-1]["content"].lower())]
    assert len(found) > 10
    refused = [c for c in found if c.answer == other.REFUSAL]
    assert len(refused) > 0.85 * len(found)  # the others tell of something else: "like every day I'm late, lights on"


@pytest.mark.parametrize("kind", list(refusals.MAKERS))
def test_near_misses_have_nothing_left_to_fill_in(kind):
    rng = random.Random(kind)
    texts = {refusals.MAKERS[kind][1](rng) for _ in range(200)}
    assert len(texts) > 40
    assert not [t for t in texts if not t.strip() or re.search(r"[<>\[\]|\0]", t)]


def test_homes_have_up_to_twenty_devices_and_several_of_a_kind():
    rng = random.Random(3)
    homes = [states.random_home(rng) for _ in range(300)]
    assert max(map(len, homes)) == 20
    crowds = [max(sum(e.device == d for e in home) for d in states.PLURALS) for home in homes]
    assert sum(c >= 3 for c in crowds) > 80
    assert all(len({e.name for e in home}) == len(home) for home in homes)


def test_spoken_sentences_keep_the_place():
    rng = random.Random(4)
    for _ in range(300):
        assert "red room" in speech.spoken("turn on the red light in the red room", rng, 1.0, plain=True)


def test_the_held_out_file_has_no_slips_of_the_finger_unless_asked():
    assert list(heldout(0)) != list(heldout(0, typos=0.5))
    assert list(heldout(0, typos=0.5)) == list(heldout(0, typos=0.5))


def test_the_held_out_file_is_what_the_generator_makes():
    assert read(demo.heldout()) == list(heldout(0))


def test_the_schema_file_is_what_the_generator_makes():
    assert json.loads(demo.schema().read_text()) == SCHEMA


def test_the_answers_file_is_what_the_generator_makes():
    assert json.loads(demo.answers().read_text()) == {"regex": pattern(), "grounded": grounding()}


def test_every_answer_matches_the_expression_of_answers(sample):
    wanted = re.compile(json.loads(demo.answers().read_text())["regex"])
    assert not [answer for _, answer in every_answer(sample) if not wanted.fullmatch(answer)]
    light = '{"actions":[{"device":"light","set":"on","value":true}]}'
    assert wanted.fullmatch(light)
    for wrong in ("Yes.", light[:-1], light.replace("true", "1"), light.replace("light", "car"), light + " ", ""):
        assert not wanted.fullmatch(wrong)


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


@pytest.mark.parametrize("key", sorted(templates.VALUES))
def test_what_asks_for_one_value_is_of_a_value_that_is_drawn(key):
    kind, _, value = key.partition("=")
    device, _, attr = kind.partition(".")
    rng = random.Random(key)
    assert any(str(pick_value(DEVICES[device].sets[attr], rng)) == value for _ in range(500))


COMMAND_SLOTS = "t is it2 it3 in v rm n n1 np nm more less q"
PHRASES = {  # file → its keys, and the slots that what reads them fills
    ("light", "climate", "media", "kitchen"): {r"[a-z ]+(\.[a-z.]+)?(=\w+)?": COMMAND_SLOTS},
    ("states",): {r"ask(\.[a-z ]+)?|which|all|house": "t is s s2 s3 in p one"},
    ("frames",): {
        "frames|polite.softeners": "c g",
        "ramble.whole": "c " + " ".join(other.WORDS),
        "because|joins|polite.(openings|closes)|ramble.(starts|joins)": "",
        "asides": " ".join(other.WORDS),
    },
    ("talk", "requests"): {
        "talk.(statement|small|question|request)": " ".join([*other.WORDS, "device"]),
        "near.(media|clock|later|scene|device|negated|cut|told|everything)": "x y l n in from t r m h day d o v p past city k",
        "words.(noun|verb|adj|who)": "",
    },
}


@pytest.mark.parametrize("files", PHRASES, ids=" ".join)
def test_every_phrase_is_of_a_key_that_is_read_and_has_slots_that_are_filled(files):
    read_by_nothing = {key for name in files for key in phrasebook.read(name)}
    for keys, slots in PHRASES[files].items():
        found = {key: lines for key, lines in phrasebook.read(*files).items() if re.fullmatch(keys, key)}
        read_by_nothing -= set(found)
        assert found
        for key, lines in found.items():
            for line in lines:
                assert slots_of(line) <= set(slots.split()), (key, line)
                assert line.count("(") == line.count(")"), line
                assert line.count("[") == line.count("]"), line
                assert not line.startswith("~"), line  # held-out templates stand beside the others of their kind
    assert not read_by_nothing


def test_phrases_of_commands_are_those_of_actions_there_are():
    found = phrasebook.read("light", "climate", "media", "kitchen")
    assert {key for key in found if "=" not in key} <= set(templates.COMMANDS)
    for key, lines in found.items():
        assert set(lines) <= set((templates.VALUES if "=" in key else templates.COMMANDS)[key])


def test_what_asks_for_one_value_is_drawn_with_it():
    action = Action("light", None, "brightness", 100)
    keys = {phrase(action, random.Random(i))[1].partition("#")[0] for i in range(60)}
    assert keys == {"light.brightness", "light.brightness=100"}
    other_value = Action("light", None, "brightness", 99)
    assert {phrase(other_value, random.Random(i))[1].partition("#")[0] for i in range(60)} == {"light.brightness"}


def test_a_file_of_phrases_begins_with_a_key(tmp_path, monkeypatch):
    monkeypatch.setattr(phrasebook, "FOLDER", tmp_path)
    (tmp_path / "good.txt").write_text("# of lamps\n[lamp_post.on]\n\nlight <t>\n!<t> on\n[words.noun]\na|b\nc\n")
    assert phrasebook.read("good") == {"lamp post.on": ["light <t>", "!<t> on"], "words.noun": ["a|b", "c"]}
    assert phrasebook.words("good") == {"noun": "a|b|c"}
    (tmp_path / "bad.txt").write_text("light <t>\n")
    with pytest.raises(ValueError, match=r"bad\.txt, line 1"):
        phrasebook.read("bad")


def test_an_article_fits_the_word_behind_it():
    said = {"a owl and a apple": "an owl and an apple", "a one way ticket": "a one way ticket", "a unit": "a unit"}
    said |= {"A umbrella": "An umbrella", "a uncle": "an uncle", "an ox": "an ox", "a user": "a user", "a hat": "a hat"}
    assert {text: tidy(text) for text in said} == said

"""Commands that ask for two or three actions in one sentence."""

from __future__ import annotations

import random
import re
from functools import partial

from .commands import Command, between, frame, phrase, random_action, random_for, single
from .devices import DEVICES, ROOMS, Action, held_combo, held_pair
from .grammar import expand
from .nouns import BARE_ROOMS, place, room_words, thing
from .places import unknown_place
from .templates import HELD_JOINS, JOINS, MORE_JOINS


def compatible(actions: list[Action], pair_held: bool = False) -> bool:
    """Whether actions may stand in one sentence of the training split, or of the held-out one."""
    kinds = [a.kind for a in actions]
    pairs = [held_pair(a, b) for i, a in enumerate(kinds) for b in kinds[i + 1 :]]
    return any(pairs) == pair_held


def several(rng: random.Random, held_phrase: bool = False, pair_held: bool = False, leaning: bool = False) -> Command:
    """One command with two or three actions; where they are `leaning`, two in a place that is said once."""
    makers = [_joined]
    if leaning:
        makers = [_there, partial(_there, inside=True), _scoped]
    elif not held_phrase and not pair_held:
        makers = (
            [_joined] * 6
            + [_shared_verb] * 2
            + [_rooms, _gapped, _pronoun]
            + [_fragments] * 2
            + [_counted, _there, partial(_there, inside=True), _scoped]
            + [_contrast, _contrast, _in_turn]
        )
    while True:
        try:
            made = rng.choice(makers)(rng, held_phrase)
        except LookupError:
            continue
        distinct = len({(a.device, a.room, a.attr) for a in made.actions}) == len(made.actions)
        if distinct and compatible(made.actions, pair_held) and not any(map(_is_held, made.actions)):
            return made


def _is_held(action: Action) -> bool:
    return held_combo(action.device, action.room, action.attr)


def _joined(rng: random.Random, held: bool) -> Command:
    """Commands one after the other: "a and b", "a, b and c"."""
    count = 2 if rng.random() < 0.88 else 3
    actions = [random_action(rng) for _ in range(count)]
    by_join = held and rng.random() < 0.5
    parts = []
    loose = rng.random() < 0.1
    for i, action in enumerate(actions):
        text, key, imperative = phrase(action, rng, held and not by_join)
        # A whole sentence cannot follow "could you …": lists are of imperatives, or of anything but then unframed.
        while not imperative and not loose and (i > 0 or rng.random() < 0.6) and not held:
            text, key, imperative = phrase(action, rng)
        parts.append((text, key, imperative))
    joins = [
        between(rng.choice(MORE_JOINS), rng) if p[2] and not loose and rng.random() < 0.3 else rng.choice(JOINS)
        for p in parts[1:]
    ]
    if count == 3 and rng.random() < 0.6:
        joins[0] = ", "
    if by_join:
        joins[-1] = rng.choice(HELD_JOINS)
    text = parts[0][0] + "".join(j + p[0] for j, p in zip(joins, parts[1:], strict=True))
    text, outer = frame(text, parts[0][2] and not loose, rng)
    return Command(text, actions, [*(p[1] for p in parts), outer, *(f"join:{j.strip()}" for j in joins)])


def _shared_verb(rng: random.Random, held: bool) -> Command:
    """One verb, several things: "turn off the tv and the kitchen light"."""
    first = random_action(rng)
    if first.change or first.attr not in {"on", "locked", "open"} or first.device in {"timer", "all", "alarm"}:
        raise LookupError
    actions = [first]
    while len(actions) < (2 if rng.random() < 0.7 else 3):
        other = random_action(rng)
        if other.attr == first.attr and not other.change and other.device not in {"timer", "all"}:
            actions.append(Action(other.device, other.room, other.attr, first.value))
    things = [thing(a.device, a.room, a.attr, rng)[0] for a in actions]
    # "the tv and the light in the kitchen" would be ambiguous: a place after the last thing only counts for it.
    last = actions[-1].room
    if last and things[-1].endswith((*ROOMS, last)) and any(a.room is None for a in actions):
        raise LookupError
    listed = ", ".join(things[:-1]) + rng.choice([" and ", " and ", " and ", ", ", " as well as ", " & "]) + things[-1]
    text, key, imperative = phrase(Action("plug", None, first.attr, first.value), rng, shared=listed)
    if any(a.device == "speaker" for a in actions) and re.search(r"\b(stop|start|run)", text):
        raise LookupError  # a speaker that is stopped pauses, whatever else goes off
    text, outer = frame(text, imperative, rng)
    return Command(text, actions, [key, outer, "shared"])


def _rooms(rng: random.Random, held: bool) -> Command:
    """One device in several rooms: "turn off the kitchen and bedroom lights"."""
    device = rng.choice(["light", "light", "light", "blinds", "fan", "tv", "thermostat", "speaker", "window", "plug"])
    rooms = rng.sample([r for r in DEVICES[device].rooms if r not in BARE_ROOMS], 2 if rng.random() < 0.8 else 3)
    if rng.random() < 0.2:
        rooms[rng.randrange(len(rooms))] = unknown_place(rng)
    model = random_for(device, rooms[0], rng)
    actions = [Action(device, r, model.attr, model.value, model.change) for r in rooms]
    word = rng.choice(_plain_words(device))
    names = [room_words(r, rng) for r in rooms]
    last = rng.choice([" and ", " and ", " and the ", " & "])
    listed = ", ".join(names[:-1]) + last + names[-1]
    if rng.random() < 0.55:
        text = f"{rng.choice(['the ', 'the ', ''])}{listed} {word[1]}"
    else:
        text = f"the {word[1]} in the {listed}"
    said, key, imperative = phrase(model, rng, shared=text)
    said, outer = frame(said, imperative, rng)
    return Command(said, actions, [key, outer, "rooms"])


def _plain_words(device: str) -> list[tuple[str, str]]:
    return [w for w in DEVICES[device].words if w[0] not in {"temperature", "music", "heat"}]


def _gapped(rng: random.Random, held: bool) -> Command:
    """The verb said once, the states differ: "turn the tv on and the lights off"."""
    actions = [random_action(rng) for _ in range(2 if rng.random() < 0.8 else 3)]
    if any(a.attr != "on" or a.device in {"timer", "all"} for a in actions):
        raise LookupError
    texts = [f"{thing(a.device, a.room, 'on', rng)[0]} {'on' if a.value else 'off'}" for a in actions]
    verb = rng.choice(["turn ", "switch ", "", "turn ", "I want "])
    text = verb + ", ".join(texts[:-1]) + rng.choice([" and ", " and ", ", ", " but "]) + texts[-1]
    text, outer = frame(text, verb in {"turn ", "switch "}, rng)
    return Command(text, actions, [f"gapped:{verb.strip()}", outer])


def _fragments(rng: random.Random, held: bool) -> Command:
    """What is wanted, one after the other and without verbs: "lights off, blinds down, 20 degrees in the den"."""
    count = rng.choice([2, 3, 3])
    actions = [random_action(rng) for _ in range(count)]
    parts = [phrase(action, rng) for action in actions]
    if any(imperative or len(text) > 45 for text, _, imperative in parts):
        raise LookupError
    join = rng.choice([", ", ", ", ". ", "; ", " and ", " - "])
    last = rng.choice([join, join, " and ", ", and "])
    text = join.join(p[0] for p in parts[:-1]) + last + parts[-1][0]
    return Command(text, actions, [*(p[1] for p in parts), "fragments"])


def _counted(rng: random.Random, held: bool) -> Command:
    """A list that says so: "two things: first lock up, second turn the tv off"."""
    count = rng.choice([2, 2, 3])
    actions = [random_action(rng) for _ in range(count)]
    parts = [phrase(action, rng) for action in actions]
    if not all(imperative for _, _, imperative in parts):
        raise LookupError
    number = ["two", "three"][count - 2]
    marks = rng.choice(
        [
            ["first", "second", "third"],
            ["first", "then", "finally"],
            ["firstly", "secondly", "thirdly"],
            ["one", "two", "three"],
            ["to start with", "after that", "and lastly"],
            ["1", "2", "3"],
        ]
    )
    after = rng.choice([" ", ", ", ": "]) if marks[0] not in {"1", "one"} else rng.choice([": ", ", ", ") "])
    start = rng.choice(["", "", f"{number} things: ", f"I need {number} things, ", f"{number} tasks for you. "])
    said = [f"{mark}{after}{text}" for mark, (text, _, _) in zip(marks, parts, strict=False)]
    text = start + rng.choice([", ", ". ", "; ", " and "]).join(said)
    return Command(text, actions, [*(p[1] for p in parts), "counted"])


def _pronoun(rng: random.Random, held: bool) -> Command:
    """The second command says "it": "turn on the fan and set it to high"."""
    first = random_action(rng)
    second = random_for(first.device, first.room, rng)
    ok = {"brightness", "temperature", "volume", "speed", "color", "on", "channel", "muted", "position"}
    if first.device in {"lock", "timer", "all"} or second.attr not in ok or second.room != first.room:
        raise LookupError
    text, key, imperative = phrase(first, rng)
    if not imperative or " it" in text:
        raise LookupError
    more, key2, also = phrase(second, rng, shared=rng.choice(["it", "it", "it", "them"]))
    if not also or " it in" in more:
        raise LookupError
    text, outer = frame(text + rng.choice([" and ", " and ", ", then ", " and then ", ". "]) + more, True, rng)
    return Command(text, [first, second], [key, key2, outer, "pronoun"])


def _there(rng: random.Random, held: bool, inside: bool = False) -> Command:
    """The second command leans on the first one's place: "dim the office light and close the blinds there"; where `inside`,
    the word follows the thing, "set the light there to 5 percent".
    """
    first = random_action(rng)
    if first.room in {None, "all"} or first.device in {"lock", "all"}:
        raise LookupError
    second = _elsewhere(first, rng)
    text, key, imperative = phrase(first, rng)
    more, key2, also = phrase(Action(second.device, None, second.attr, second.value, second.change), rng)
    if not imperative or not also or re.search(r"\b(here|this room|the room)\b", more) or " it" in more + text:
        raise LookupError
    word = thing(second.device, None, second.attr, rng)[0].split()[-1]
    if inside:
        if not re.search(rf"\b(the|my|our) ([a-z]+ )?{word}\b", more):
            raise LookupError
        more = re.sub(rf"\b((the|my|our) ([a-z]+ )?{word})\b", r"\1 there", more, count=1)
    elif rng.random() < 0.25 and f"the {word}" in more:
        more = more.replace(f"the {word}", f"its {word}")
    else:
        more += rng.choice([" there", " there", " there too", " in there", " in that room", " in the same room"])
    text, outer = frame(
        text + rng.choice([" and ", " and ", ", then ", " and then ", ", and ", ". "]) + more, True, rng
    )
    return Command(text, [first, second], [key, key2, outer, "there"])


def _elsewhere(first: Action, rng: random.Random) -> Action:
    """An action of another device in the same place; not one that has no place, as a vacuum's way home."""
    for _ in range(20):
        second = random_action(rng)
        spec = DEVICES[second.device]
        if second.device not in {first.device, "all", "lock"} and (
            first.room in spec.rooms or second.room not in {None, "all", *ROOMS}
        ):
            found = random_for(second.device, first.room, rng)
            if found.room is not None:
                return found
    raise LookupError


def _scoped(rng: random.Random, held: bool) -> Command:
    """One place said before all that is to be done in it: "bedroom: lamp off, blinds down"."""
    first = random_action(rng)
    if first.room in {None, "all", "upstairs", "downstairs"} or first.device in {"lock", "all"}:
        raise LookupError
    actions = [first, _elsewhere(first, rng)]
    parts = [phrase(Action(a.device, None, a.attr, a.value, a.change), rng) for a in actions]
    texts = [text for text, _, _ in parts]
    if any(len(text) > 40 or re.search(r"\b(here|this room|the room|it)\b", text) for text in texts):
        raise LookupError
    name = room_words(str(first.room), rng)
    start = rng.choice([f"{name}: ", f"{name}, ", f"in the {name}, ", f"in the {name} ", f"for the {name}: "])
    text = start + texts[0] + rng.choice([", ", " and ", ", and "]) + texts[1]
    return Command(text, actions, [*(key for _, key, _ in parts), "scoped"])


def _contrast(rng: random.Random, held: bool) -> Command:
    """The same device in two places, once so and once otherwise: "heating down in the bedroom and up in the bathroom"."""
    device, attr, words = rng.choice(_OPPOSITES)
    places = rng.sample([r for r in DEVICES[device].rooms if r not in BARE_ROOMS], 2)
    if rng.random() < 0.2:
        places[rng.randrange(2)] = unknown_place(rng)
    ways = list(words.items())
    rng.shuffle(ways)
    actions = [Action(device, p, attr, value, "up" in words) for p, (value, _) in zip(places, ways, strict=True)]
    said = [rng.choice(found) for _, found in ways]
    verbs = ["I want ", "have "] if attr == "open" else ["turn ", "turn ", "I want ", "put "]
    verb = rng.choice(["", "", *verbs])
    name = rng.choice(_plain_words(device))[rng.randrange(2)]
    joined = rng.choice([" and ", " and ", ", ", " but ", ", and "])
    where = [place(p, rng) for p in places]
    if rng.random() < 0.6:
        text = f"{rng.choice(['the ', 'the ', ''])}{name} {said[0]} {where[0]}{joined}{said[1]} {where[1]}"
    else:
        rooms = [room_words(p, rng) for p in places]
        other = rng.choice(["one", "one", name]) if not name.endswith("s") else rng.choice(["ones", "ones", name])
        text = f"the {rooms[0]} {name} {said[0]}{joined}the {rooms[1]} {other} {said[1]}"
    text, outer = frame(verb + text, verb not in {"", "I want "}, rng)
    return Command(text, actions, ["contrast", outer])


_OPPOSITES: list[tuple[str, str, dict[bool | str, list[str]]]] = [
    *(
        (d, "on", {True: ["on"], False: ["off"]})
        for d in ("light", "light", "light", "tv", "fan", "plug", "thermostat")
    ),
    ("thermostat", "temperature", {"up": ["up", "warmer", "higher"], "down": ["down", "cooler", "lower"]}),
    ("thermostat", "temperature", {"up": ["up"], "down": ["down"]}),
    ("light", "brightness", {"up": ["up", "brighter"], "down": ["down", "dimmer"]}),
    ("speaker", "volume", {"up": ["up", "louder"], "down": ["down", "quieter"]}),
    ("blinds", "open", {True: ["open", "up"], False: ["closed", "down", "shut"]}),
    ("window", "open", {True: ["open"], False: ["closed", "shut"]}),
]


def _in_turn(rng: random.Random, held: bool) -> Command:
    """Two things of one device, said in a breath: "tv on, channel 4", "stop the vacuum and send it home"."""
    templates, steps = rng.choice(_IN_TURN)
    rooms = DEVICES[steps[0].device].rooms if "<in>" in templates[0] else []
    room = rng.choice(rooms) if rooms and rng.random() < 0.4 else None
    number = rng.randrange(1, 60)
    actions = [Action(a.device, room, a.attr, number if a.attr == "channel" else a.value, a.change) for a in steps]
    template = rng.choice(templates)
    text = expand(template.lstrip("!"), rng, {"in": place(room, rng) if room else "", "n": str(number)})
    text, outer = frame(text, not template.startswith("!"), rng)
    return Command(text, actions, ["in turn", outer])


_IN_TURN = [
    (
        [
            "!(tv|telly|television) on <in>[,] (channel|on channel|and channel) <n>",
            "(turn|switch|put) (the tv|the telly|the television) on <in> and (go|switch|change) to channel <n>",
            "(turn|switch) on (the tv|the telly) <in> (and|then|, then) (put it on|find|go to) channel <n>",
        ],
        [Action("tv", None, "on", True), Action("tv", None, "channel", 0)],
    ),
    (
        [
            "(stop|halt) (the vacuum|the robot|the hoover) and (send it home|dock it|take it back to its dock)",
            "(stop|quit) (cleaning|vacuuming) and (go|head) (home|back to the dock|back to your dock|to the dock)",
            "!(vacuum|robot) (stop|off) and (go home|back to base|return to its base)",
        ],
        [Action("vacuum", None, "running", False), Action("vacuum", None, "docked", True)],
    ),
    (
        ["(resume|play) (the music|music) <in> (and|but|then) (turn|make) it (down|quieter|lower)"],
        [Action("speaker", None, "playing", True), Action("speaker", None, "volume", "down", True)],
    ),
    (
        [
            "!(next|skip this) (song|track)[,] and (louder|turn it up|crank it up)",
            "!(skip|next one|next) and (louder|volume up|turn it up)",
        ],
        [Action("speaker", None, "track", "next"), Action("speaker", None, "volume", "up", True)],
    ),
]


def command(rng: random.Random, many: float = 0.33) -> Command:
    """A command of the training split; `many` is the share with more than one action."""
    return several(rng) if rng.random() < many else single(rng)

"""From actions to the sentences that ask for them."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

from .courtesy import polite
from .devices import CHANGES, DEVICES, DOOR_WORDS, Action, held_combo, pick_duration, pick_value
from .grammar import expand, gerund, options, slots_of
from .nouns import EVERYWHERE, place, thing, value_words, with_article
from .other import WORDS, aside, fill, stray
from .places import OWN_ROOMS, unknown_place
from .templates import BECAUSE, COMMANDS, FRAMES, HELD_FRAMES, RAMBLE_JOINS, RAMBLE_STARTS, RAMBLES, VALUES

_TIMED = [
    "pizza",
    "pasta",
    "egg",
    "eggs",
    "tea",
    "rice",
    "cake",
    "laundry",
    "workout",
    "nap",
    "homework",
    "roast",
    "chicken",
    "bread",
    "kitchen",
    "break",
    "soup",
]
POLITE = 0.14  # share of imperatives that are said with layers of courtesy
PLAIN = 0.35  # share of other imperatives that are said as they are
RAMBLING = 0.08  # share of commands that are told among much else
UNKNOWN = 0.26  # share of the places in commands that are of no list


@dataclass
class Command:
    """A sentence, the actions it asks for, and the ids of the templates it is made of."""

    text: str
    actions: list[Action]
    skeleton: list[str] = field(default_factory=list)


def _slots(action: Action, rng: random.Random, shared: str | None) -> dict[str, str]:
    """Every slot a template may ask for."""
    room = action.room
    text, many = thing(action.device, room, action.attr, rng)
    if shared:
        text, many = shared, shared in {"them"} or " and " in shared
    if room is None:
        inside = rng.choice(["", "", "in here", "here", "in this room", "in the room"])
        name = rng.choice(["it", "it", "it", "the room", "this room"])
        floor = rng.choice(
            ["the floor", "the house", "the floors", "up", "the place", "the carpet", "the flat", "the room"]
        )
    elif room == "all":
        inside, name = (
            expand(rng.choice(EVERYWHERE), rng),
            rng.choice(["the whole house", "the house", "every room", "all rooms"]),
        )
        floor = name
    else:
        inside, name = place(room, rng), with_article(room, rng)
        floor = name
    words = {
        "brightness": ("brighter", "dimmer"),
        "temperature": ("warmer", "cooler"),
        "volume": ("louder", "quieter"),
        "speed": ("faster", "slower"),
    }
    more, less = words.get(action.attr, ("more", "less"))
    volume = f"the volume of {text}" if rng.random() < 0.25 else f"the volume on {text}"
    if action.device == "speaker" and room is None and rng.random() < 0.5:
        volume = rng.choice(["the volume", "volume", "the sound", "the volume"])
    elif rng.random() < 0.5:
        volume = f"{text} volume" if rng.random() < 0.6 else text
    slots = {
        "t": text,
        "is": "are" if many else "is",
        "it2": name,
        "it3": floor,
        "in": inside,
        "v": volume,
        "rm": _short(name, rng),
    }
    if action.device == "timer":
        slots["nm"] = rng.choice(_TIMED if rng.random() < 0.7 else WORDS["noun"].split("|"))
    return slots | {"more": more, "less": less, "q": action.attr, "n": "", "n1": ""} | value_words(action, rng)


def _short(name: str, rng: random.Random) -> str:
    """A room's name, often without its article, as in "set kitchen to 50%"."""
    return name.removeprefix("the ") if rng.random() < 0.5 else name


def intent(action: Action) -> str:
    """The key of the template list for an action."""
    value = str(action.value).lower()
    if action.change:
        if value in {"up", "down"}:
            options = [f"{action.device}.{action.attr}.{value}", f"{action.attr}.{value}"]
        else:
            way = "down.by" if float(action.value) < 0 else "up.by"
            options = [f"{action.device}.{way}", way]
    else:
        kinds = [f"{action.attr}.{value}", action.attr]
        options = [f"{action.device}.{k}" for k in kinds] + kinds
    return next(k for k in options if k in COMMANDS)


_OPTIONS = options(COMMANDS | VALUES)


def _templates(action: Action, held: bool) -> list[tuple[str, str]]:
    """(id, template) pairs usable for an action, either the training ones or the held-out ones."""
    found = list(_OPTIONS[intent(action), held])
    exact = f"{action.device}.{action.attr}={action.value}"
    if not action.change:
        found += _OPTIONS.get((exact, held), []) * 2
    if action.room in {None, "all"}:
        found = [(k, t) for k, t in found if "<rm>" not in t]
    if not action.room:
        return found
    # The room must be said: a template without a slot that says where cannot ask for this action.
    return [(k, t) for k, t in found if slots_of(t) & {"t", "in", "it2", "it3", "v", "rm"}]


_PLACE_AT_WILL = re.compile(r"\[([^]|]*<(?:t|in|it2|it3|rm)>[^]|]*)\]")


def phrase(action: Action, rng: random.Random, held: bool = False, shared: str | None = None) -> tuple[str, str, bool]:
    """One way to ask for an action: (text, template id, is it an imperative).

    `shared` takes the place of the thing: "it", "the tv and the lamp".
    """
    options = _templates(action, held)
    if shared:
        options = [(k, t) for k, t in options if slots_of(t) & {"t"}]
        if shared in {"it", "them"}:  # nobody says "turn on it"
            options = [(k, t) for k, t in options if not re.search(r"\b(on|off|up|down|back)\)? <t>", t)]
    if not options:
        raise LookupError(f"no template for {action}")
    key, template = rng.choice(options)
    template = template.lstrip("~")
    imperative = not template.startswith("!")
    if action.room:  # which must be said
        template = _PLACE_AT_WILL.sub(r"\1", template)
    slots = _slots(action, rng, shared)
    text = expand(template.lstrip("!"), rng, slots)
    return text, key, imperative


def frame(text: str, imperative: bool, rng: random.Random, held: bool = False) -> tuple[str, str]:
    """Put politeness and fillers around a command: (text, frame id)."""
    if not held and rng.random() < 0.06:
        inner, key = frame(text, imperative, rng)
        return expand(
            rng.choice(["<c>, <b>", "<b>, <c>", "<b>. <c>", "<c>, because <b>", "<c>. <b>", "<b> so <c>"]),
            rng,
            {"c": inner, "b": expand(rng.choice(BECAUSE), rng)},
        ), key
    if imperative and not held and rng.random() < POLITE:
        return polite(text, rng), "polite"
    if not held and rng.random() < RAMBLING:
        inner, key = frame(text, imperative, rng)
        return ramble(inner, rng), key
    if not imperative:
        plain = ["<c>"] * 6 + ["<c>, please", "<c> please", "(hey|ok|hi), <c>"]
        return expand(rng.choice(plain), rng, {"c": text}), "plain"
    if not held and rng.random() < PLAIN:
        return text, "plain"
    frames = HELD_FRAMES if held else FRAMES
    i = rng.randrange(len(frames))
    verb, _, rest = text.partition(" ")
    ing = f"{gerund(verb)} {rest}" if verb not in {"fully", "half"} else text
    slots = {"c": text, "g": ing, "f": aside(rng) if "<f>" in frames[i] else ""}
    slots["s"] = stray(rng) if "<s>" in frames[i] else ""
    return expand(frames[i], rng, slots), f"{'held-' if held else ''}frame#{i}"


def between(template: str, rng: random.Random) -> str:
    """What stands between two parts of a sentence, with blanks around it but for one before a comma."""
    made = expand(template, rng)
    return ("" if made[:1] in {",", ".", ";"} else " ") + made + " "


def ramble(text: str, rng: random.Random) -> str:
    """A request at the end, the beginning, or in the midst of what else there is to tell; who rambles minds no grammar."""
    if rng.random() < 0.25:
        return fill(rng.choice(RAMBLES), rng, {"c": text})
    told = [aside(rng) if rng.random() < 0.6 else expand(rng.choice(BECAUSE), rng) for _ in range(rng.randrange(1, 4))]
    story = told[0]
    for part in told[1:]:
        story += rng.choice([", ", " and ", " and then ", ", well, ", " but ", ". "]) + part
    start = rng.choice(
        ["", "", "so ", "you know what, ", "okay so ", "well ", "right, so ", "the thing is, ", "look, "]
    )
    if rng.random() < 0.5:
        start = expand(rng.choice(RAMBLE_STARTS), rng) + " "
    join = rng.choice([", so ", ", anyway ", ", so please ", ". ", " so ", ", could you ", ", just ", " and so "])
    if rng.random() < 0.5:
        join = between(rng.choice(RAMBLE_JOINS), rng)
    if rng.random() < 0.15:
        return f"{text}, {story}"
    return f"{start}{story}{join}{text}"


def random_action(rng: random.Random, combo_held: bool = False) -> Action:
    """A random action whose combination is, or is not, one of those kept out of training."""
    while True:
        device = rng.choices(list(DEVICES), [d.weight for d in DEVICES.values()])[0]
        spec = DEVICES[device]
        action = random_for(device, random_room(device, rng), rng)
        if held_combo(action.device, action.room, action.attr) == combo_held and (spec.rooms or not combo_held):
            return action


ANYWHERE = {"light", "thermostat", "ac", "lock", "blinds", "window", "fan", "tv", "speaker", "plug", "vacuum", "all"}


def random_room(device: str, rng: random.Random) -> str | None:
    """Where a device may be asked for; None where no place is said."""
    rooms = DEVICES[device].rooms
    if device == "all":
        if rng.random() < 0.5:
            return "all"
        return unknown_place(rng) if rng.random() < UNKNOWN else rng.choice(rooms)
    if not rooms:
        return None
    roll = rng.random()
    if roll < 0.25:
        return None
    many = device in {"light", "lock", "blinds", "window", "fan", "tv", "speaker", "plug"}
    if many and roll < 0.37:
        return "all"
    if device == "lock" and roll < 0.75:
        return rng.choice([*DOOR_WORDS, "front door"])
    if rng.random() < 0.02 and device in {"light", "thermostat", "fan", "tv", "blinds", "window", "speaker", "ac"}:
        return rng.choice(OWN_ROOMS)
    return unknown_place(rng) if rng.random() < UNKNOWN and device in ANYWHERE else rng.choice(rooms)


def random_for(device: str, room: str | None, rng: random.Random) -> Action:
    spec = DEVICES[device]
    if device in CHANGES and rng.random() < 0.28:
        attr = CHANGES[device][0]
        if attr == "speed" or rng.random() < 0.7:
            return Action(device, room, attr, rng.choice(["up", "down"]), change=True)
        step = (
            rng.randrange(1, 6)
            if attr == "temperature"
            else rng.choice([5, 10, 15, 20, 25, 30, 40, rng.randrange(1, 50)])
        )
        return Action(device, room, attr, rng.choice([1, -1]) * step, change=True)
    attrs = list(spec.sets)
    weights = [3.0 if a == "on" else 1.8 if a in {"brightness", "temperature", "minutes"} else 1.0 for a in attrs]
    attr = rng.choices(attrs, weights)[0]
    value = pick_duration(attr, rng) if spec.sets[attr] == "count" else pick_value(spec.sets[attr], rng)
    if attr == "open" and device == "blinds":
        value = rng.random() < 0.45
    if attr == "channel" or (device == "oven" and attr == "temperature"):
        room = None if device == "oven" or rng.random() < 0.6 else room
    if device == "vacuum" and (attr == "docked" or value is False):
        room = None
    if device == "timer" and attr == "on":
        value = False
    if device == "all":
        value = rng.random() < 0.2
    return Action(device, room, attr, value)


def placed(rng: random.Random) -> Command:
    """One command for a place that is of no list, and must be kept as it is said."""
    devices = sorted(ANYWHERE)
    weights = [DEVICES[device].weight for device in devices]
    while True:
        device = rng.choices(devices, weights)[0]
        action = random_for(device, unknown_place(rng), rng)
        if action.room is None:
            continue
        text, key, imperative = phrase(action, rng)
        if rng.random() < 0.4:
            return Command(text, [action], [key, "plain"])
        text, outer = frame(text, imperative, rng)
        return Command(text, [action], [key, outer])


def single(rng: random.Random, held_phrase: bool = False, combo_held: bool = False) -> Command:
    """One command with one action; a held-out phrasing comes from its template or from its frame."""
    while True:
        action = random_action(rng, combo_held)
        by_frame = held_phrase and rng.random() < 0.4
        try:
            text, key, imperative = phrase(action, rng, held_phrase and not by_frame)
        except LookupError:
            continue
        if by_frame and not imperative:
            continue
        text, outer = frame(text, imperative, rng, by_frame)
        return Command(text, [action], [key, outer])

"""The home's state as a system message, and questions about it.

The message is ``state: `` and sentences without capitals joined by ``; ``: ``kitchen light is on at 30%``,
``front door is locked``, ``thermostat is at 21 degrees``. An answer repeats the sentence it needs, word for word.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .devices import COLORS, DEVICES, DOORS, INSIDE, OTHER_PLACES, held_combo
from .grammar import expand
from .nouns import place, thing
from .other import stray

# Devices that report a state, with the values they report; the first is the one "active" value.
VALUES: dict[str, tuple[str, str]] = {
    "light": ("on", "off"),
    "thermostat": ("degrees", "off"),
    "ac": ("on", "off"),
    "lock": ("locked", "unlocked"),
    "garage door": ("open", "closed"),
    "gate": ("open", "closed"),
    "blinds": ("open", "closed"),
    "window": ("open", "closed"),
    "fan": ("on", "off"),
    "tv": ("on", "off"),
    "speaker": ("playing", "paused"),
    "plug": ("on", "off"),
    "vacuum": ("running", "docked"),
    "alarm": ("armed", "disarmed"),
    "oven": ("on", "off"),
    "coffee maker": ("on", "off"),
    "kettle": ("on", "off"),
    "dishwasher": ("on", "off"),
    "washing machine": ("on", "off"),
    "humidifier": ("on", "off"),
    "air purifier": ("on", "off"),
    "sprinklers": ("on", "off"),
}
PLURALS = {"light": "lights", "lock": "doors", "blinds": "blinds", "window": "windows", "fan": "fans", "tv": "tvs"}
PLURALS |= {"speaker": "speakers", "plug": "plugs"}
NEVER_ROOMED = {"garage door", "gate", "alarm", "oven", "vacuum", "dishwasher", "washing machine", "sprinklers"}


@dataclass(frozen=True)
class Entry:
    """One device's state."""

    device: str
    room: str | None
    value: str

    @property
    def name(self) -> str:
        """The name in state messages and in answers: "kitchen light", "front door", "office door"."""
        return name_of(self.device, self.room)

    @property
    def said(self) -> str:
        """The value as it stands in an answer: "on at 30%"."""
        for start in ("on ", "open "):
            if self.value.startswith(start) and self.value[len(start)].isdigit():
                return f"{start}at {self.value[len(start) :]}"
        return f"at {self.value}" if self.value[0].isdigit() else self.value

    @property
    def sentence(self) -> str:
        """The answer to a question about this device."""
        return f"The {self.name} {be(self.device)} {self.said}."

    def matches(self, state: str) -> bool:
        """Whether the device is on, off, open …; a light at 30% is on."""
        return self.value.split(" ")[0] == state


def be(device: str) -> str:
    """The verb that goes with a device's name."""
    return "are" if device in {"blinds", "sprinklers"} else "is"


def name_of(device: str, room: str | None) -> str:
    """The device's name in state messages and answers."""
    if device == "lock":
        return room if room in DOORS else f"{room} door" if room else "door"
    return f"{room} {device}" if room else device


def unknown(name: str) -> str:
    """The answer when the state message does not have the device."""
    return f"I don't know the state of the {name}."


def random_value(device: str, rng: random.Random) -> str:
    """A value a device may report."""
    active, idle = VALUES[device]
    if device in {"thermostat", "ac"}:
        half = ".5" if rng.random() < 0.15 else ""
        warm = f"{rng.randrange(10, 31)}{half} degrees" if rng.random() < 0.85 else f"{rng.randrange(55, 86)} degrees"
        if device == "ac":
            return rng.choice(["on", "off", f"on {warm}", warm])
        return warm if rng.random() < 0.85 else idle
    if rng.random() < 0.5:
        return idle
    roll = rng.random()
    if device == "light" and roll < 0.5:
        return f"on {rng.randrange(1, 101)}%"
    if device == "light" and roll < 0.56:
        return f"on {rng.choice(COLORS)}"
    if device == "blinds" and roll < 0.4:
        return f"open {rng.randrange(1, 100)}%"
    if device == "fan" and roll < 0.5:
        return rng.choice(["on low", "on medium", "on high", f"on {rng.randrange(10, 101, 10)}%"])
    if device in {"tv", "speaker"} and roll < 0.3:
        return f"{active} {rng.randrange(5, 101, 5)}%" if device == "tv" else active
    if device == "oven" and roll < 0.6:
        return f"on {rng.randrange(100, 260, 10)} degrees"
    return active


def _random_room(device: str, rng: random.Random, others: float) -> str | None:
    if device in NEVER_ROOMED:
        return None
    if rng.random() < others:
        return rng.choice(OTHER_PLACES)
    if device == "lock":
        # In a state message "garage door" is the door the car goes through.
        room = rng.choice([*DOORS, *DOORS, *INSIDE])
        return room if room != "garage" else "front door"
    rooms = DEVICES[device].rooms
    if device in {"thermostat", "coffee maker", "ac", "kettle", "humidifier", "air purifier", "speaker", "tv"}:
        return rng.choice(rooms) if rng.random() < 0.55 else None
    return rng.choice(rooms)


def random_home(rng: random.Random, hard: float = 1.0, others: float = 0.0) -> list[Entry]:
    """A home's state: 1 to 8 devices, none twice; fewer where `hard` is below 1.

    `others` is the share of devices in places that only state messages know.
    """
    size = max(1, round(rng.choice([1, 2, 2, 3, 3, 3, 4, 4, 5, 6, 8]) * (0.4 + 0.6 * hard)))
    home: dict[str, Entry] = {}
    weights = [DEVICES[d].weight for d in VALUES]
    favourite = rng.choice(list(PLURALS)) if rng.random() < 0.5 else None
    while len(home) < size:
        device = rng.choices(list(VALUES), weights)[0]
        if favourite and rng.random() < 0.35:
            device = favourite
        entry = Entry(device, _random_room(device, rng, others), random_value(device, rng))
        if device not in NEVER_ROOMED and any(
            e.device == device and (e.room is None or entry.room is None) for e in home.values()
        ):
            continue
        home.setdefault(entry.name, entry)
    return list(home.values())


def message(home: list[Entry]) -> str:
    """The system message for a home."""
    return "state: " + "; ".join(f"{e.name} {be(e.device)} {e.said}" for e in home)


ASK = [
    "<is> <t> <s>",
    "<is> <t> <s>",
    "<is> <t> (still|currently|already|really) <s>",
    "<is> <t> <s> (right now|now|at the moment|or not)",
    "<is> <t> <s> or <s2>",
    "(what is|what's|whats) the (state|status) of <t>",
    "(tell me|do you know|can you tell me|could you tell me) (if|whether) <t> <is> <s>",
    "(check|can you check|please check|could you check) (if|whether) <t> <is> <s>",
    "(check|check on) <t>",
    "(what about|how about) <t>",
    "<t> (status|state)",
    "<t> <s>?",
    "what state <is> <t> in",
    "<t>, <is> it <s>",
    "I want to know (if|whether) <t> <is> <s>",
    "(are you sure|I think) <t> <is> <s>?",
    "did (I|we|someone|anyone) leave <t> <s>",
    "have (I|we) left <t> <s>",
    "I hope <t> <is> <s>?",
    "<is>n't <t> <s>",
    "(what is|what's) <t> doing",
    "how <is> <t>",
    "(can you see|let me know|find out|look up) (if|whether) <t> <is> <s>",
    "(please confirm|confirm|make sure you tell me) that <t> <is> <s>",
    "was <t> left <s>",
    "<is> <t> <s>, (please|do you know|I wonder)",
    "(is it true|am I right|is it possible) that <t> <is> <s>",
    "tell me about <t>",
    "(I can't remember|not sure) if <t> <is> <s>",
    "what is <t> set to",
    "what's up with <t>",
    "(could|can|would|will) you (tell|tell me|show|see|find out|look up|look|verify|confirm) (if|whether) <t> <is> <s>",
    "(do|would) you (think|believe|guess|reckon) [that] <t> <is> <s>",
    "(I think|I believe|I guess|I suppose|it seems|looks like) <t> <is> <s>[, right|, correct|, no|, isn't it]?",
    "(is it true|is it right|is it correct|is it the case|am I right|can I assume|can you confirm) that <t> <is> <s>",
    "(I'm not sure|I am not sure|I don't know|no idea|not sure) (if|whether) <t> <is> <s>",
    "(I can't recall|I don't remember|I can't tell|remind me|I must know|I have to know) (if|whether) <t> <is> <s>",
    "(any clue|any chance you know|any news|do you happen to know|would you know|is there a way to know) (if|whether) <t> <is> <s>",
    "(give me|get me|I need|I'd like|I want) (an update|a status|the status|info|the state|details|news) (on|of|about|for) <t>",
    "(tell me|say something|fill me in|update me|inform me) about <t>",
    "(read|send|show|bring|get) me (the status|the reading|the figures|a summary|the facts) (of|for|on|about) <t>",
    "(report on|report|describe|summarise) <t> [to me|for me]",
    "(give|hand) me a (summary|reading|short answer|quick update|description) (of|on|about|for) <t>",
    "(what does|what do) <t> (look like|show|do) [now|right now]",
    "(how is|how's|how are) <t> [doing|set|looking]",
    "<s3> (if|whether) <t> <is> <s>",
    "<s3> (what|which) state <t> <is> in",
    "~would you say <t> <is> <s>",
    "~I forgot whether <t> <is> <s>",
    "~give me a report on <t>",
    "~any idea if <t> <is> <s>",
]
ASK_BY_DEVICE = {
    "lock": ["did (I|we) lock <t>", "have (I|we) locked <t>", "was <t> locked", "~can anyone just walk in through <t>"],
    "light": [
        "how bright <is> <t>",
        "(what is|what's) the brightness of <t>",
        "how much <is> <t> dimmed",
        "is there light <in>",
        "~how strong <is> <t>",
        "at what percentage <is> <t>",
    ],
    "thermostat": [
        "(what is|what's|whats) the temperature <in>",
        "how (warm|cold|hot) is it <in>",
        "(what is|what's|whats) <t> set to",
        "what temperature is (it|it set to) <in>",
        "what temperature <is> <t> [at|set to]",
        "how many degrees (is it|do we have) <in>",
        "temperature <in>",
        "~what does <t> say",
        "is the heating on <in>",
    ],
    "garage door": ["did (I|we) close <t>", "did (I|we) shut <t>", "have (I|we) closed <t>"],
    "gate": ["did (I|we) close <t>", "have (I|we) closed <t>"],
    "blinds": ["did (I|we) close <t>", "how far <is> <t> open", "how open <is> <t>", "<is> <t> (up|down)"],
    "window": [
        "did (I|we) close <t>",
        "did (I|we) shut <t>",
        "have (I|we) closed <t>",
        "~is fresh air coming in by <t>",
    ],
    "fan": ["how fast <is> <t>", "what speed <is> <t> (on|at|set to)", "is <t> running"],
    "tv": ["how loud <is> <t>", "did (I|we) turn off <t>"],
    "speaker": ["is music playing <in>", "is there music [playing] <in>", "is <t> playing"],
    "vacuum": ["(where is|where's) <t>", "is <t> cleaning", "is <t> charging", "is <t> done"],
    "alarm": ["did (I|we) arm <t>", "did (I|we) set <t>", "is <t> (on|off|set)", "is the house armed"],
    "oven": ["did (I|we) turn off <t>", "how hot <is> <t>", "what temperature <is> <t>", "is <t> hot"],
    "plug": ["did (I|we) turn off <t>"],
    "coffee maker": ["did (I|we) turn off <t>"],
}
WHICH = [
    "(which|what) <p> are <s>",
    "are (any|there any) <p> <s>",
    "(which|what) <p> are (still|currently) <s>",
    "(list|show|show me|tell me|give me) [all] the <p> that are <s>",
    "(list|show|show me|name) all <s> <p>",
    "(tell me|do you know) (which|what) <p> are <s>",
    "is any <one> <s>",
    "do (I|we) have any <p> <s>",
    "did (I|we) leave any <p> <s>",
    "any <p> <s>",
    "are there <p> [still|currently] <s>",
    "(is there|do we have|have we got) (a|any) <one> that is <s>",
    "do (I|we) have <p> that are <s>",
    "(I want|I'd like|give me|can I have|get me) (a list|the list|an overview|the names) of [the|all] <p> (that are|being) <s>",
    "(I need|I have|I want) to know (which|what) <p> are <s>",
    "<s3> (which|what) <p> are <s>",
    "(which|what) of the <p> are <s>",
    "which <one> is <s>",
    "~are there <p> that are <s>",
    "~I need a list of <p> which are <s>",
]
THE_MANY = ["are the <p> <s>", "are the <p> (still|currently) <s>", "did (I|we) leave the <p> <s>"]
ALL_ARE = [
    "are all [the|my|of the] <p> <s>",
    "are all [the] <p> <s> (now|right now)",
    "is every <one> <s>",
    "(check|tell me|can you check) (if|whether|that) all [the] <p> are <s>",
    "all <p> <s>?",
    "is it (true|right|correct|certain|a fact) that all <p> are <s>",
    "(I think|I believe|I hope|I guess|I suppose) all [the] <p> are <s>[, right|, correct]?",
    "(do you think|can you confirm|could you verify|are you sure|can I assume) [that] all [the] <p> are <s>",
    "<s3> (if|whether) all [the|my] <p> are <s>",
    "have all [the] <p> been <s>",
    "~is it so that all <p> are <s>",
]
ONE = {"lights": "light", "doors": "door", "blinds": "blind", "windows": "window", "fans": "fan", "tvs": "tv"}
ONE |= {"speakers": "speaker", "plugs": "plug"}
SYNONYMS = {"lights": ["lights", "lights", "lamps"], "tvs": ["tvs", "televisions"], "blinds": ["blinds", "curtains"]}


@dataclass
class Question:
    """A question, its answer, and the ids of its templates and combinations."""

    text: str
    answer: str
    skeleton: str
    combo: str = ""


def _pick(templates: list[str], held: bool, rng: random.Random, name: str) -> tuple[str, str]:
    options = [(f"{name}#{i}", t) for i, t in enumerate(templates) if t.startswith("~") == held]
    key, template = rng.choice(options)
    return key, template.lstrip("~")


def _said_of(device: str, rng: random.Random) -> tuple[str, str]:
    """The pair of states a yes/no question names."""
    active, idle = VALUES[device]
    if device == "thermostat":
        active = "on"
    if device == "blinds" and rng.random() < 0.15:
        idle = "shut"
    pair = [(active, idle), (idle, active)]
    return rng.choice(pair)


def _question(device: str, room: str | None, rng: random.Random, held: bool) -> tuple[str, str]:
    """The words of a question about one device: (text, skeleton)."""
    own = ASK_BY_DEVICE.get(device, [])
    use_own = bool([t for t in own if t.startswith("~") == held]) and rng.random() < 0.4
    key, template = _pick(own if use_own else ASK, held, rng, f"ask.{device}" if use_own else "ask")
    attr = "temperature" if device == "thermostat" and "temperature" in template else "on"
    said, many = thing(device, room, attr, rng)
    while said.startswith(("all ", "every ", "both ")):
        said, many = thing(device, room, attr, rng)
    state, other = _said_of(device, rng)
    inside = place(room, rng) if room and room not in DOORS else rng.choice(["", "in here", "inside", ""])
    slots = {"t": said, "is": "are" if many else "is", "s": state, "s2": other, "in": inside, "s3": stray(rng)}
    return expand(template, rng, slots), key


def ask_one(home: list[Entry], rng: random.Random, held: bool = False, combo_held: bool = False) -> Question:
    """A question about one device, in the home's state or not."""
    others = 0.5 if any(e.room in OTHER_PLACES for e in home) else 0.0
    while True:
        entry = rng.choice(home) if home and rng.random() < 0.8 else None
        if entry:
            device, room = entry.device, entry.room
            alone = sum(e.device == device for e in home) == 1
            if alone and rng.random() < 0.3 and device != "lock":
                room = None
        else:
            device = rng.choices(list(VALUES), [DEVICES[d].weight for d in VALUES])[0]
            room = _random_room(device, rng, others)
        known = [e for e in home if e.device == device and (room is None or e.room == room)]
        # "upstairs" may well be answered by a kitchen light, "the light" by any of several: such questions are open.
        if len(known) > 1 or (not known and room and any(e.device == device and not e.room for e in home)):
            continue
        if held_combo(device, room, "state") != combo_held:
            continue
        text, key = _question(device, room, rng, held)
        answer = known[0].sentence if known else unknown(name_of(device, room))
        return Question(text, answer, key, f"{device}/{room}/state")


def _listing(found: list[Entry]) -> str:
    names = [f"the {e.name}" for e in found]
    text = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
    return text[:1].upper() + text[1:]


def ask_which(home: list[Entry], rng: random.Random, held: bool = False) -> Question:
    """A question about all devices of one kind: which are on, are any open, are all locked."""
    device = rng.choice(list(PLURALS))
    present = [d for d in PLURALS if any(e.device == d for e in home)]
    if present and rng.random() < 0.85:
        device = rng.choice(present)
    plural = PLURALS[device]
    every = rng.random() < 0.25
    state = rng.choice(VALUES[device])
    key, template = _pick(ALL_ARE if every else WHICH, held, rng, "all" if every else "which")
    if not every and not held and sum(e.device == device for e in home) > 1 and rng.random() < 0.15:
        key, template = _pick(THE_MANY, False, rng, "many")
    words = rng.choice(SYNONYMS.get(plural, [plural]))
    text = expand(template, rng, {"p": words, "one": ONE[plural], "s": state, "s3": stray(rng)})
    return Question(text, _which_answer(home, device, state, every), key)


def _which_answer(home: list[Entry], device: str, state: str, every: bool) -> str:
    plural = PLURALS[device]
    ours = [e for e in home if e.device == device]
    if not ours:
        return unknown(plural)
    asked = state
    if every:
        active, idle = VALUES[device]
        state = idle if state == active else active
    found = [e for e in ours if e.matches(state)]
    if not found:
        return f"All {plural} are {asked}." if every else f"No {plural} are {state}."
    verb = be(device) if len(found) == 1 else "are"
    return f"{_listing(found)} {verb} {state}."

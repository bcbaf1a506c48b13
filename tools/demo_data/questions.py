"""Questions about a home's state, and their answers."""

from __future__ import annotations

import random
from dataclasses import dataclass

from . import phrasebook
from .devices import DEVICES, DOORS, ROOMS, held_combo
from .grammar import expand, options
from .nouns import place, thing
from .other import stray
from .states import NEVER_ROOMED, PLURALS, VALUES, Entry, be, name_of, random_room

ABSENT = "not in the state."
PRESENT = 0.75  # share of questions about one device that is in the state
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
    "(which|what) <p> are <s> (right now|now|at the moment)",
    "(how many|how many of the) <p> are <s>",
    "how many <p> (do I have|have I left|did we leave|are there) <s>",
    "(which|what) <p> (did I|did we|have we|have I) (leave|left) <s>",
    "(is there|are there) any <p> [that are|still|left] <s>",
    "is any of the <p> <s>",
    "(has|have) any <p> been left <s>",
    "any <s> <p>",
    "the <p> that are <s>",
    "tell me [about] the <p> that are <s>",
    "(I wonder|I'm wondering|I need to know|I want to know) (which|what) <p> are [still] <s>",
    "did (I|we|someone) leave (a|any) <one> <s> [somewhere|anywhere]",
    "is (a|some|any|one of the) <one> [still] <s> [somewhere|anywhere|in the house]",
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
    "are the <p> all <s>",
    "(is|are) (every one|each|all) of the <p> <s>",
    "(have|did) (we|I) (got|get) all [the] <p> <s>",
    "(say|state|report|tell me) (whether|if) all [of the] <p> are <s>",
    "is each <one> <s>",
    "(are|were) all my <p> [left] <s>",
    "(please|can you|could you) (check|make sure|verify) (whether|if|that) (all|all the|all of the) <p> are <s>",
    "the <p> are all <s>, (right|aren't they|correct)",
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
HOUSE = [
    "is the house locked [up]",
    "is everything locked [up]",
    "did (I|we) lock (the house|up|everything|all the doors|every door)",
    "have (I|we) locked (the house|up|everything|all the doors|every door)",
    "is (the house|everything) (safely|properly|all) locked",
]
_MORE = phrasebook.read("states")
ASK += _MORE["ask"]
WHICH += _MORE["which"]
ALL_ARE += _MORE["all"]
HOUSE += _MORE["house"]
ASK_BY_DEVICE = {d: ASK_BY_DEVICE.get(d, []) + _MORE.get(f"ask.{d}", []) for d in VALUES}
# Other words for a state, in questions alone.
SAID = {
    "fan on": ["running", "spinning", "going"],
    "light on": ["burning", "lit", "glowing"],
    "window closed": ["shut"],
}
SAID |= {"blinds closed": ["shut", "down"], "blinds open": ["up"], "speaker playing": ["on"], "tv on": ["running"]}
SAID |= {"garage door closed": ["shut"], "gate closed": ["shut"], "light off": ["out"]}
SYNONYMS = {"lights": ["lights", "lights", "lamps"], "tvs": ["tvs", "televisions"], "blinds": ["blinds", "curtains"]}


def unknown(name: str, verb: str) -> str:
    """The answer when the state message does not have the device.

    It begins as the others do: whether the device is there shows where its value would be copied from, not before.
    """
    return f"The {name} {verb} {ABSENT}"


@dataclass
class Question:
    """A question, its answer, and the ids of its templates and combinations."""

    text: str
    answer: str
    skeleton: str
    combo: str = ""


_LISTS = {"ask": ASK, "which": WHICH, "all": ALL_ARE, "many": THE_MANY, "house": HOUSE}
_OPTIONS = options(_LISTS | {f"ask.{device}": own for device, own in ASK_BY_DEVICE.items()})


def _pick(name: str, held: bool, rng: random.Random) -> tuple[str, str]:
    key, template = rng.choice(_OPTIONS[name, held])
    return key, template.lstrip("~")


def said_as(device: str, state: str, rng: random.Random) -> str:
    """The state's own word, or now and then another for the same."""
    words = SAID.get(f"{device} {state}", [])
    return rng.choice(words) if words and rng.random() < 0.2 else state


def _said_of(device: str, rng: random.Random) -> tuple[str, str]:
    """The pair of states a yes/no question names."""
    active, idle = VALUES[device]
    if device == "thermostat":
        active = "on"
    if device == "blinds" and rng.random() < 0.15:
        idle = "shut"
    pair = (said_as(device, active, rng), said_as(device, idle, rng))
    return rng.choice([pair, pair[::-1]])


def _question(device: str, room: str | None, rng: random.Random, held: bool) -> tuple[str, str]:
    """The words of a question about one device: (text, skeleton)."""
    use_own = bool(_OPTIONS[f"ask.{device}", held]) and rng.random() < 0.4
    key, template = _pick(f"ask.{device}" if use_own else "ask", held, rng)
    attr = "temperature" if device == "thermostat" and "temperature" in template else "on"
    said, many = thing(device, room, attr, rng)
    while said.startswith(("all ", "every ", "both ")):
        said, many = thing(device, room, attr, rng)
    state, other = _said_of(device, rng)
    inside = place(room, rng) if room and room not in DOORS else rng.choice(["", "in here", "inside", ""])
    slots = {"t": said, "is": "are" if many else "is", "s": state, "s2": other, "in": inside, "s3": stray(rng)}
    return expand(template, rng, slots), key


def _absent(home: list[Entry], rng: random.Random, others: float) -> tuple[str, str | None]:
    """A device and a place to ask for that the home may lack; more often than not one that it has elsewhere."""
    near = [e for e in home if e.device not in NEVER_ROOMED]
    if near and rng.random() < 0.6:
        device = rng.choice(near).device
    else:
        device = rng.choices(list(VALUES), [DEVICES[d].weight for d in VALUES])[0]
    return device, random_room(device, rng, others)


def ask_one(home: list[Entry], rng: random.Random, held: bool = False, combo_held: bool = False) -> Question:
    """A question about one device, in the home's state or not."""
    others = 0.5 if any(e.room not in (None, *ROOMS, *DOORS) for e in home) else 0.0
    while True:
        entry = rng.choice(home) if home and rng.random() < PRESENT else None
        if entry:
            device, room = entry.device, entry.room
            alone = sum(e.device == device for e in home) == 1
            if alone and rng.random() < 0.3 and device != "lock":
                room = None
        else:
            device, room = _absent(home, rng, others)
        known = [e for e in home if e.device == device and (room is None or e.room == room)]
        # "upstairs" may well be answered by a kitchen light, "the light" by any of several: such questions are open.
        if len(known) > 1 or (not known and room and any(e.device == device and not e.room for e in home)):
            continue
        if held_combo(device, room, "state") != combo_held:
            continue
        text, key = _question(device, room, rng, held)
        answer = known[0].sentence if known else unknown(name_of(device, room), be(device))
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
    key, template = _pick("all" if every else "which", held, rng)
    if not every and not held and sum(e.device == device for e in home) > 1 and rng.random() < 0.15:
        key, template = _pick("many", False, rng)
    words = rng.choice(SYNONYMS.get(plural, [plural]))
    if device == "lock" and every and not held and state == "locked" and rng.random() < 0.3:
        key, template = _pick("house", False, rng)
    text = expand(template, rng, {"p": words, "one": ONE[plural], "s": said_as(device, state, rng), "s3": stray(rng)})
    return Question(text, _which_answer(home, device, state, every), key)


def _which_answer(home: list[Entry], device: str, state: str, every: bool) -> str:
    plural = PLURALS[device]
    ours = [e for e in home if e.device == device]
    if not ours:
        return unknown(plural, "are")
    asked = state
    if every:
        active, idle = VALUES[device]
        state = idle if state == active else active
    found = [e for e in ours if e.matches(state)]
    if not found:
        return f"All {plural} are {asked}." if every else f"No {plural} are {state}."
    verb = be(device) if len(found) == 1 else "are"
    return f"{_listing(found)} {verb} {state}."

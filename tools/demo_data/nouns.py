"""The words for rooms, devices and values."""

from __future__ import annotations

import random

from .devices import DEVICES, DOOR_WORDS, ROOMS, Action
from .grammar import expand, listed, number
from .places import OWN_ROOMS, proper

ON_ROOMS = {"garden", "porch", "patio", "balcony", "stairs"}
BARE_ROOMS = {"upstairs", "downstairs", "outside", "indoors"}
# What people think of a thing; no place is named so.
_OPINIONS = listed(
    "stupid|silly|yucky|ugly|annoying|damn|bloody|lovely|beautiful|horrible|awful|terrible|noisy|nasty|crazy|blasted|darn"
    "|wretched|good old|dear old|poor|fancy|shiny|precious|favourite|favorite|beloved|useless|boring|scary|irritating"
)
_UPON = ("floor", "level", "terrace", "roof", "rooftop", "landing", "deck", "pier", "driveway", "table", "wall")
EVERYWHERE = [
    "everywhere",
    "in the whole house",
    "in every room",
    "in all rooms",
    "in the entire house",
    "all over the house",
    "in the house",
    "in the (flat|apartment|building|place|home)",
    "throughout the (house|flat|apartment|home)",
    "(across|around) the (house|apartment|whole house)",
    "in the (entire|whole) (flat|apartment|place|home)",
]


def room_words(room: str, rng: random.Random) -> str:
    """One of the names people use for a room, without article."""
    return rng.choice(ROOMS.get(room) or DOOR_WORDS.get(room) or [room])


def place(room: str, rng: random.Random) -> str:
    """Where: "in the kitchen", "on the patio", "upstairs"."""
    words = room_words(room, rng)
    if room in BARE_ROOMS:
        return words
    if _named(room, rng):
        return f"in {words}"
    if (room in ON_ROOMS and rng.random() < 0.6) or (room.endswith(_UPON) and rng.random() < 0.8):
        return f"on the {words}"
    return f"in the {words}" if rng.random() < 0.9 else f"in {rng.choice(['', 'my '])}{words}"


def _named(room: str, rng: random.Random) -> bool:
    """Whether a place is said without an article; who learns the language may say "the nora's room"."""
    return proper(room) and (room in OWN_ROOMS or rng.random() < 0.92)


def with_article(room: str, rng: random.Random) -> str:
    """A room's name as it is spoken of: "the kitchen", "upstairs", "my room"."""
    words = room_words(room, rng)
    return words if room in BARE_ROOMS or _named(room, rng) else f"the {words}"


def _door(room: str | None, rng: random.Random) -> tuple[str, bool]:
    """A door to lock, and whether the words are plural."""
    if room is None:
        return rng.choice([("the door", False), ("door", False), ("the door", False), ("my door", False)])
    if room == "all":
        options = ["all the doors", "all doors", "every door", "all of the doors", "all the locks", "every lock"]
        options += ["all doors in the house", "the whole house", "the house", "every single door", "each door"]
        text = rng.choice(options)
        return text, "doors" in text or "locks" in text
    name = room_words(room, rng)
    name = name if room in DOOR_WORDS else f"{name} door"
    return rng.choice(
        [f"the {name}"] * 6 + [name, name, f"my {name}", f"the {name} lock", f"the lock on the {name}"]
    ), False


def _one_or_many(device: str, attr: str, rng: random.Random) -> tuple[str, bool]:
    words = DEVICES[device].words
    if device == "light" and rng.random() < 0.16:
        words = [
            (f"{w} lamp", f"{w} lamps")
            for w in (
                "desk",
                "floor",
                "table",
                "bedside",
                "reading",
                "standing",
                "night",
                "side",
                "wall",
                "big",
                "small",
            )
        ]
        words += [
            (f"{w} light", f"{w} lights")
            for w in (
                "main",
                "hue",
                "smart",
                "led",
                "wall",
                "string",
                "strip",
                "side",
                "pendant",
                "ambient",
                "mood",
                "christmas",
            )
        ]
        words += [
            ("night light", "night lights"),
            ("spotlight", "spotlights"),
            ("chandelier", "chandeliers"),
            ("led strip", "leds"),
        ]
    if attr == "on":
        words = [w for w in words if w[0] not in {"temperature", "music"}]
    if device == "thermostat" and attr == "temperature" and rng.random() < 0.3:
        words = [*words, ("temperature", "temperature")]
    if attr not in {"volume", "muted"}:
        words = [w for w in words if w[0] != "music"] or words
    single, plural = rng.choice(words)
    many = (device in {"light", "blinds", "window"} and rng.random() < 0.55) or single == plural == "blinds"
    return (plural, True) if many else (single, single.endswith(("blinds", "curtains", "shades", "drapes", "shutters")))


def thing(device: str, room: str | None, attr: str, rng: random.Random) -> tuple[str, bool]:
    """The noun phrase for a device, and whether it is plural."""
    if device == "lock":
        return _door(room, rng)
    if device == "all":
        return _everything(room, rng), False
    word, many = _one_or_many(device, attr, rng)
    if room == "all":
        return _all_of(device, rng), True
    if room is None:
        here = rng.choice(["in here", "in this room", "here", "in the room"]) if rng.random() < 0.08 else ""
        article = rng.choice(["the ", "the ", "the ", "the ", "", "my ", "our "])
        if rng.random() < 0.05:
            article = rng.choice(["the ", "the ", "that ", "this ", "my "]) + rng.choice(_OPINIONS) + " "
        return f"{article}{word} {here}".strip(), many
    if _named(room, rng):
        before = rng.choice(["the ", "all the ", "all "] if many else ["the ", "the ", ""])
        inside = f"{before}{word} {rng.choice(['in', 'in', 'in', 'of'])} {room}"
        return (inside if room in OWN_ROOMS or rng.random() < 0.5 else f"{room} {word}"), many
    name = room_words(room, rng)
    roll = rng.random()
    if many and roll < 0.2:
        total = rng.choice(["all the", "all", "all of the", "both"])
        text = f"{total} {name} {word}" if rng.random() < 0.5 else f"{total} {word} {place(room, rng)}"
    elif roll < 0.25 and device == "light":
        text = f"every {rng.choice(['light', 'lamp', 'bulb'])} {place(room, rng)}"
        many = False
    elif roll < 0.62:
        text = f"{rng.choice(['the ', 'the ', 'the ', '', 'my '])}{name} {word}"
    elif roll < 0.64:
        text = f"the {name}'s {word}" if room in ROOMS else f"the {word} of the {name}"
    elif roll < 0.68:
        text = f"{rng.choice(['the ', ''])}{word} of {rng.choice(['the ', 'the ', ''])}{name}"
    elif roll < 0.7:
        text = f"{word} {name}"
    else:
        text = f"{rng.choice(['the ', 'the ', 'the ', ''])}{word} {place(room, rng)}"
    return text, many


def _everything(room: str | None, rng: random.Random) -> str:
    base = rng.choice(["everything", "everything", "all devices", "all the devices", "every device", "all of it"])
    if room in (None, "all"):
        return base + rng.choice(["", "", "", " in the house", " in the whole house", " at home", " everywhere"])
    return f"{base} {place(room, rng)}"


def _all_of(device: str, rng: random.Random) -> str:
    single, plural = rng.choice([w for w in DEVICES[device].words if w[0] not in {"blinds", "shutters"}])
    single = single.removesuffix("s") if device == "blinds" else single
    forms = ["all the {p}"] * 4 + ["all {p}", "all of the {p}", "every {s}", "each {s}", "every single {s}", "all {p}"]
    forms += ["all the {p} in the (house|home|apartment|flat|place)", "the {p} (everywhere|in the whole house)"]
    forms += [
        "the {p} (in|throughout|across|around|all over) the (house|flat|apartment)",
        "the (house|flat|apartment)'s {p}",
    ]
    forms += ["the (house|home|apartment) {p}", "every {s} there is", "all {p} of the (house|flat)"]
    forms += [
        "the {p} in (every room|all rooms|the entire house)",
        "every {s} in the (house|home)",
        "the whole house {p}",
    ]
    return expand(rng.choice(forms).format(p=plural, s=single), rng)


def percent(n: int, rng: random.Random, bare: float = 0.25, special: bool = True, of_light: bool = False) -> str:
    """30 as "30 percent", "30%", "thirty per cent", "half" …"""
    words = {
        50: ["half", "fifty fifty", "half"],
        100: [
            "full",
            "maximum",
            "max",
            "the maximum",
            "one hundred percent",
            "the highest",
            "the max",
        ],
    }
    words |= {25: ["a quarter"], 75: ["three quarters"]}
    if of_light:
        words[100].append("its brightest")
        words[1] = ["the lowest", "the minimum", "minimum", "its lowest", "lowest", "min", "the dimmest"]
    if special and n in words and rng.random() < (0.8 if n == 1 else 0.35):
        return rng.choice(words[n])
    if special and rng.random() < 0.04:
        return f"{rng.choice(['level', 'a level of', 'a value of'])} {number(n, rng)}"
    if rng.random() < bare:
        return number(n, rng)
    if rng.random() < 0.45:
        return f"{n}{rng.choice(['%', '%', '%', ' %'])}"
    return f"{number(n, rng)} {rng.choice(['percent', 'percent', 'per cent'])}"


def degrees(n: float, rng: random.Random) -> str:
    """21 as "21", "21 degrees", "21°C" …"""
    scale = ["fahrenheit", "F", "f"] if n > 45 else ["celsius", "C", "c"]
    unit = rng.choice(["", "", "", " degrees", " degrees", " degrees", "°", f" degrees {scale[0]}", f"°{scale[1]}"])
    return number(n, rng, 0.2 if unit in {"", " degrees"} else 0.0) + unit


def duration(n: int, unit: str, rng: random.Random) -> tuple[str, str]:
    """10 minutes as ("10 minutes", "10 minute"); 75 minutes as ("1 hour and 15 minutes", "1 hour 15 minute")."""
    said = {("minutes", 30): [("half an hour", "half hour")], ("hours", 1): [("an hour", "one hour")]}
    said |= {("minutes", 1): [("a minute", "one minute")], ("seconds", 30): [("half a minute", "half minute")]}
    said |= {("minutes", 15): [("a quarter of an hour", "quarter hour"), ("quarter of an hour", "quarter of an hour")]}
    said |= {("minutes", 60): [("sixty minutes", "sixty minute"), ("60 mins", "60 min")]}
    said |= {("hours", 2): [("a couple of hours", "two hour"), ("two full hours", "two hour")]}
    said |= {
        ("minutes", 2): [("a couple of minutes", "two minute")],
        ("minutes", 12): [("a dozen minutes", "12 minute")],
    }
    said |= {("seconds", 45): [("three quarters of a minute", "45 second")]}
    said |= {("seconds", 15): [("a quarter of a minute", "15 second"), ("quarter of a minute", "15 second")]}
    said |= {("minutes", 45): [("three quarters of an hour", "three quarter hour")]}
    if (unit, n) in said and rng.random() < 0.4:
        return rng.choice(said[unit, n])
    if unit != "hours" and n > 60 and rng.random() < (0.9 if n > 99 or n % 30 else 0.75):
        return _mixed(n, unit, rng)
    short = {
        "minutes": ["minute", "minute", "minute", "min"],
        "seconds": ["second", "second", "sec"],
        "hours": ["hour", "hour", "hour", "hr"],
    }
    word = rng.choice(short[unit])
    text = number(n, rng)
    return f"{text} {word}{'s' if n != 1 else ''}", f"{text}{rng.choice([' ', ' ', '-'])}{word}"


def _mixed(n: int, unit: str, rng: random.Random) -> tuple[str, str]:
    """75 minutes in hours and minutes, 90 seconds in minutes and seconds."""
    whole, rest = divmod(n, 60)
    large, small = ("hour", "minute") if unit == "minutes" else ("minute", "second")
    one = "an" if large == "hour" else "a"
    count = number(whole, rng, 0.3)
    if rest == 30 and rng.random() < 0.6:
        texts = [f"{count} and a half {large}s"] * 2
        texts += (
            [f"{one} {large} and a half", f"one and a half {large}s"]
            if whole == 1
            else [f"{count} and a half {large}s"]
        )
        text = rng.choice(texts)
        return text, text.removesuffix("s")
    if large == "hour" and rest == 15 and rng.random() < 0.2:
        text = f"{'an hour' if whole == 1 else f'{count} hours'} and a quarter"
        return text, text
    if large == "hour" and rng.random() < 0.08:
        return f"{whole}h {rest}m", rng.choice([f"{whole}h{rest}", f"{whole}h {rest}m"])
    first, second = large, small
    if rng.random() < 0.15:
        first, second = {"hour": "hr", "minute": "min"}[large], {"minute": "min", "second": "sec"}[small]
    start = f"{one} {first}" if whole == 1 and rng.random() < 0.35 else f"{count} {first}"
    joined = rng.choice([" and ", " and ", " ", ", "]) + number(rest, rng, 0.2)
    plural = f"{start}{'s' if whole != 1 else ''}{joined} {second}{'s' if rest != 1 else ''}"
    return plural, f"{start}{joined} {second}"


def value_words(action: Action, rng: random.Random) -> dict[str, str]:
    """The slots that hold the value of an action."""
    value, attr = action.value, action.attr
    if isinstance(value, bool):
        return {}
    if isinstance(value, str):
        words = {"cool white": ["cool white", "cold white"], "warm white": ["warm white", "warm white", "warm"]}
        words |= {
            "medium": ["medium", "mid"],
            "high": ["high", "high", "high", "full", "max", "maximum", "the highest"],
            "low": ["low", "low", "low", "slow", "the lowest"],
        }
        return {"n": rng.choice(words.get(value, [value]))}
    if attr in {"minutes", "seconds", "hours"}:
        text, short = duration(int(value), attr, rng)
        return {"n": text, "n1": short}
    if attr == "temperature":
        return {"n": degrees(abs(value), rng) if not action.change else _step(value, rng)}
    if attr == "channel":
        return {"n": str(value) if value > 20 else number(value, rng)}
    n = int(abs(value))
    special = attr != "speed" and not action.change
    bare = 0.7 if attr == "volume" else 0.25
    return {"n": percent(n, rng, bare, special, special and attr == "brightness"), "np": percent(n, rng, 0)}


def _step(value: float, rng: random.Random) -> str:
    n = abs(value)
    return number(n, rng) + rng.choice([" degree" if n == 1 else " degrees", "", "°" if n > 1 else " degree"])

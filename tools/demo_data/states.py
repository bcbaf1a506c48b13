"""The home's state as a system message.

The message is ``state: `` and sentences without capitals joined by ``; ``: ``kitchen light is on at 30%``,
``front door is locked``, ``thermostat is at 21 degrees``. An answer repeats the sentence it needs, word for word.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .devices import COLORS, DEVICES, DOORS, INSIDE, OTHER_PLACES
from .places import unknown_place

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
SIZES = [1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7, 8, 9, 10, 12, 14, 17, 20]  # how many devices a home may have
FEW_KINDS = 0.3  # share of homes of up to eight devices, nearly all of one kind or two: lists are learnt from them
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
    if device == "light" and roll < 0.62:
        return f"on {rng.randrange(1, 101)}%"
    if device == "light" and roll < 0.7:
        return f"on {rng.choice(COLORS)}"
    if device == "blinds" and roll < 0.55:
        return f"open {rng.randrange(1, 100)}%"
    if device == "fan" and roll < 0.5:
        return rng.choice(["on low", "on medium", "on high", f"on {rng.randrange(10, 101, 10)}%"])
    if device in {"tv", "speaker"} and roll < 0.3:
        return f"{active} {rng.randrange(5, 101, 5)}%" if device == "tv" else active
    if device == "oven" and roll < 0.6:
        return f"on {rng.randrange(100, 260, 10)} degrees"
    return active


def random_room(device: str, rng: random.Random, others: float) -> str | None:
    if device in NEVER_ROOMED:
        return None
    if rng.random() < others:
        return unknown_place(rng) if rng.random() < 0.4 else rng.choice(OTHER_PLACES)
    if device == "lock":
        # In a state message "garage door" is the door the car goes through.
        room = rng.choice([*DOORS, *DOORS, *INSIDE])
        return room if room != "garage" else "front door"
    rooms = DEVICES[device].rooms
    if device in {"thermostat", "coffee maker", "ac", "kettle", "humidifier", "air purifier", "speaker", "tv"}:
        return rng.choice(rooms) if rng.random() < 0.55 else None
    return rng.choice(rooms)


def random_home(rng: random.Random, hard: float = 1.0, others: float = 0.0) -> list[Entry]:
    """A home's state: 1 to 20 devices, none twice and often several of a kind; fewer where `hard` is below 1.

    `others` is the share of devices in places that only state messages know.
    """
    few = rng.random() < FEW_KINDS
    size = rng.randrange(2, 9) if few else max(1, round(rng.choice(SIZES) * (0.4 + 0.6 * hard)))
    home: dict[str, Entry] = {}
    weights = [DEVICES[d].weight for d in VALUES]
    favourites = rng.choices(
        list(PLURALS), [DEVICES[d].weight for d in PLURALS], k=rng.choice([1, 1, 2] if few else [0, 1, 1, 2, 3])
    )
    crowded = 0.9 if few else rng.choice([0.4, 0.7])
    while len(home) < size:
        device = rng.choices(list(VALUES), weights)[0]
        if favourites and rng.random() < crowded:
            device = rng.choice(favourites)
        entry = Entry(device, random_room(device, rng, others), random_value(device, rng))
        if device not in NEVER_ROOMED and any(
            e.device == device and (e.room is None or entry.room is None) for e in home.values()
        ):
            continue
        home.setdefault(entry.name, entry)
    return list(home.values())


def message(home: list[Entry]) -> str:
    """The system message for a home."""
    return "state: " + "; ".join(f"{e.name} {be(e.device)} {e.said}" for e in home)

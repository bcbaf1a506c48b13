"""What a home has: devices, what can be set on each, rooms, and the words people use for them."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from typing import Any


def _words(text: str) -> list[str]:
    """Read "gym|library" style lists."""
    return text.split("|")


ROOMS: dict[str, list[str]] = {
    "kitchen": ["kitchen", "kitchen", "kitchen", "kitchenette"],
    "living room": ["living room", "living room", "living room", "lounge", "sitting room", "livingroom", "family room"],
    "bedroom": ["bedroom", "bedroom", "bedroom", "bed room"],
    "master bedroom": ["master bedroom", "main bedroom"],
    "guest room": ["guest room", "guest bedroom", "spare room", "guestroom"],
    "kids room": ["kids room", "kids' room", "children's room", "kid's room", "kids bedroom", "childrens room"],
    "nursery": ["nursery", "baby's room", "baby room"],
    "bathroom": ["bathroom", "bathroom", "bath", "toilet", "washroom", "restroom"],
    "hallway": ["hallway", "hall", "corridor", "hallway"],
    "entrance": ["entrance", "entryway", "entry", "foyer"],
    "office": ["office", "study", "home office", "office"],
    "dining room": ["dining room", "dining area", "dining room"],
    "garage": ["garage"],
    "basement": ["basement", "cellar", "basement"],
    "attic": ["attic", "loft"],
    "laundry room": ["laundry room", "laundry", "utility room"],
    "garden": ["garden", "yard", "backyard", "back yard"],
    "porch": ["porch"],
    "patio": ["patio", "terrace", "deck"],
    "balcony": ["balcony"],
    "stairs": ["stairs", "staircase", "stairway"],
    "upstairs": ["upstairs"],
    "downstairs": ["downstairs"],
}
DOORS = ["front door", "back door", "side door", "patio door", "balcony door"]
DOOR_WORDS = {
    "front door": ["front door", "front door", "front door", "main door", "entrance door"],
    "back door": ["back door", "back door", "backdoor", "rear door"],
    "side door": ["side door"],
    "patio door": ["patio door", "terrace door"],
    "balcony door": ["balcony door"],
}
# Rooms with a door of their own; the entrance's is the front door.
OUTSIDE = {"garden", "porch", "patio", "balcony"}
INSIDE = [r for r in ROOMS if r not in OUTSIDE | {"upstairs", "downstairs", "stairs", "hallway", "entrance"}]
# Places that only a state message names, so that names are looked up there and not known by heart.
OTHER_PLACES = _words(
    "gym|library|studio|workshop|sauna|cinema|barn|shed|cabin|tent|chapel|bar|lobby|lab|pantry|closet|wardrobe|den"
    "|annex|conservatory|greenhouse|pool|pool house|boat|carport|driveway|roof|tower|cloakroom|mud room|games room"
    "|sun room|storage room|boiler room|server room|meeting room|waiting room|reception|warehouse|shop|stable"
    "|veranda|courtyard|gallery|landing|first floor|second floor|top floor|left wing|right wing|north room"
    "|south room|east room|west room|blue room|red room|green room|yellow room|white room|small room|big room"
    "|back room|front room|corner room|room one|room two|room three|room 4|room 12|zone 1|zone 2|zone 3|anna's room"
    "|ben's room|carla's room|david's room|emma's room|felix's room|grandma's room|jonas's room|lena's room"
    "|max's room|mia's room|nora's room|oscar's room|paul's room|sara's room|tom's room|shelf|sofa|couch|stove"
    "|piano|fridge|aquarium|terrarium|bookcase|fireplace|sink|counter|island|vanity|path|fence|tree|pond|fountain"
    "|bench|mailbox|ramp|dock|pier|camper|caravan|van"
)
LIVING = ["kitchen", "living room", "bedroom", "master bedroom", "guest room", "kids room", "nursery", "office"]
LIVING += ["dining room", "basement", "attic"]
COLORS = ["white", "warm white", "cool white", "red", "green", "blue", "yellow", "orange", "purple", "pink"]
COLORS += ["turquoise", "cyan", "magenta", "violet", "lime", "teal", "gold", "amber"]


@dataclass(frozen=True)
class Device:
    """One kind of device.

    `words` are (singular, plural) pairs, `sets` maps what can be set to a value kind, `weight` is how often it is
    talked about.
    """

    words: list[tuple[str, str]]
    sets: dict[str, str]
    rooms: list[str]
    weight: float = 1.0


def _pairs(text: str) -> list[tuple[str, str]]:
    """Read "lamp lamps|bulb bulbs" style lists; an underscore stands for a space."""
    return [tuple(w.replace("_", " ") for w in pair.split()) for pair in text.split("|")]  # type: ignore[misc]


DEVICES: dict[str, Device] = {
    "light": Device(
        _pairs(
            "light lights|light lights|light lights|light lights|lamp lamps|lamp lamps|light lights|bulb bulbs"
            "|ceiling_light ceiling_lights|lighting lights|light_bulb light_bulbs|overhead_light overhead_lights"
        ),
        {"on": "bool", "brightness": "percent", "color": "color"},
        list(ROOMS),
        6.0,
    ),
    "thermostat": Device(
        _pairs(
            "thermostat thermostats|thermostat thermostats|heating heating|heating heating|heater heaters"
            "|radiator radiators|heat heat|temperature temperatures|central_heating central_heating"
        ),
        {"on": "bool", "temperature": "degrees"},
        [*LIVING, "bathroom", "hallway", "upstairs", "downstairs"],
        3.0,
    ),
    "ac": Device(
        _pairs(
            "ac acs|air_conditioning air_conditioning|air_conditioner air_conditioners|aircon aircons|a/c a/cs|air_con air_con"
        ),
        {"on": "bool", "temperature": "degrees"},
        LIVING,
        1.3,
    ),
    "lock": Device([], {"locked": "bool"}, [*DOORS, *INSIDE], 2.2),
    "garage door": Device(_pairs("garage_door garage_doors|garage garages"), {"open": "bool"}, [], 0.9),
    "gate": Device(_pairs("gate gates|driveway_gate driveway_gates|front_gate front_gates"), {"open": "bool"}, [], 0.4),
    "blinds": Device(
        _pairs(
            "blinds blinds|blinds blinds|blind blinds|curtains curtains|curtain curtains|shades shades|shade shades"
            "|shutters shutters|drapes drapes|roller_blinds roller_blinds|left_curtain left_curtains|right_blind right_blinds"
            "|roller_shutters roller_shutters|venetian_blinds venetian_blinds"
        ),
        {"open": "bool", "position": "percent"},
        [*LIVING, "bathroom", "balcony", "patio", "upstairs", "downstairs"],
        2.4,
    ),
    "window": Device(
        _pairs("window windows|window windows|skylight skylights"),
        {"open": "bool"},
        [*LIVING, "bathroom", "hallway", "upstairs", "downstairs"],
        0.8,
    ),
    "fan": Device(
        _pairs("fan fans|fan fans|ceiling_fan ceiling_fans|ventilator ventilators"),
        {"on": "bool", "speed": "speed"},
        [*LIVING, "bathroom"],
        1.6,
    ),
    "tv": Device(
        _pairs("tv tvs|tv tvs|television televisions|telly tellies|tv tvs|tv_set tv_sets"),
        {"on": "bool", "volume": "percent", "muted": "bool", "channel": "channel"},
        ["living room", "bedroom", "kitchen", "kids room", "master bedroom", "guest room", "office", "basement"],
        1.8,
    ),
    "speaker": Device(
        _pairs(
            "speaker speakers|speaker speakers|stereo stereos|sound_system sound_systems|music music|radio radios|bluetooth_speaker bluetooth_speakers|music_player music_players"
        ),
        {"on": "bool", "playing": "bool", "volume": "percent", "muted": "bool", "track": "track"},
        [*LIVING, "bathroom", "patio", "garage", "garden"],
        2.6,
    ),
    "plug": Device(
        _pairs(
            "plug plugs|smart_plug smart_plugs|outlet outlets|socket sockets|power_outlet power_outlets"
            "|smart_socket smart_sockets|wall_socket wall_sockets|wemo wemos|wemo_plug wemo_plugs|smart_outlet smart_outlets"
            "|power_strip power_strips"
        ),
        {"on": "bool"},
        [*LIVING, "bathroom", "garage", "hallway", "laundry room"],
        0.8,
    ),
    "vacuum": Device(
        _pairs(
            "vacuum vacuums|robot_vacuum robot_vacuums|vacuum_cleaner vacuum_cleaners|hoover hoovers|robot robots"
            "|vacuum_robot vacuum_robots|roomba roombas|robot_cleaner robot_cleaners|robot_vacuum_cleaner robot_vacuum_cleaners"
        ),
        {"running": "bool", "docked": "bool"},
        [*LIVING, "hallway", "upstairs", "downstairs"],
        1.1,
    ),
    "alarm": Device(
        _pairs("alarm alarms|alarm_system alarm_systems|security_system security_systems|burglar_alarm burglar_alarms"),
        {"armed": "bool"},
        [],
        1.0,
    ),
    "oven": Device(_pairs("oven ovens"), {"on": "bool", "temperature": "hot"}, [], 0.7),
    "coffee maker": Device(
        _pairs(
            "coffee_maker coffee_makers|coffee_machine coffee_machines|espresso_machine espresso_machines"
            "|coffee_pot coffee_pots"
        ),
        {"on": "bool"},
        ["kitchen", "office"],
        1.0,
    ),
    "kettle": Device(_pairs("kettle kettles"), {"on": "bool"}, ["kitchen", "office"], 0.35),
    "dishwasher": Device(_pairs("dishwasher dishwashers|dish_washer dish_washers"), {"on": "bool"}, [], 0.35),
    "washing machine": Device(_pairs("washing_machine washing_machines|washer washers"), {"on": "bool"}, [], 0.35),
    "humidifier": Device(
        _pairs("humidifier humidifiers"), {"on": "bool"}, ["bedroom", "living room", "nursery", "office"], 0.3
    ),
    "air purifier": Device(
        _pairs("air_purifier air_purifiers|purifier purifiers"),
        {"on": "bool"},
        ["bedroom", "living room", "nursery", "office"],
        0.3,
    ),
    "sprinklers": Device(
        _pairs("sprinklers sprinklers|sprinkler sprinklers|irrigation irrigation"), {"on": "bool"}, ["garden"], 0.4
    ),
    "timer": Device(
        _pairs("timer timers"),
        {"seconds": "count", "minutes": "count", "hours": "count", "on": "bool"},
        [],
        2.4,
    ),
    "all": Device([("everything", "everything")], {"on": "bool"}, ["all", *ROOMS], 0.5),
}
CHANGES = {
    "light": ["brightness"],
    "thermostat": ["temperature"],
    "ac": ["temperature"],
    "fan": ["speed"],
    "tv": ["volume"],
    "speaker": ["volume"],
}


@dataclass(frozen=True)
class Action:
    """One thing to do; `change` means value is "up", "down" or a signed step, otherwise it is the value to set."""

    device: str
    room: str | None
    attr: str
    value: bool | int | float | str
    change: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The action in the documented key order."""
        room = {"room": self.room} if self.room else {}
        return {"device": self.device, **room, "change" if self.change else "set": self.attr, "value": self.value}

    @property
    def combo(self) -> str:
        """The combination this action counts as: device, room and attribute."""
        return f"{self.device}/{self.room}/{self.attr}"

    @property
    def kind(self) -> str:
        """Device and attribute, without the room."""
        return f"{self.device}.{self.attr}"


def answer(actions: list[Action]) -> str:
    """The one line the model must answer."""
    return json.dumps({"actions": [a.as_dict() for a in actions]}, separators=(",", ":"))


def _bucket(text: str, size: int) -> int:
    return hashlib.sha256(text.encode()).digest()[0] % size


def held_combo(device: str, room: str | None, attr: str) -> bool:
    """Whether (device, room, attr) is kept out of training.

    Only named rooms are, and not those, such as the front door, that belong to one device alone: kept out, they would
    never be seen at all.
    """
    if room not in ROOMS or device == "sprinklers":
        return False
    return _bucket(f"{device}/{room}/{attr}", 12) == 0


def held_pair(first: str, second: str) -> bool:
    """Whether two kinds of action, such as light.on and lock.locked, never meet in one training conversation."""
    return first != second and _bucket("+".join(sorted((first, second))), 10) == 0


def pick_value(kind: str, rng: random.Random) -> bool | int | float | str:
    """A value to set."""
    if kind == "bool":
        return rng.random() < 0.5
    if kind == "percent":
        plain = [rng.randrange(0, 101, 10), rng.randrange(5, 101, 5), rng.randrange(1, 101)]
        return rng.choice([*plain, 50, 100, 1, rng.choice([25, 75])])
    if kind == "degrees":
        if rng.random() < 0.22:
            return rng.randrange(31, 91)
        return rng.randrange(10, 31) + (0.5 if rng.random() < 0.12 else 0)
    if kind == "hot":
        return rng.choice([rng.randrange(100, 261, 10), rng.randrange(200, 451, 25)])
    if kind == "speed":
        return rng.choice(["low", "medium", "high", rng.randrange(10, 101, 10), rng.randrange(5, 101, 5)])
    if kind == "color":
        return rng.choice(COLORS)
    if kind == "track":
        return rng.choice(["next", "previous"])
    if kind == "channel":
        return rng.randrange(1, 100) if rng.random() < 0.8 else rng.randrange(100, 1000)
    return rng.choice([rng.randrange(1, 13), rng.randrange(1, 61), 5 * rng.randrange(1, 13)])


def pick_duration(unit: str, rng: random.Random) -> int:
    """A timer's seconds, minutes or hours: of those that are longer than the next unit, as people say them."""
    if unit == "hours":
        return rng.choice([1, 1, 2, 2, 3, rng.randrange(1, 13)])
    if rng.random() < 0.62:
        return int(pick_value("count", rng))
    whole = rng.choice([1, 1, 1, 2, 2, 3, rng.randrange(1, 6)])
    return 60 * whole + rng.choice([5, 10, 15, 15, 20, 30, 30, 30, 40, 45, 45, 50, rng.randrange(1, 60)])

"""The JSON Schema of an answer to a command, made from the device table so that the two cannot part."""

from __future__ import annotations

import json
import re
from typing import Any

from .devices import CHANGES, COLORS, DEVICES, DOOR_WORDS, DOORS, ROOMS
from .grammar import listed
from .other import REFUSAL

_WORD = r"[^\s\"\\\x00-\x1f]{1,24}"
_PLACE = rf"^{_WORD}( {_WORD}){{0,4}}$"  # a place of no list is kept as it was said: a few words

_VALUES: dict[str, dict[str, Any]] = {
    "bool": {"type": "boolean"},
    "percent": {"type": "integer", "minimum": 0, "maximum": 100},
    "degrees": {"type": "number"},
    "hot": {"type": "integer"},
    "speed": {"anyOf": [{"enum": ["low", "medium", "high"]}, {"type": "integer", "minimum": 0, "maximum": 100}]},
    "color": {"enum": COLORS},
    "track": {"enum": ["next", "previous"]},
    "channel": {"type": "integer", "minimum": 1},
    "count": {"type": "integer", "minimum": 1},
}


def _case(device: str, verb: str, attr: str, value: dict[str, Any]) -> dict[str, Any]:
    properties = {"device": {"const": device}, "room": {"$ref": "#/$defs/room"}, verb: {"const": attr}, "value": value}
    return {"properties": properties, "required": ["device", verb, "value"], "additionalProperties": False}


def _cases() -> list[dict[str, Any]]:
    step = {"anyOf": [{"enum": ["up", "down"]}, {"type": "number"}]}
    sets = [_case(d, "set", a, _VALUES[k]) for d, spec in DEVICES.items() for a, k in spec.sets.items()]
    return sets + [_case(d, "change", a, step) for d, attrs in CHANGES.items() for a in attrs]


SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "edgelm-home answer to a command",
    "type": "object",
    "properties": {"actions": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/action"}}},
    "required": ["actions"],
    "additionalProperties": False,
    "$defs": {
        "room": {"type": "string", "pattern": _PLACE, "examples": ["all", *ROOMS, *DOORS]},
        "action": {"type": "object", "oneOf": _cases()},
    },
}

_TRUE = "(true|false)"
_WHOLE = "(0|[1-9][0-9]{0,4})"
_NUMBER = rf"-?{_WHOLE}([.][0-9]{{1,2}})?"
_PERCENT = "(0|[1-9][0-9]?|100)"
_WRITTEN = {
    "bool": _TRUE,
    "percent": _PERCENT,
    "degrees": _NUMBER,
    "hot": _WHOLE,
    "speed": rf'("low"|"medium"|"high"|{_PERCENT})',
    "color": '"(' + "|".join(COLORS) + ')"',
    "track": '"(next|previous)"',
    "channel": "[1-9][0-9]{0,4}",
    "count": "[1-9][0-9]{0,4}",
}


def _action_pattern(device: str) -> str:
    sets = [rf'"set":"{a}","value":{_WRITTEN[k]}' for a, k in DEVICES[device].sets.items()]
    sets += [rf'"change":"{a}","value":("up"|"down"|{_NUMBER})' for a in CHANGES.get(device, [])]
    return rf'"device":"{device}"(,"room":"{_PLACE[1:-1]}")?,({"|".join(sets)})'


def pattern() -> str:
    """A regular expression of every answer there is: actions, a sentence about the state, the refusal.

    In the syntax that Python and Rust share, for a grammar that holds the model to it.
    """
    action = r"\{(" + "|".join(map(_action_pattern, DEVICES)) + r")\}"
    actions = rf'\{{"actions":\[{action}(,{action})*\]\}}'
    # Of at most twenty devices: a model that begins to repeat itself comes to an end.
    part = r"[^{},\x00-\x1f]"
    sentence = rf"(The|No|All) {part}{{1,90}}(, {part}{{1,99}}){{0,19}}[.]"
    return rf"{actions}|{sentence}|{re.escape(REFUSAL).replace(chr(92) + ' ', ' ')}"


# Words that are left out where several places are named at once: "the living and dining room lights".
_KINDS = {"room", "area", "bedroom", "door"}
_EVERYWHERE = ["all", "every", "each", "everything", "everywhere", "anywhere", "whole", "entire", "throughout", "both"]
_EVERYWHERE += ["house", "home", "apartment", "flat", "building", "place"]
# With these no place begins or ends, and some only end none: "play corner" and "tv room" are places, "play" and "tv" are not.
_BETWEEN = listed(
    "a|an|the|in|on|at|to|of|and|or|then|with|from|by|for|as|but|so|if|than|is|are|be|was|were|it|its|it's|this"
    "|that|these|those|there|here|please|can|could|would|will|shall|may|you|your|i|i'm|i'd|we|us|me|he|she|they"
    "|them|not|no|don't|do|does|did|has|have|had|when|while|because|just|also|too|again|now|off|turn|turned|switch"
    "|switched|set|put|make|get|give|let|mute|unmute|pause|raise|dim|unlock|want|need|uh|um"
)
_ENDING = listed(
    "my|our|her|his|their|all|every|each|both|up|down|on|lower|open|close|closed|shut|lock|play|start|stop|light"
    "|lights|lamp|lamps|bulb|bulbs|heating|heat|heater|thermostat|temperature|ac|aircon|fan|fans|tv|tvs|telly"
    "|television|speaker|speakers|stereo|music|volume|sound|plug|plugs|outlet|socket|blinds|blind|curtains|shades"
    "|vacuum|alarm|humidifier|purifier|brightness|percent|degrees|thanks|dude|mate|pal|love|dear|one's"
)
_HEARD = {"living room": ["launch"]}  # as a speech recogniser may write it


def grounding() -> dict[str, Any]:
    """What places may be named: those that are spoken of, by the words people use for them."""
    values = {"all": _EVERYWHERE}
    for name, words in [*ROOMS.items(), *DOOR_WORDS.items()]:
        pairs = [word.split() for word in (name, *words)]
        first = [pair[0] for pair in pairs if len(pair) == 2 and pair[1] in _KINDS]
        values[name] = list(dict.fromkeys([name, *words, *first, *_HEARD.get(name, [])]))
    return {"key": "room", "values": values, "not_first": _BETWEEN, "not_last": _BETWEEN + _ENDING}


def _fits(value: Any, rule: dict[str, Any]) -> bool:
    """Whether a value fits the few JSON Schema keywords that the schema's values use."""
    if "anyOf" in rule:
        return any(_fits(value, r) for r in rule["anyOf"])
    if "const" in rule or "enum" in rule:
        return value in rule.get("enum", [rule.get("const")])
    if rule["type"] == "string":
        return isinstance(value, str) and bool(re.search(rule["pattern"], value))
    if rule["type"] == "boolean":
        return isinstance(value, bool)
    if isinstance(value, bool) or not isinstance(value, int if rule["type"] == "integer" else (int, float)):
        return False
    return bool(rule.get("minimum", value) <= value <= rule.get("maximum", value))


def matching_cases(action: dict[str, Any]) -> list[dict[str, Any]]:
    """The schema's cases that an action fits; exactly one should."""
    found = []
    for case in SCHEMA["$defs"]["action"]["oneOf"]:
        properties = case["properties"] | {"room": SCHEMA["$defs"]["room"]}
        known = set(action) <= set(properties) and set(case["required"]) <= set(action)
        if known and all(_fits(v, properties[k]) for k, v in action.items()):
            found.append(case)
    return found


def actions_of(answer: str) -> list[dict[str, Any]] | None:
    """The actions of an answer to a command; None where it is not JSON of the schema."""
    try:
        parsed = json.loads(answer)
    except ValueError:
        return None
    if not isinstance(parsed, dict) or list(parsed) != ["actions"] or not isinstance(parsed["actions"], list):
        return None
    actions = parsed["actions"]
    whole = all(isinstance(a, dict) and len(matching_cases(a)) == 1 for a in actions)
    return actions if actions and whole else None

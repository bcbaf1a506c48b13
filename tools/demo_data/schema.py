"""The JSON Schema of an answer to a command, made from the device table so that the two cannot part."""

from __future__ import annotations

from typing import Any

from .devices import CHANGES, COLORS, DEVICES, DOORS, ROOMS

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
        "room": {"enum": ["all", *ROOMS, *DOORS]},
        "action": {"type": "object", "oneOf": _cases()},
    },
}

"""A target as the text of its file."""

from __future__ import annotations

import json
from typing import Any

from edgelm.target.rates import Rates
from edgelm.target.target import Target


def target_text(target: Target) -> str:
    """The whole file, without comments."""
    facts = target.to_dict()
    lines = [f"{key} = {toml_value(facts[key])}" for key in ("name", "description", "board", "default") if key in facts]
    tables = {name: facts[name] for name in ("cpu", "memory", "runtime")}
    tables |= {f"recipe.{name}": recipe for name, recipe in facts["recipe"].items()}
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {toml_value(value)}" for key, value in table.items())]
    return "\n".join([*lines, *([] if target.rates is None else ["", *rates_lines(target.rates)])]) + "\n"


def rates_lines(rates: Rates) -> list[str]:
    """The table ``[rates]`` with those below it."""
    facts = rates.to_dict()
    below = {name: facts.pop(name) for name in ("spread", "error_percent", "products") if name in facts}
    lines = ["[rates]", *(f"{key} = {toml_value(value)}" for key, value in facts.items())]
    for name, table in below.items():
        lines += ["", f"[rates.{name}]", *(f"{toml_value(key)} = {toml_value(value)}" for key, value in table.items())]
    return lines


def toml_value(value: Any) -> str:
    """A TOML value; JSON's strings, numbers and lists are TOML's too. Four figures of a number are enough for a file."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, float):
        return json.dumps(float(f"{value:.4g}"))
    if isinstance(value, str):
        value = "".join(c if c.isprintable() else " " for c in value)
    return json.dumps(value, ensure_ascii=False)

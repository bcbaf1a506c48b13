"""The table of models.toml: which models edgelm knows by name, and what `edgelm estimate` says of them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from edgelm import demo

_HERE = Path(__file__).parent
# From the least memory for a model to the most; a phone is no board that one buys for a model, and a PC is none at all.
BOARDS = ("rpi-zero2w", "rpi4", "rpi5", "jetson-orin-nano", "x86-64")


@dataclass(frozen=True)
class Expected:
    """What to expect of a model in a target's default recipe and context; see `edgelm estimate`.

    Attributes:
        quant, context: the recipe, and the longest prompt plus answer in tokens.
        decode, prefill: tokens per second, behind and over a short prompt.
        memory: bytes with the context full.
        bundle: bytes on disk, about.
        fits: whether the target has that memory.
    """

    quant: str
    context: int
    decode: float
    prefill: float
    memory: int
    bundle: int
    fits: bool


@dataclass(frozen=True)
class Model:
    """A model that has a name.

    Attributes:
        name: what it is called here.
        id: on the hub; that of the model that comes with edgelm is its name.
        parameters: how many.
        licence: SPDX's name, or the one that is used for it.
        about: what it is good for.
        terms: whether its licence must be accepted on the hub before it can be downloaded.
        shape: what config.json says of its shape.
    """

    name: str
    id: str
    parameters: int
    licence: str
    about: str
    terms: bool = False
    shape: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def embedded(self) -> bool:
        """Whether it comes with edgelm."""
        return self.id == demo.NAME

    def expected(self, target: str) -> Expected | None:
        """In the default recipe of a target that comes with edgelm; None for another target."""
        found = _figures().get(self.name, {}).get(target)
        return None if found is None else Expected(**found)

    @property
    def smallest(self) -> str | None:
        """The smallest board that has the memory for it."""
        return next((board for board in BOARDS if (found := self.expected(board)) and found.fits), None)


@cache
def models() -> tuple[Model, ...]:
    """All of them, in the order of their size."""
    table = tomllib.loads((_HERE / "models.toml").read_text(encoding="utf-8"))
    return tuple(Model(**entry) for entry in table["model"])


def names() -> list[str]:
    """Their names."""
    return [model.name for model in models()]


def find(name: str) -> Model | None:
    """The model of that name, or with that id on the hub, or its last part; None where there is none. Upper and lower case
    are the same.
    """
    wanted = name.lower()
    return next((m for m in models() if wanted in (m.name, m.id.lower(), m.id.lower().rpartition("/")[2])), None)


@cache
def _figures() -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = json.loads((_HERE / "figures.json").read_text(encoding="utf-8"))
    return found

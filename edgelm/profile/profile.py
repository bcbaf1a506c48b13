"""A device profile: the settings that were measured best for models of a shape on a machine, and what for.

It belongs to the machine (its processor, the CPUs that the process may use) and to the shape of the model (layers, sizes,
formats), so that a fine-tune of a model runs by the profile of the model. Neither weights nor texts are in it.
"""

from __future__ import annotations

import hashlib
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgelm.bundle.json_table import COUNT, JsonTable, plain
from edgelm.bundle.manifest import Manifest
from edgelm.errors import ProfileError
from edgelm.machine.host import CpuInfo
from edgelm.profile.settings import Settings

VERSION = 1
HINT = "tune again: edgelm tune BUNDLE"
Goal = Literal["speed", "energy", "sustained"]
GOALS: tuple[Goal, ...] = typing.get_args(Goal)
_DIGITS = 12  # of a key
_RATE = (0.0, 1e12)


@dataclass(frozen=True)
class Gain:
    """What a phase gained.

    Attributes:
        rate: tokens a second with the profile, the median; `before` that with the settings it replaces.
        ratio: of what was tuned for, with the profile over before; 1 where nothing better was found.
        low, high: where the ratio is, with 95 % confidence; None where it was not compared.
        joules, joules_before: a token; None where they were not measured.
    """

    rate: float
    before: float
    ratio: float = 1.0
    low: float | None = None
    high: float | None = None
    joules: float | None = None
    joules_before: float | None = None

    @classmethod
    def read(cls, table: JsonTable) -> Gain:
        """From JSON."""

        def told(name: str) -> float | None:
            return float(table.number(name, *_RATE)) if table.has(name) else None

        rate, before, ratio = (float(table.number(name, *_RATE)) for name in ("rate", "before", "ratio"))
        return cls(rate, before, ratio, told("low"), told("high"), told("joules"), told("joules_before"))


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A profile.

    Attributes:
        goal: what it was tuned for.
        machine, shape: whose it is; see `machine_key` and `shape_key`.
        board: the machine's name, or None.
        model, quant, bundle: what it was measured with, the bundle by its digest.
        edgelm, onnxruntime: versions.
        at: when, in UTC.
        settings: the best.
        before: those without a profile.
        gains: of the phases ``decode`` and ``prefill``.
        seconds: that the search took.
        tried: how many settings it measured.
    """

    goal: Goal
    machine: str
    shape: str
    board: str | None
    model: str
    quant: str
    bundle: str
    edgelm: str
    onnxruntime: str
    at: str
    settings: Settings
    before: Settings
    gains: Mapping[str, Gain] = field(default_factory=dict)
    seconds: float = 0.0
    tried: int = 0

    @property
    def id(self) -> str:
        """A name for results: the goal, and eight digits that are others for other settings."""
        facts = [self.machine, self.shape, self.goal, self.settings.to_dict()]
        return f"{self.goal}-{_digest(facts)[:8]}"

    @classmethod
    def read(cls, data: Mapping[str, Any], path: Path) -> Profile:
        """From JSON.

        Raises:
            ProfileError: it is none, or of a newer edgelm.
        """
        table = JsonTable(path, data, error=ProfileError, hint=HINT)
        version = table.integer("version", *COUNT)
        if version != VERSION:
            table.fail("version", f"is {version}: the profile is of a newer edgelm")
        texts = {name: table.text(name) for name in ("machine", "shape", "model", "quant", "bundle", "edgelm", "at")}
        goal = typing.cast(Goal, table.text("goal", GOALS))
        gains = {name: Gain.read(gain) for name, gain in table.each("gains").items()}
        return cls(
            goal=goal,
            board=table.text("board") if table.has("board") else None,
            onnxruntime=table.text("onnxruntime"),
            settings=Settings.read(table.table("settings")),
            before=Settings.read(table.table("before")),
            gains=gains,
            seconds=float(table.number("seconds", *_RATE)),
            tried=table.integer("tried", *COUNT),
            **texts,
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"version": VERSION, "id": self.id, **plain(self)}


def machine_key(cpu: CpuInfo) -> str:
    """What a profile must share with a machine: its processor, and the CPUs that this process may use."""
    cores = [[core.index, core.name, core.capacity, core.max_khz, sorted(core.siblings)] for core in cpu.cores]
    return _digest([cpu.arch, cpu.model, cores, sorted(cpu.allowed), cpu.quota, cpu.emulated])


def shape_key(manifest: Manifest) -> str:
    """What a profile must share with a bundle: sizes and formats, on which speed depends, and no weights."""
    return _digest([manifest.model.parameters, plain(manifest.graph), plain(manifest.recipe), manifest.provider])


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:_DIGITS]

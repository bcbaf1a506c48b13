"""A row of the atlas: one test of one bundle on one machine, with all that its figures depend on."""

from __future__ import annotations

import datetime
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from edgelm.bundle.json_table import shown
from edgelm.errors import ResultsError

_NO_REPORT, _HINT = "this is no report of edgelm bench", "edgelm bench BUNDLE -o json"
_LARGEST = 1e18


@dataclass(frozen=True)
class Row:
    """A test; None for what was not told.

    Attributes:
        run: the benchmark it is of; `at` when, in UTC; `place` where: ``here``, or what --on was given.
        board, arch, cores, emulated: the machine.
        model, target, quant, bundle, adapter: the bundle, by its digest.
        edgelm, onnxruntime, python, provider, threads, prefill_threads, packed, profile: what it ran on.
        test, n_prompt, n_gen, n_depth, repetitions: what was measured.
        avg_ts, stddev_ts, unreliable: tokens a second.
        ttft_seconds, effective_gbs, load_seconds: as in the report.
        joules_per_token, gross_joules_per_token, power_source, idle_watts: energy.
        celsius_start, celsius_end, throttled_share: heat.
        peak_memory_bytes, anonymous_memory_bytes: memory.
    """

    run: str
    at: str
    place: str
    board: str | None
    arch: str | None
    cores: int | None
    emulated: bool
    model: str
    target: str
    quant: str
    bundle: str | None
    adapter: str | None
    edgelm: str
    onnxruntime: str
    python: str | None
    provider: str
    threads: int
    prefill_threads: int | None
    packed: bool
    profile: str | None
    test: str
    n_prompt: int
    n_gen: int
    n_depth: int
    repetitions: int
    avg_ts: float
    stddev_ts: float
    unreliable: bool
    ttft_seconds: float | None
    effective_gbs: float | None
    load_seconds: float
    joules_per_token: float | None
    gross_joules_per_token: float | None
    power_source: str | None
    idle_watts: float | None
    celsius_start: float | None
    celsius_end: float | None
    throttled_share: float | None
    peak_memory_bytes: int | None
    anonymous_memory_bytes: int | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON and tables, in the order above."""
        return {name: getattr(self, name) for name in COLUMNS}


COLUMNS = tuple(field.name for field in fields(Row))
_TYPES: dict[str, Any] = typing.get_type_hints(Row)


def sql_type(column: str) -> str:
    """How SQLite declares a column."""
    kind = _plain(_TYPES[column])
    name = "TEXT" if kind is str else "REAL" if kind is float else "INTEGER"
    return name if _optional(column) else f"{name} NOT NULL"


def from_values(values: Mapping[str, Any]) -> Row:
    """A row of the file; SQLite has no booleans, and holds whatever it is given.

    Raises:
        ResultsError: a value is not of its kind.
    """
    found = {n: bool(v) if _plain(_TYPES[n]) is bool and v in (0, 1) else v for n, v in values.items()}
    return _checked(found, "this row is damaged", None)


def of_report(report: Mapping[str, Any], run: str, at: str, place: str) -> list[Row]:
    """The rows of a report, as ``edgelm bench -o json`` writes it.

    Raises:
        ResultsError: it is none.
    """
    sensors, memory = _table(report, "sensors"), _table(report, "memory")
    heat = _table(sensors, "temperature_celsius")
    results = report.get("results")
    if not isinstance(results, list) or not results or not all(isinstance(test, dict) for test in results):
        raise ResultsError(f"{_NO_REPORT}: it has no results", hint=_HINT)
    shared = {
        **{name: report.get(name) for name in COLUMNS},
        "run": run,
        "at": at,
        "place": place,
        "board": report.get("cpu"),
        "bundle": report.get("bundle_sha256"),
        "emulated": report.get("emulated", False),
        "packed": report.get("packed", False),
        "power_source": sensors.get("power_source"),
        "idle_watts": sensors.get("idle_watts"),
        "celsius_start": heat.get("start"),
        "celsius_end": heat.get("end"),
        "throttled_share": sensors.get("throttled_share"),
        "peak_memory_bytes": memory.get("peak"),
        "anonymous_memory_bytes": memory.get("anonymous"),
    }
    tests = ({k: v for k, v in test.items() if k in COLUMNS} for test in results)
    return [_checked(shared | test, _NO_REPORT, _HINT) for test in tests]


def _checked(values: dict[str, Any], problem: str, hint: str | None) -> Row:
    """A row whose values are of their kinds, and such as can be reckoned with and stored."""
    for name in COLUMNS:
        value, kind = values.get(name), _plain(_TYPES[name])
        if value is None and _optional(name):
            continue
        if name == "unreliable" and value is None:
            values[name] = False
        elif kind in (int, float) and isinstance(value, (int, kind)) and _is_figure(value):
            values[name] = kind(value)
        elif type(value) is not kind or kind in (int, float) or (kind is str and not _is_text(name, value)):
            raise ResultsError(f"{problem}: {name} is {shown(value)}", hint=hint)
    return Row(**values)


def _is_figure(value: Any) -> bool:
    """Whether it is a number that can be squared, and stored as 64 bits."""
    return not isinstance(value, bool) and abs(value) <= _LARGEST  # nan is not


def _is_text(name: str, value: Any) -> bool:
    """Whether it can be stored and shown; `at` is a time that has a zone."""
    try:
        value.encode()
        return "\0" not in value and (name != "at" or datetime.datetime.fromisoformat(value).tzinfo is not None)
    except ValueError:
        return False


def _optional(name: str) -> bool:
    return isinstance(_TYPES[name], types.UnionType)


def _plain(kind: Any) -> type:
    """The type, without ``| None``."""
    found: type = (
        next(t for t in typing.get_args(kind) if t is not type(None)) if isinstance(kind, types.UnionType) else kind
    )
    return found


def _table(table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = table.get(key)
    return value if isinstance(value, dict) else {}

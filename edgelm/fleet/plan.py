"""The plan of a fleet: a TOML file of boards, groups of them, bundles and settings; docs/how-to/fleet.md describes it.

What a board says of itself counts before what its groups say, the last one first, and that before what the plan says.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from edgelm.bench.sustained import duration
from edgelm.bundle.reader import Bundle
from edgelm.errors import EdgeLMError, FleetError, OptionError, near
from edgelm.files import expanded, read_text
from edgelm.remote.place import parse
from edgelm.target.table import Table
from edgelm.target.toml_lines import key_lines

HERE = "here"  # the place that is this machine
_LONGEST = 1 << 20  # bytes of a plan
_TOP = ("name", "parallel", "retries", "retry_delay", "give_up", "timeout", "boards", "groups", "settings")
_OWN = ("bundles", "use", "runs", "keep", "wheels")  # of the plan, a group or a board
_BENCH = (
    "n_prompt",
    "n_gen",
    "n_depth",
    "repetitions",
    "threads",
    "prefill_threads",
    "sustained",
    "seed",
    "sensors",
    "profile",
)
_TUNE = ("tune", "tune_time")
_GOALS = ("speed", "energy", "sustained")
_HINT = "docs/how-to/fleet.md has an example"

Find = Callable[[str], Path | None]
"""The folder of a bundle that is named and not a path; None where there is none."""


@dataclass(frozen=True)
class Settings:
    """How `edgelm bench` is called; None for its defaults.

    Attributes:
        name: of the settings in the plan.
        n_prompt, n_gen, n_depth, repetitions, threads, prefill_threads, sustained, seed: its options.
        sensors: whether heat and power are read.
        profile: whether the board's device profile is taken, if it has one.
        tune: what the board is tuned for before it is measured, by `edgelm tune`; None for nothing.
        tune_time: about how long that may take.
    """

    name: str
    n_prompt: tuple[int, ...] | None = None
    n_gen: tuple[int, ...] | None = None
    n_depth: tuple[int, ...] | None = None
    repetitions: int | None = None
    threads: int | None = None
    prefill_threads: int | None = None
    sustained: str | None = None
    seed: int | None = None
    sensors: bool = True
    profile: bool = True
    tune: str | None = None
    tune_time: str | None = None

    def facts(self) -> dict[str, Any]:
        """What a figure depends on, and is not as it is by default; the name is none of it."""
        return {f.name: value for f in fields(self)[1:] if (value := getattr(self, f.name)) != f.default}

    def args(self) -> list[str]:
        """Options of the command line."""
        found = [f"--no-{name}" for name in _BENCH[-2:] if not getattr(self, name)]
        for name in _BENCH[:-2]:
            value = getattr(self, name)
            if value is not None:
                text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
                found += [f"--{name.replace('_', '-')}", text]
        return found

    def tune_args(self) -> list[str] | None:
        """Options of `edgelm tune`; None where the board is not tuned."""
        if self.tune is None:
            return None
        return ["--for", self.tune, *(["--time", self.tune_time] if self.tune_time is not None else [])]


@dataclass(frozen=True)
class Board:
    """A board of the plan.

    Attributes:
        name: in the plan.
        place: as --on takes it, or ``here``.
        groups: that it is of.
        bundles: to measure there.
        settings: to measure them with.
        runs: how often each is measured, as a job of its own.
        keep: whether bundles stay on the board.
        wheels: a folder to take its wheels from, or None for the network.
    """

    name: str
    place: str
    groups: tuple[str, ...]
    bundles: tuple[Bundle, ...]
    settings: tuple[Settings, ...]
    runs: int
    keep: bool
    wheels: Path | None


@dataclass(frozen=True)
class Plan:
    """What is to be measured, and how patiently.

    Attributes:
        path: of the file.
        name: of the plan; results belong to it.
        boards: in the order of the file.
        parallel: boards at a time.
        retries: of a job, or of connecting, that fails; `retry_delay` seconds before the first, twice as long each time.
        give_up: failed jobs, one after the other, after which a board is left alone.
        timeout: seconds that a try of a job may take.
    """

    path: Path
    name: str
    boards: tuple[Board, ...]
    parallel: int
    retries: int
    retry_delay: float
    give_up: int
    timeout: float


def read_plan(path: Path, find: Find = lambda name: None) -> Plan:
    """Read a plan.

    Args:
        path: of the file; paths in it are relative to its folder.
        find: finds bundles by name.

    Raises:
        FleetError: it cannot be read, or something in it is wrong; the line is named.
    """
    top = _table(path)
    top.only((*_TOP, *_OWN))
    defined = {name: _settings(top.table("settings").table(name), name) for name in _names(top, "settings")}
    groups = {name: top.table("groups").table(name) for name in _names(top, "groups")}
    for group in groups.values():
        group.only(_OWN)
    boards = [_board(top.table("boards"), name, top, groups, defined, find) for name in _names(top, "boards")]
    if not boards:
        top.fail("boards", "is missing: a plan has one board or more")
    places = dict[str, str]()
    for board in boards:
        if (other := places.setdefault(board.place, board.name)) != board.name:
            top.table("boards").table(board.name).fail("place", f"is that of {other}, too: {board.place}")
    return Plan(
        path,
        top.string("name") if "name" in top.data else path.stem,
        tuple(boards),
        top.integer("parallel", 1, 1000) if "parallel" in top.data else len(boards),
        top.integer("retries", 0, 100) if "retries" in top.data else 2,
        top.number("retry_delay", 0, 3600) if "retry_delay" in top.data else 10.0,
        top.integer("give_up", 1, 1000) if "give_up" in top.data else 2,
        _time(top, "timeout") if "timeout" in top.data else 3600.0,
    )


def _table(path: Path) -> Table:
    try:
        text = read_text(path, _LONGEST)
    except OSError as error:
        raise FleetError(f"{path} cannot be read: {error.strerror or error}", hint=_HINT) from None
    except ValueError as error:
        raise FleetError(f"{str(path)!r} is not a text file: {error}", hint=_HINT) from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, _, place = str(error).partition(" (at ")
        line = re.match(r"line (\d+)", place)
        where = line[1] if line else len(text.splitlines()) or 1
        raise FleetError(f"{path}:{where}: {message[:1].lower()}{message[1:]}", hint="not valid TOML") from None
    return Table(path, key_lines(text), (), data, _HINT, "a plan", FleetError)


def _names(top: Table, key: str) -> Iterator[str]:
    """The names of tables inside a table, which may be missing."""
    if key in top.data:
        for name in top.table(key).data:
            if not name.isprintable() or not name.strip():
                top.table(key).fail(name, "is no name")
            yield name


def _board(
    boards: Table,
    name: str,
    top: Table,
    groups: Mapping[str, Table],
    defined: Mapping[str, Settings],
    find: Find,
) -> Board:
    table = boards.table(name)
    table.only(("place", "groups", *_OWN))
    place = table.string("place")
    if place != HERE:
        try:
            parse(place)
        except OptionError:
            table.fail("place", f"names no board: {place!r}", "ssh:USER@HOST, adb:SERIAL, emulate:TARGET or here")
    of = table.strings("groups") if "groups" in table.data else ()
    for group in of:
        if group not in groups:
            table.fail("groups", f"has {group!r}, which is no group", near(group, groups, listing="groups"))
    owners = [table, *(groups[group] for group in reversed(of)), top]

    def owner(key: str) -> Table | None:
        return next((owner for owner in owners if key in owner.data), None)

    return Board(
        name,
        place,
        of,
        _bundles(owner("bundles") or table, find),
        _chosen(owner("use"), defined),
        runs.integer("runs", 1, 1000) if (runs := owner("runs")) is not None else 1,
        keep.flag("keep") if (keep := owner("keep")) is not None else False,
        _folder(wheels) if (wheels := owner("wheels")) is not None else None,
    )


def _bundles(table: Table, find: Find) -> tuple[Bundle, ...]:
    names = table.strings("bundles")
    if not names:
        table.fail("bundles", "is empty")
    found = []
    for name in names:
        path = table.file.absolute().parent / expanded(name)
        if not path.exists():
            path = find(name) or path
        try:
            found.append(Bundle.open(path))
        except EdgeLMError as error:
            table.fail("bundles", f"has {name!r}: {error}", error.hint)
    return tuple(found)


def _chosen(table: Table | None, defined: Mapping[str, Settings]) -> tuple[Settings, ...]:
    """Those that are named, else all; where there are none, those of `edgelm bench` alone."""
    if table is None:
        return tuple(defined.values()) or (Settings("default"),)
    names = table.strings("use")
    for name in names:
        if name not in defined:
            table.fail("use", f"has {name!r}, which are no settings", near(name, defined, listing="settings"))
    if not names:
        table.fail("use", "is empty")
    return tuple(defined[name] for name in names)


def _settings(table: Table, name: str) -> Settings:
    table.only((*_BENCH, *_TUNE))
    values: dict[str, Any] = {key: _counts(table, key) for key in _BENCH[:3] if key in table.data}
    values |= {key: table.integer(key, 1, 10_000) for key in _BENCH[3:6] if key in table.data}
    for key in ("sustained", "tune_time"):
        if key in table.data:
            _time(table, key)
            values[key] = table.string(key)
    if "tune" in table.data:
        values["tune"] = table.string("tune", _GOALS)
    elif "tune_time" in table.data:
        table.fail("tune_time", "is for tune, which is missing", 'tune = "speed"')
    if "seed" in table.data:
        values["seed"] = table.integer("seed", 0, 2**31)
    values |= {key: table.flag(key) for key in ("sensors", "profile") if key in table.data}
    return Settings(name, **values)


def _counts(table: Table, key: str) -> tuple[int, ...]:
    """A number of tokens, or a list of them."""
    value = table.data[key]
    values: Sequence[Any] = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= 1 << 20 for v in values):
        table.fail(key, "must be a whole number of tokens, or a list of them")
    return tuple(values)


def _time(table: Table, key: str) -> float:
    try:
        return duration(table.string(key))
    except OptionError as error:
        table.fail(key, f"is no time: {error}", error.hint)


def _folder(table: Table) -> Path:
    path = table.file.absolute().parent / expanded(table.string("wheels"))
    if not path.is_dir():
        table.fail("wheels", f"is no folder: {path}")
    return path

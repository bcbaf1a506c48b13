"""The file: ``$XDG_DATA_HOME/edgelm/results.sqlite3``, by default under ``~/.local/share``.

A row of `results` is a test; `runs` keeps the whole report, `bundles` the manifest of what was measured, by its digest, so
that a board's rates can be found from the file alone. EDGELM_RESULTS names another file, or is ``off``.
"""

from __future__ import annotations

import datetime
import json
import os
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelm.bundle.json_table import parse_json
from edgelm.errors import ResultsError
from edgelm.results.row import COLUMNS, Row, from_values, of_report, sql_type

SWITCH = "EDGELM_RESULTS"
_OFF = ("off", "0", "no", "false")
_MOVE = f"move it away, or let {SWITCH} name another file"
_VERSION = 2
_PATIENCE = 10.0  # seconds that another process may hold the file
_SCHEMA = f"""
CREATE TABLE runs (run TEXT PRIMARY KEY, at TEXT NOT NULL, place TEXT NOT NULL, report TEXT NOT NULL);
CREATE TABLE bundles (bundle TEXT PRIMARY KEY, manifest TEXT NOT NULL);
CREATE TABLE results (id INTEGER PRIMARY KEY, {", ".join(f'"{name}" {sql_type(name)}' for name in COLUMNS)});
CREATE INDEX results_run ON results (run);
"""


@dataclass(frozen=True)
class Filter:
    """Which rows: those of a model whose name holds `model`, of a board, a test, a run; None for any."""

    model: str | None = None
    board: str | None = None
    test: str | None = None
    run: str | None = None
    limit: int | None = None


def default_path() -> Path | None:
    """The user's file, or None where it is switched off, or there is no home."""
    named = os.environ.get(SWITCH, "").strip()
    if named.lower() in _OFF:
        return None
    if named:
        return Path(named)
    base = os.environ.get("XDG_DATA_HOME") or ""
    try:
        return (Path(base) if os.path.isabs(base) else Path.home() / ".local/share") / "edgelm" / "results.sqlite3"
    except RuntimeError:
        return None


@dataclass(frozen=True)
class Store:
    """The file; made when the first run is added."""

    path: Path

    @classmethod
    def default(cls) -> Store:
        """The user's.

        Raises:
            ResultsError: it is switched off.
        """
        if (path := default_path()) is None:
            raise ResultsError("no results are kept", hint=f"unset {SWITCH}, or let it name a file")
        return cls(path)

    def add(self, report: Mapping[str, Any], manifest: Mapping[str, Any] | None, place: str = "here") -> str:
        """Keep a report of `edgelm bench`.

        Args:
            report: as its JSON.
            manifest: of the bundle, or None where that is not at hand.
            place: where it was measured.

        Returns:
            the run's name, eight letters and digits.

        Raises:
            ResultsError: it is no report, or the file cannot be written.
        """
        run, at = uuid.uuid4().hex[:8], datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        rows = of_report(report, run, at, place)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResultsError(f"{self.path.parent} cannot be made: {error.strerror}") from None
        with self._open(make=True) as database:
            database.execute("INSERT INTO runs VALUES (?, ?, ?, ?)", (run, at, place, json.dumps(report)))
            if manifest is not None and rows[0].bundle is not None:
                entry = (rows[0].bundle, json.dumps(manifest))
                database.execute("INSERT OR IGNORE INTO bundles VALUES (?, ?)", entry)
            names = ", ".join(f'"{name}"' for name in COLUMNS)
            marks = ", ".join("?" * len(COLUMNS))
            values = [tuple(row.to_dict().values()) for row in rows]
            database.executemany(f"INSERT INTO results ({names}) VALUES ({marks})", values)
        return run

    def remove(self, run: str) -> int:
        """Take a run away; how many tests it had.

        Raises:
            ResultsError: there is no such run, or the file cannot be written.
        """
        gone = 0
        if self.path.exists():
            with self._open(make=True) as database:
                gone = database.execute("DELETE FROM results WHERE run = ?", (run,)).rowcount
                database.execute("DELETE FROM runs WHERE run = ?", (run,))
        if not gone:
            raise ResultsError(f"no run {run!r} in {self.path}", hint="see: edgelm results list")
        return gone

    def rows(self, which: Filter = Filter()) -> list[Row]:
        """The rows that a filter lets through, the oldest first; `limit` keeps the newest."""
        wanted, values = [], list[Any]()
        for column, value, like in (
            ("model", which.model, True),
            ("board", which.board, True),
            ("test", which.test, False),
            ("run", which.run, False),
        ):
            if value is not None:
                wanted.append(f"instr(lower({column}), lower(?)) > 0" if like else f"{column} = ?")
                values.append(value)
        where = f"WHERE {' AND '.join(wanted)}" if wanted else ""
        names = ", ".join(f'"{name}"' for name in COLUMNS)
        query = f"SELECT {names} FROM results {where} ORDER BY id DESC LIMIT ?"
        found = self._read(query, [*values, -1 if which.limit is None else which.limit])
        try:
            return [from_values(dict(zip(COLUMNS, row, strict=True))) for row in reversed(found)]
        except ResultsError as error:
            raise ResultsError(f"{self.path} cannot be used: {error}", hint=_MOVE) from None

    def report(self, run: str) -> dict[str, Any]:
        """The whole report of a run.

        Raises:
            ResultsError: there is no such run.
        """
        found = self._read("SELECT report FROM runs WHERE run = ?", [run])
        if not found:
            raise ResultsError(f"no run {run!r} in {self.path}", hint="see: edgelm results list")
        return self._object(found[0][0])

    def tagged(self, table: str, key: str) -> dict[str, str]:
        """The runs whose report has a table with this key, by the key's value; the newest of each."""
        place = f"$.{table}.{key}"
        query = "SELECT json_extract(report, ?), run FROM runs WHERE json_extract(report, ?) IS NOT NULL ORDER BY rowid"
        return {str(value): run for value, run in self._read(query, [place, place])}

    def manifests(self) -> dict[str, dict[str, Any]]:
        """The manifests of the bundles measured, by their digest."""
        return {digest: self._object(text) for digest, text in self._read("SELECT bundle, manifest FROM bundles", [])}

    def _object(self, text: Any) -> dict[str, Any]:
        """A JSON object that the file holds."""
        data = text if isinstance(text, bytes) else str(text).encode()
        return parse_json(data, self.path, error=ResultsError, hint=_MOVE)

    def _read(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        if not self.path.exists():
            return []
        with self._open(make=False) as database:
            return database.execute(query, values).fetchall()

    @contextmanager
    def _open(self, *, make: bool) -> Iterator[sqlite3.Connection]:
        """The database; what is done in the block is done as a whole or not at all."""
        try:
            database = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)
        except sqlite3.Error as error:
            raise ResultsError(f"{self.path} cannot be opened: {error}") from None
        try:
            database.execute("BEGIN IMMEDIATE" if make else "BEGIN")
            _migrate(database, self.path, make=make)
            yield database
            database.execute("COMMIT")
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # or SQLite's own words are no UTF-8
            raise ResultsError(f"{self.path} cannot be used: {error}", hint=_MOVE) from None
        finally:
            database.close()  # rolls back what was not committed


def _migrate(database: sqlite3.Connection, path: Path, *, make: bool) -> None:
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > _VERSION:
        raise ResultsError(f"{path} is of a newer edgelm", hint="pip install --upgrade edgelm")
    if version == 0:
        if database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise ResultsError(f"{path} is another program's database", hint=f"let {SWITCH} name another file")
        for statement in filter(str.strip, _SCHEMA.split(";")):
            database.execute(statement)
    elif version == 1:  # before there were device profiles
        database.execute("ALTER TABLE results ADD COLUMN profile TEXT")
    if version != _VERSION:
        database.execute(f"PRAGMA user_version = {_VERSION}")


def keep(
    report: Mapping[str, Any], manifest: Mapping[str, Any] | None, place: str, warn: Callable[[str], None]
) -> str | None:
    """Add a report to the user's file, if there is one; a failure is a warning, as the figures are there all the same."""
    path = default_path()
    if path is None:
        return None
    try:
        return Store(path).add(report, manifest, place)
    except ResultsError as error:
        warn(f"the result is not kept: {error}")
        return None

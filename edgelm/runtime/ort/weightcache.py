"""The cache of prepacked weights: a folder of the user's, an entry for each bundle, onnxruntime and processor.

    ~/.cache/edgelm/weights/        or $XDG_CACHE_HOME/edgelm/weights
        <key>/entry.json            what it belongs to, and what its files must be
        <key>/graph.onnx            the graph as onnxruntime optimised it
        <key>/packed.bin            the prepacked weights

An entry is written aside, forced to disk and renamed. When it is used, the graph's SHA-256, and the size and time of the
large file, are compared with entry.json; onnxruntime compares every packed byte (see `packing`). An entry that has no
graph says that there is nothing to gain. The time of entry.json tells when an entry was used last: the one unused for
longest goes first when room is needed. Nothing here is an error to the user: without the cache a model runs as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import stat
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelm.bundle.reader import DATA, Bundle, sha256
from edgelm.errors import OptionError
from edgelm.files import open_regular, read_bytes, sweep_matching, temporary_folder, to_disk
from edgelm.json_text import json_value
from edgelm.machine.host import CpuInfo

SWITCH, LIMIT = "EDGELM_WEIGHT_CACHE", "EDGELM_WEIGHT_CACHE_MB"
DEFAULT_MB = 4096
SMALLEST = 32 << 20  # bytes of weights from which the cache is of use
_LAYOUT = 3  # raised when older entries must not be used, or other graphs are written
_OFF = ("0", "off", "no", "false")
_RECORD, _PARTIAL = "entry.json", ".partial-"
_LONGEST_RECORD = 1 << 20  # bytes
_SPARE = 256 << 20  # bytes, and a share of the disk, that stay free
_SPARE_SHARE = 20
_TOUCH = 3600  # seconds between two writes of the time of use: flash memory wears


@dataclass(frozen=True)
class Entry:
    """An entry.

    Attributes:
        folder: where it is.
        facts: entry.json.
    """

    folder: Path
    facts: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Entry | None:
        """The entry in a folder; None where there is none."""
        try:
            facts = json_value(read_bytes(folder / _RECORD, _LONGEST_RECORD))
        except (OSError, ValueError):
            return None
        return cls(folder, facts) if isinstance(facts, dict) and isinstance(facts.get("files"), dict) else None

    @property
    def useful(self) -> bool:
        """False for one which says that there is nothing to gain."""
        return bool(self.facts["files"])

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    @property
    def used(self) -> float:
        """When it was used last, in seconds since 1970."""
        return (self.folder / _RECORD).stat().st_mtime

    def sound(self) -> bool:
        """Whether its files seem to be those that were written; the large one by its size and time."""
        return self.problem(whole=False) is None

    def problem(self, *, whole: bool = True, on_bytes: Callable[[int], None] = lambda count: None) -> str | None:
        """What is wrong with its files, or None.

        Args:
            whole: read all of them.
            on_bytes: is called with the size of every piece read.
        """
        try:
            for name, wanted in self.facts["files"].items():
                path = self.folder / name
                found = path.stat()
                if found.st_size != wanted["bytes"]:
                    return f"{name} has {found.st_size:,} bytes and should have {wanted['bytes']:,}"
                if "sha256" in wanted and sha256(path, on_bytes) != wanted["sha256"]:
                    return f"{name} was changed: its SHA-256 is another"
                if "mtime_ns" in wanted and found.st_mtime_ns != wanted["mtime_ns"]:
                    return f"{name} was changed: its time is another"
                if whole and "crc32" in wanted and _crc32(path, on_bytes) != wanted["crc32"]:
                    return f"{name} is damaged: its checksum is another"
        except OSError as error:
            return f"{error.filename} cannot be read: {error.strerror or error}"
        except (KeyError, TypeError, AttributeError):
            return f"{_RECORD} is damaged"
        return None

    def touch(self) -> None:
        """Note that it is used now."""
        with contextlib.suppress(OSError):
            if time.time() - self.used > _TOUCH:
                os.utime(self.folder / _RECORD)

    def remove(self) -> None:
        """Take it away; whoever has its files mapped keeps them."""
        with contextlib.suppress(OSError):
            (self.folder / _RECORD).unlink()  # first: half an entry is none
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class WeightCache:
    """The cache.

    Attributes:
        folder: where entries are.
        limit: bytes that they may take in all.
    """

    folder: Path
    limit: int = DEFAULT_MB * 10**6

    @classmethod
    def default(cls) -> WeightCache | None:
        """The user's, as the environment says; None where it is switched off or the user has no folder.

        Raises:
            OptionError: EDGELM_WEIGHT_CACHE_MB is no number.
        """
        if not switched_on():
            return None
        folder, limit = user_folder(), limit_bytes()
        return None if folder is None or limit == 0 else cls(folder, limit)

    def entries(self) -> list[Entry]:
        """All entries, the one unused for longest first."""
        try:
            found = [Entry.read(path) for path in self.folder.iterdir() if not path.name.startswith(".")]
            return sorted((entry for entry in found if entry is not None), key=lambda entry: entry.used)
        except OSError:
            return []

    def find(self, key: str) -> Entry | None:
        """The entry of a key, if it is sound; one that is not is removed."""
        if not _own(self.folder):
            return None
        entry = Entry.read(self.folder / key)
        if entry is not None and entry.facts.get("layout") == _LAYOUT and entry.sound():
            entry.touch()
            return entry
        if (self.folder / key).is_dir():
            Entry(self.folder / key, {}).remove()
        return None

    @contextlib.contextmanager
    def making(self, key: str, size: int) -> Iterator[Path | None]:
        """An empty folder to make the entry in; whatever goes wrong, nothing half-made stays.

        Args:
            key: of the entry.
            size: bytes that it will take, about.

        Yields:
            the folder; None where there is no room, no permission, or another process is making the same.
        """
        made: Path | None = None
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if _own(self.folder) and not self._sweep(key) and self._has_room(size):
                    made = stack.enter_context(temporary_folder(self.folder, f"{_PARTIAL}{key}-"))
            yield made

    def commit(self, made: Path, key: str, facts: Mapping[str, Any], checksums: Mapping[str, int]) -> Entry:
        """Make the files in `made` the entry of a key.

        Args:
            made: as `making` gave it.
            key: of the entry.
            facts: for entry.json.
            checksums: name → CRC-32 of each large file; others are small, and hashed.

        Raises:
            OSError: the folder cannot be written.
        """
        files: dict[str, dict[str, Any]] = {}
        for path in sorted(made.iterdir()):
            to_disk(path)
            found, name = path.stat(), path.name
            files[name] = {"bytes": found.st_size}
            if name in checksums:
                files[name] |= {"mtime_ns": found.st_mtime_ns, "crc32": checksums[name]}
            else:
                files[name]["sha256"] = sha256(path)
        facts = {"layout": _LAYOUT, **facts, "files": files}
        (made / _RECORD).write_text(json.dumps(facts, indent=2) + "\n")
        to_disk(made / _RECORD)
        to_disk(made)
        try:
            made.rename(self.folder / key)
        except OSError:
            existing = Entry.read(self.folder / key)  # another process was faster
            if existing is None:
                raise
            return existing
        to_disk(self.folder)
        entry = Entry(self.folder / key, facts)
        self.shrink(self.limit, keep=entry)
        return entry

    def shrink(self, limit: int, *, keep: Entry | None = None) -> list[Entry]:
        """Remove entries, the one unused for longest first, until they take `limit` bytes at most.

        Returns:
            what was removed.
        """
        removed, entries = [], self.entries()
        sizes = [_size(entry) for entry in entries]
        total = sum(sizes)
        for entry, size in zip(entries, sizes, strict=True):
            if total <= limit:
                break
            if keep is None or entry.folder != keep.folder:
                entry.remove()
                removed.append(entry)
                total -= size
        return removed

    def sweep(self) -> None:
        """Remove what processes left behind that were killed."""
        with contextlib.suppress(OSError):
            self._sweep(None)

    def _sweep(self, key: str | None) -> bool:
        """Remove what was left behind; whether a process is making the entry of `key`."""
        held = sweep_matching(self.folder, re.escape(_PARTIAL) + ".*")
        return key is not None and any(path.name.startswith(f"{_PARTIAL}{key}-") for path in held)

    def _has_room(self, size: int) -> bool:
        """Make room for `size` bytes beneath the limit, and see whether the disk has them to spare."""
        disk = shutil.disk_usage(self.folder)
        spare = max(_SPARE, disk.total // _SPARE_SHARE)
        if size > self.limit or disk.free + sum(map(_size, self.entries())) < size + spare:
            return False
        self.shrink(self.limit - size)
        return shutil.disk_usage(self.folder).free >= size + spare


def user_folder() -> Path | None:
    """``$XDG_CACHE_HOME/edgelm/weights``, by default under ``~/.cache``; None for a user without a home."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    try:
        return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "edgelm" / "weights"
    except RuntimeError:
        return None


def worth(bundle: Bundle) -> bool:
    """Whether a bundle's prepacked weights are worth caching: enough of them, on the CPU, and the bundle whole."""
    data = bundle.files.get(DATA)
    if data is None or data.bytes < SMALLEST or bundle.manifest.provider != "cpu":
        return False
    return all(entry.sha256 for entry in bundle.files.values())  # one that is being made has no hashes yet


def expected_size(bundle: Bundle) -> int:
    """Bytes that an entry will take, by the manifest's figures."""
    return bundle.manifest.memory.packed_bytes or 2 * bundle.files[DATA].bytes


def entry_key(bundle: Bundle, onnxruntime: str, cpu: CpuInfo) -> str:
    """The name of an entry: the same for what can share prepacked weights.

    Threads are no part of it: kernels pack alike on any number of them. An emulated core has features of its own.
    """
    made_of = [_LAYOUT, bundle.digest, onnxruntime, *_processor(cpu)]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:32]


def describe(bundle: Bundle, onnxruntime: str, cpu: CpuInfo) -> dict[str, Any]:
    """What an entry belongs to, for entry.json."""
    return {
        "model": bundle.manifest.model.id,
        "quant": bundle.manifest.quant,
        "bundle": bundle.digest,
        "path": os.path.realpath(bundle.path),
        "onnxruntime": onnxruntime,
        "cpu": " ".join(filter(None, (cpu.arch, cpu.model or cpu.core))),
    }


def _processor(cpu: CpuInfo) -> list[Any]:
    features = None if cpu.features is None else sorted(cpu.features)
    return [cpu.arch, cpu.model, features, sorted({core.name or "" for core in cpu.cores})]


def switched_on() -> bool:
    """Whether the environment leaves the cache on."""
    return os.environ.get(SWITCH, "").strip().lower() not in _OFF


def limit_bytes() -> int:
    """What the environment lets all entries take, in bytes; 0 is none.

    Raises:
        OptionError: EDGELM_WEIGHT_CACHE_MB is no number.
    """
    text = os.environ.get(LIMIT, "").strip()
    try:
        value = float(text) if text else float(DEFAULT_MB)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise OptionError(f"{LIMIT} must be a number of MB, not {text!r}", hint="0 does without the cache")
    return int(value * 1e6)


def _own(folder: Path) -> bool:
    """Whether a folder is this user's and nobody else may write to it: what is in it gets run."""
    try:
        found = folder.stat()
    except OSError:
        return False
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _size(entry: Entry) -> int:
    try:
        return entry.size
    except OSError:  # removed meanwhile
        return 0


def _crc32(path: Path, on_bytes: Callable[[int], None]) -> int:
    crc = 0
    with open_regular(path) as file:
        while piece := file.read(1 << 22):
            crc = zlib.crc32(piece, crc)
            on_bytes(len(piece))
    return crc

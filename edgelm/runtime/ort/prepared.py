"""A bundle's sessions with prepacked weights from the cache, which the first load makes."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelm.bundle.reader import Bundle
from edgelm.files import read_bytes
from edgelm.machine.heap import give_back
from edgelm.machine.host import CpuInfo
from edgelm.runtime.ort.options import DEFAULTS, LoadOptions
from edgelm.runtime.ort.packing import GRAPH, PACKED, OnBytes, moved, open_packed, pack
from edgelm.runtime.ort.session import NO_SPINNING, version
from edgelm.runtime.ort.weightcache import Entry, WeightCache, describe, entry_key, expected_size, worth
from edgelm.runtime.ort.workers import Workers


@dataclass(frozen=True)
class Prepared:
    """Sessions, and the cache's folder whose weights they have mapped."""

    sessions: list[Any]
    folder: Path


def open_prepared(
    bundle: Bundle, cache: WeightCache, cpu: CpuInfo, workers: Sequence[Workers], options: LoadOptions = DEFAULTS
) -> Prepared | None:
    """A session for each set of threads, all on the same mapped weights.

    An entry that onnxruntime refuses is made anew once.

    Args:
        bundle: the bundle.
        cache: where prepacked weights are kept.
        cpu: this machine's.
        workers: of each session: the first, and perhaps a second one for prefill.
        options: how the bundle is loaded.

    Returns:
        them; None where they must be opened without the cache.
    """
    if not worth(bundle):
        return None
    key = entry_key(bundle, version(), cpu)
    entry = cache.find(key)
    if entry is not None:
        if not entry.useful:
            return None
        found = _open(entry, bundle, workers, options.disable_spinning)
        if found is not None:
            return found
        entry.remove()
    entry = _make(bundle, cache, key, cpu, options.on_bytes)
    if entry is None or not entry.useful:
        return None
    found = _open(entry, bundle, workers, options.disable_spinning)
    if found is None:  # so it would be the next time
        entry.remove()
        _give_up(bundle, cache, key, cpu)
    return found


def _make(bundle: Bundle, cache: WeightCache, key: str, cpu: CpuInfo, on_bytes: OnBytes | None) -> Entry | None:
    """A new entry; None where there can be none now."""
    with contextlib.suppress(OSError), cache.making(key, expected_size(bundle)) as made:
        if made is None:
            return None
        try:
            packed = pack(bundle.model_path, made, cache.folder / key, on_bytes)
        except (OSError, MemoryError):
            return None
        except Exception:  # what onnxruntime raises, and what makes no sense of the graph
            packed = None
        if packed is None or not packed.matrices:
            for path in made.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        facts = describe(bundle, version(), cpu) | {"folder": os.path.realpath(cache.folder / key)}
        return cache.commit(made, key, facts, {} if packed is None else {PACKED: packed.crc32})
    return None


def _give_up(bundle: Bundle, cache: WeightCache, key: str, cpu: CpuInfo) -> None:
    """Remember that there is nothing to gain."""
    with contextlib.suppress(OSError), cache.making(key, 0) as made:
        if made is not None:
            cache.commit(made, key, describe(bundle, version(), cpu), {})


def _open(entry: Entry, bundle: Bundle, workers: Sequence[Workers], disable_spinning: bool) -> Prepared | None:
    try:
        graph = read_bytes(entry.folder / GRAPH)
        graph = moved(graph, Path(entry.facts["path"]), bundle.path)
        graph = moved(graph, Path(entry.facts["folder"]), entry.folder)
        entries: list[dict[str, str]] = [
            NO_SPINNING if disable_spinning else {},
            NO_SPINNING,
        ]  # the second is for prefill
        sessions = [open_packed(graph, each, **own) for each, own in zip(workers, entries, strict=False)]
    except Exception:  # onnxruntime's exceptions have no public base class; any is a reason to do without
        return None
    give_back()  # what packing took to compare
    return Prepared(sessions, entry.folder)

"""Beginnings of prompts that outlive a restart: the system prompt, tools and entities that conversations share.

What two conversations with the same system prompt and tools have in common is a beginning. Its keys and values are
written to a file once nobody is waiting, and loaded with the model the next time.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import takewhile
from pathlib import Path

from edgelm.errors import EdgeLMError, PromptCacheError
from edgelm.runtime.lm import LM
from edgelm.runtime.loop.request import rendering
from edgelm.serve.errors import LOG
from edgelm.serve.generation import Job
from edgelm.serve.pool import Served

SHORTEST = 64  # tokens; computing fewer takes no time worth a file
_FILES = 4  # of a bundle
_KNOWN = 64  # conversations' heads that are told apart


@dataclass
class _Head:
    """A system prompt with tools: the first conversation's turn after it, that prompt's ids, and the beginning once known."""

    turn: str
    ids: list[int]
    beginning: list[int] | None = None
    saved: bool = False


class Beginnings:
    """Finds beginnings, and keeps their files.

    Args:
        folder: of the files, which no one else may read; None keeps none.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._heads: OrderedDict[tuple[str, str], _Head] = OrderedDict()

    def note(self, lm: LM, job: Job) -> None:
        """Look at a conversation that begins; called from any thread."""
        if self._folder is None or isinstance(job.prompt, str) or job.score is not None or job.options.get("raw"):
            return
        messages = [message for message in job.prompt if isinstance(message, dict)]
        if len(messages) < 2 or len(str(messages[0].get("content"))) < SHORTEST:
            return
        key = job.model.name, _digest([messages[0], job.options.get("tools"), job.options.get("template_args")])
        turn, known = _digest(messages[1]), self._heads.get(key)
        if known is not None and (known.beginning is not None or known.turn == turn):
            return
        self._learn(lm, job, key, turn)

    def _learn(self, lm: LM, job: Job, key: tuple[str, str], turn: str) -> None:
        with contextlib.suppress(EdgeLMError):  # the request itself says what is wrong
            ids = lm.encode_prompt(job.prompt, how=rendering(job.options))
            with self._lock:
                head = self._heads.setdefault(key, _Head(turn, ids))
                if head.turn != turn and head.beginning is None:
                    head.beginning = _common(head.ids, ids)
                while len(self._heads) > _KNOWN:
                    self._heads.popitem(last=False)

    def save(self, model: Served, lm: LM) -> None:
        """Write the beginnings of a model that are in no file yet."""
        for head in self._unsaved(model):
            head.saved = True
            if head.beginning is not None and len(head.beginning) >= SHORTEST:
                self._write(lm, head.beginning)

    def waits(self, model: Served) -> bool:
        """Whether `save` has something to do."""
        return bool(self._unsaved(model))

    def _unsaved(self, model: Served) -> list[_Head]:
        with self._lock:
            return [h for (name, _), h in self._heads.items() if name == model.name and h.beginning and not h.saved]

    def load(self, lm: LM, most: int) -> None:
        """Load the beginnings of a bundle, at most so many, the most recent ones."""
        for path in reversed(self._files(lm)[-max(1, most - 1) :]):
            try:
                count = lm.load_beginning(path)
            except PromptCacheError as error:
                LOG.warning("%s", error)
                _remove(path)
            else:
                LOG.info("a beginning of %d tokens is in the cache", count)

    def _write(self, lm: LM, ids: list[int]) -> None:
        assert self._folder is not None
        path = self._folder / f"{lm.bundle.digest[:24]}-{_digest(ids)[:24]}.prompt"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.exists():
                path.touch()
                return
            count = lm.save_beginning(ids, path)
        except (OSError, EdgeLMError) as error:
            LOG.warning("a prompt's beginning could not be saved: %s", error)
            return
        if count:
            LOG.info("saved a beginning of %d tokens", count)
        for old in self._files(lm)[:-_FILES]:
            _remove(old)

    def _files(self, lm: LM) -> list[Path]:
        """Of a bundle, the oldest first."""
        if self._folder is None:
            return []
        found = self._folder.glob(f"{lm.bundle.digest[:24]}-*.prompt")
        return sorted(found, key=_written)


def _written(path: Path) -> float:
    """When a file was written; a link may lead nowhere, and a file be gone meanwhile."""
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def _remove(path: Path) -> None:
    """Take a file away; what cannot be, such as a folder, is passed over the next time as well."""
    with contextlib.suppress(OSError):
        path.unlink()


def _common(a: Sequence[int], b: Sequence[int]) -> list[int]:
    return [x for x, _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))]


def _digest(value: object) -> str:
    return sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()

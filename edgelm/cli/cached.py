"""``--prompt-cache FILE``: a session whose KV cache comes from a file and goes back to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgelm.cli.failures import say
from edgelm.errors import PromptCacheError

if TYPE_CHECKING:
    from edgelm.runtime.lm import LM
    from edgelm.runtime.loop.results import Timings


class CachedSession:
    """A session that begins with what is in a file.

    A file that is not there is made; one that is damaged, or of another bundle or adapter, is made anew; one that is no prompt
    cache is an error, and left alone.
    """

    def __init__(self, lm: LM, path: Path, adapter: Path | None = None) -> None:
        self.session = lm.session()
        self._path = path
        self._kept = False  # whether the file is sound
        if not path.exists():
            if not path.absolute().parent.is_dir():
                raise PromptCacheError(f"cannot write {path}: {path.absolute().parent} is not a folder")
            return
        try:
            self.session.load(path, adapter=adapter)
        except PromptCacheError as error:
            if not error.stale:
                raise
            say("note", f"{error}; it will be made anew")
        else:
            self._kept = True

    @classmethod
    def of(cls, lm: LM, path: Path | None, adapter: Path | None) -> CachedSession | None:
        """The session of that file; None without one."""
        return None if path is None else cls(lm, path, adapter)

    def save_prompt(self, timings: Timings) -> None:
        """Write the prompt's cache, unless nearly all of it is in the file: flash memory wears, and writing takes time."""
        new = timings.prompt_tokens - timings.cached_tokens
        count = min(timings.prompt_tokens, len(self.session.tokens))
        if count and (not self._kept or new > max(32, timings.prompt_tokens // 8)):
            self.session.save(self._path, tokens=count)

    def save(self) -> None:
        """Write all of the cache, where there is any."""
        if self.session.tokens:
            self.session.save(self._path)

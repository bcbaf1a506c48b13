"""The beginning of prompts that a bundle was exported with, read already: ``prompt.cache``, a prompt cache of its graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgelm.bundle.reader import PROMPT, Bundle
from edgelm.errors import BundleError, PromptCacheError
from edgelm.runtime.kv.prompt_cache import read

if TYPE_CHECKING:
    from edgelm.runtime.kv.cache import KVSnapshot


class CompiledPrompt:
    """What a bundle's ``prompt.cache`` holds.

    Attributes:
        tokens: the ids of the beginning.
    """

    def __init__(self, bundle: Bundle) -> None:
        """BundleError where the file is damaged, or of another graph; the checksums are compared with the first `load`."""
        self._path, self._tie, self._checked = bundle.path / PROMPT, tie(bundle), False
        try:
            self.tokens, _ = read(self._path, self._tie, check=False)
        except PromptCacheError as error:
            raise BundleError(str(error), hint="export the bundle again") from None

    @classmethod
    def of(cls, bundle: Bundle) -> CompiledPrompt | None:
        """A bundle's, or None for one without."""
        return cls(bundle) if PROMPT in bundle.files else None

    def load(self) -> KVSnapshot:
        """What the tokens left in the cache, mapped; it may be written to.

        Raises:
            PromptCacheError: the file is damaged.
        """
        _, snapshot = read(self._path, self._tie, check=not self._checked)
        self._checked = True
        return snapshot


def tie(bundle: Bundle) -> str:
    """What a bundle's prompt cache belongs to: the graph and its weights, since the bundle's own digest counts the cache."""
    return f"graph {bundle.graph_digest}"

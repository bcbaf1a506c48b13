"""A conversation whose KV cache outlives its turns, and the process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

from edgelm.errors import EdgeLMError, OptionError, PromptCacheError
from edgelm.runtime.loop.asynchronous import each
from edgelm.runtime.loop.chunks import reuse
from edgelm.runtime.loop.completions import complete
from edgelm.runtime.loop.request import Options
from edgelm.runtime.loop.results import Chunk, Completion
from edgelm.runtime.prefill import PREFILL_CHUNK, prefill_pieces
from edgelm.runtime.text.prompt import Prompt

if TYPE_CHECKING:
    from edgelm.runtime.engine import KVState
    from edgelm.runtime.lm import LM
    from edgelm.runtime.lora_adapter import RuntimeAdapter


class Session:
    """A conversation with a KV cache of its own. Made by `LM.session`; use it as a context manager, or call `close`.

    Every call takes the whole prompt, or all messages, and computes what is new in it: what it has in common with the
    text before, from the start on, is in the cache. Sessions of one LM take turns; none disturbs another's cache.
    """

    def __init__(self, lm: LM) -> None:
        self._lm = lm
        self._state: KVState | None = lm.engine.new_state()

    @property
    def tokens(self) -> Sequence[int]:
        """The ids whose keys and values are in the cache."""
        return tuple(self._open().tokens)

    def stream(self, prompt: Prompt, **options: Unpack[Options]) -> Generator[Chunk, None, None]:
        """Generate text piece by piece; see `LM.stream`."""
        return self._lm._run(self._lm._request(prompt, options, self._open()))

    @overload
    def generate(self, prompt: Prompt, *, n: None = None, **options: Any) -> Completion: ...

    @overload
    def generate(self, prompt: Prompt, *, n: int, **options: Any) -> list[Completion]: ...

    def generate(self, prompt: Prompt, *, n: int | None = None, **options: Any) -> Completion | list[Completion]:
        """Generate a whole text, or `n` of them; see `LM.generate`."""
        return complete(self.stream, self._lm.config, prompt, n, options)

    def astream(self, prompt: Prompt, **options: Unpack[Options]) -> AsyncGenerator[Chunk, None]:
        """`stream` for ``async for``; see `LM.astream`."""
        return each(self._lm._request(prompt, options, self._open()), self._lm._run)

    def prefill(self, prompt: Prompt, *, raw: bool = False, adapter: str | PathLike[str] | None = None) -> int:
        """Compute the cache of a prompt, and generate nothing.

        Returns:
            how many tokens had to be computed.
        """
        ids, chosen = self._lm.encode_prompt(prompt, raw=raw), self._lm.open_adapter(adapter)
        with self._lm._using(self._open()):
            engine = self._lm.engine
            engine.adapt(chosen)
            missing = ids[reuse(engine, ids) :]
            for piece, _ in prefill_pieces(missing, PREFILL_CHUNK, engine.rewinds):
                engine.forward(piece, 0)
        return len(missing)

    def save(self, path: str | PathLike[str], *, tokens: int | None = None) -> None:
        """Write the cache to a file, whole or not at all; a file that is there is replaced.

        Args:
            path: the file.
            tokens: only the first so many; None for all. A model with states may save some fewer.

        Raises:
            PromptCacheError: there is something other than a prompt cache, or it cannot be written.
        """
        from edgelm.runtime.kv.prompt_cache import write

        state = self._open()
        if tokens is not None and not 0 <= tokens <= len(state.tokens):
            raise OptionError(f"cannot save {tokens} tokens: the session holds {len(state.tokens)}")
        with self._lm._using(state):
            ids, kept = self._lm.engine.save(len(state.tokens) if tokens is None else tokens)
            write(Path(path), self._tie(state.adapter), ids, kept, self._lm.context)

    def load(self, path: str | PathLike[str], *, adapter: str | PathLike[str] | None = None) -> None:
        """Take over the cache in a file; it is mapped, and read where it is needed.

        Args:
            path: the file.
            adapter: that of the session that saved it, None for none.

        Raises:
            PromptCacheError: it is missing, damaged, or was saved with another bundle or adapter; the session is as it
                was.
            AdapterError: see `LM.open_adapter`.
        """
        from edgelm.runtime.kv.prompt_cache import read

        chosen = self._lm.open_adapter(adapter)
        ids, kept = read(Path(path), self._tie(chosen))
        if len(ids) > self._lm.context:
            raise PromptCacheError(
                f"{path} holds {len(ids):,} tokens, the context is {self._lm.context:,}",
                hint="delete it, or allow for more memory",
                stale=True,
            )
        with self._lm._using(self._open()):
            self._lm.engine.adapt(chosen)
            self._lm.engine.restore(ids, kept)

    def close(self) -> None:
        """Free the cache."""
        self._state = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tie(self, adapter: RuntimeAdapter | None) -> str:
        """What a file of this session's cache belongs to: the bundle, and the adapter where there is one."""
        digest = self._lm.bundle.digest
        return digest if adapter is None else f"{digest}+{adapter.digest}"

    def _open(self) -> KVState:
        if self._state is None:
            raise EdgeLMError("this session is closed")
        return self._state

"""A conversation whose KV cache outlives its turns, and the process."""

from __future__ import annotations

from functools import partial
from os import PathLike
from typing import TYPE_CHECKING

from edgelm.bundle.json_table import shown
from edgelm.errors import OptionError, PromptCacheError, expect_type
from edgelm.files import path_argument
from edgelm.runtime.loop.chunks import reuse
from edgelm.runtime.loop.text_generator import TextGenerator
from edgelm.runtime.text.prompt import Prompt, Rendering

if TYPE_CHECKING:
    from edgelm.runtime.loop.request import CancelEvent
    from edgelm.runtime.lora_adapter import RuntimeAdapter
    from edgelm.runtime.sample.logprobs import TokenLogprob


class Session(TextGenerator):
    """A conversation with a KV cache of its own. Made by `LM.session`; use it as a context manager, or call `close`.

    Every call takes the whole prompt, or all messages, and computes what is new in it: what it has in common with the
    text before, from the start on, is in the cache. Sessions of one LM take turns; none disturbs another's cache.
    """

    def prefill(
        self,
        prompt: Prompt,
        *,
        raw: bool = False,
        how: Rendering | None = None,
        adapter: str | PathLike[str] | None = None,
    ) -> int:
        """Compute the cache of a prompt, and generate nothing; the arguments are those of `LM.encode_prompt`.

        Returns:
            how many tokens had to be computed.
        """
        ids, chosen = self._requests.prompts.encode(prompt, raw=raw, how=how), self._requests.adapter(adapter)
        sequence = self._opened()
        with self._scheduler.alone(sequence=sequence):
            sequence.adapt(chosen)
            missing = ids[reuse(sequence, ids) :]
            sequence.prefill(missing, 0)
        return len(missing)

    def score(
        self,
        prompt: Prompt,
        *,
        top: int = 0,
        raw: bool = False,
        how: Rendering | None = None,
        cancel: CancelEvent | None = None,
    ) -> list[TokenLogprob]:
        """How likely the model holds a prompt, which is in the cache afterwards.

        Args:
            prompt, raw, how: as for `LM.encode_prompt`.
            top: how many of the most likely tokens are told for each place.
            cancel: ends it with an EdgeLMError once it is set.

        Returns:
            a record of each token, the first with a log-probability of NaN, as nothing stands before it; and one more,
                of the token most likely to follow.

        Raises:
            PromptError: as `LM.encode_prompt`.
        """
        from edgelm.runtime.loop.request import expect_event
        from edgelm.runtime.loop.scoring import score
        from edgelm.runtime.sample.logprobs import expect_top

        expect_top("top", top)
        expect_event(cancel)
        ids, sequence = self._requests.prompts.encode(prompt, raw=raw, how=how), self._opened()
        alone = partial(self._scheduler.alone, sequence=sequence)
        with alone():
            sequence.reset()
        return score(sequence, ids, self._requests.tokenizer, top, alone, cancel)

    def save(self, path: str | PathLike[str], *, tokens: int | None = None) -> None:
        """Write the cache to a file, whole or not at all; a file that is there is replaced.

        Args:
            path: the file.
            tokens: only the first so many; None for all. A model with states may save some fewer.

        Raises:
            PromptCacheError: there is something other than a prompt cache, or it cannot be written.
        """
        from edgelm.runtime.kv.prompt_cache import write

        file, sequence = path_argument("path", path), self._opened()
        if tokens is not None:
            expect_type("tokens", tokens, int, "a whole number or None")
            if not 0 <= tokens <= sequence.position:
                raise OptionError(f"cannot save {shown(tokens)} tokens: the session holds {sequence.position}")
        with self._scheduler.alone(sequence=sequence):
            ids, snapshot = sequence.save(sequence.position if tokens is None else tokens)
            write(file, self._tie(sequence.adapter), ids, snapshot, sequence.context)

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
        from edgelm.runtime.kv.prompt_cache import of_another_model, read

        file = path_argument("path", path)
        sequence, chosen = self._opened(), self._requests.adapter(adapter)
        ids, snapshot = read(file, self._tie(chosen))
        if len(ids) > sequence.context:
            raise PromptCacheError(
                f"{path} holds {len(ids):,} tokens, the context is {sequence.context:,}",
                hint="delete it, or allow for more memory",
                stale=True,
            )
        with self._scheduler.alone(sequence=sequence):
            if not sequence.takes(ids, snapshot):
                raise of_another_model(file)
            sequence.adapt(chosen)
            sequence.restore(ids, snapshot)

    def close(self) -> None:
        """Free the cache."""
        self._sequence = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tie(self, adapter: RuntimeAdapter | None) -> str:
        """What a file of this session's cache belongs to: the bundle, and the adapter where there is one."""
        digest = self._requests.bundle.digest
        return digest if adapter is None else f"{digest}+{adapter.digest}"

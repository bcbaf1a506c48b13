"""What an LM and its sessions have in common: prompts to text, each over a sequence of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack, overload

from edgelm.bundle.json_table import shown
from edgelm.errors import EdgeLMError
from edgelm.runtime.loop.completions import variants
from edgelm.runtime.loop.request import Options, Request
from edgelm.runtime.loop.request_builder import RequestBuilder
from edgelm.runtime.loop.results import Chunk, Completion
from edgelm.runtime.loop.scheduler import Scheduler
from edgelm.runtime.sample.config import GenerationConfig
from edgelm.runtime.text.prompt import Prompt, id_list

if TYPE_CHECKING:
    from edgelm.runtime.loop.batch_scheduler import BatchScheduler
    from edgelm.runtime.model import Sequence as TextSequence


class TextGenerator:
    """Generates text in a sequence of its own.

    Args:
        requests: makes them.
        scheduler: runs them.
        sequence: what is read goes there.
    """

    def __init__(self, requests: RequestBuilder, scheduler: Scheduler | BatchScheduler, sequence: TextSequence) -> None:
        self._requests, self._scheduler = requests, scheduler
        self._sequence: TextSequence | None = sequence

    @property
    def tokens(self) -> Sequence[int]:
        """The ids whose keys and values are in the cache."""
        return tuple(self._opened().tokens)

    def stream(self, prompt: Prompt, **options: Unpack[Options]) -> Generator[Chunk, None, None]:
        """Generate text piece by piece. All arguments are checked here, before the first chunk is asked for.

        The KV cache of the last generation is reused as far as the new prompt begins with the same ids. Logits can
        then differ in the last digits from those of one long prefill, as between any two batch sizes: pass
        ``reuse_cache=False`` where a seed must give the same text whatever ran before.

        Args:
            prompt: a str, taken as the user's message where the model has a chat template, or a list of messages; with
                ``raw`` a str as it is, or ids.
            options: see `Options`.

        Yields:
            `Chunk`; the last one carries `finish_reason` and `timings`. Closing the generator early is safe.

        Raises:
            PromptError, OptionError: a bad argument.
            EdgeLMError: at the first chunk, where another generation is under way on this LM; or it is closed.
        """
        return self._scheduler.run(self._request(prompt, options))

    @overload
    def generate(self, prompt: Prompt, *, n: None = None, **options: Any) -> Completion: ...

    @overload
    def generate(self, prompt: Prompt, *, n: int, **options: Any) -> list[Completion]: ...

    def generate(self, prompt: Prompt, *, n: int | None = None, **options: Any) -> Completion | list[Completion]:
        """Generate a whole text; the arguments are those of `stream`.

        Args:
            prompt: see `stream`.
            n: how many completions of the prompt, which is computed once; None for a single one, not in a list. Their
                seeds are `seed`, `seed` + 1, … . Those after one that was cancelled or met its deadline are left out.
            options: see `Options`.

        Raises:
            PromptError, OptionError: a bad argument.
            EdgeLMError: another generation is under way on this LM, or it is closed.
        """
        if n is None:
            return Completion.join(self.stream(prompt, **options))
        each = [(prompt, own) for own in variants(self._requests.config, n, options)]
        return self._complete(each, of_one_prompt=True)

    def astream(self, prompt: Prompt, **options: Unpack[Options]) -> AsyncGenerator[Chunk, None]:
        """`stream` for ``async for``: the model computes in a thread. Leaving the loop early ends the generation."""
        return self._scheduler.arun(self._request(prompt, options))

    async def agenerate(self, prompt: Prompt, **options: Unpack[Options]) -> Completion:
        """`generate` to ``await``, one completion; cancelling the task ends the generation."""
        return Completion.join([chunk async for chunk in self.astream(prompt, **options)])

    def complete_ids(self, texts: Sequence[tuple[Sequence[int], GenerationConfig]]) -> list[Completion]:
        """Whole texts that follow ids which the caller made, as many at once as there may be, in their order.

        Args:
            texts: ids and options of each; nothing is added to the ids, and nothing that is cached is used.

        Raises:
            PromptError: ids are none, or more than the context.
            EdgeLMError: another generation is under way on this LM, or it is closed.
        """
        sequence = self._opened()
        self._scheduler.expect_open()
        pairs = [_expect_pair(text) for text in texts] if isinstance(texts, list | tuple) else [_expect_pair(texts)]
        return self._scheduler.complete([partial(self._requests.of_ids, *pair, sequence) for pair in pairs])

    def _complete(self, texts: Sequence[tuple[Prompt, Any]], *, of_one_prompt: bool = False) -> list[Completion]:
        """Whole texts of prompts with their options, as many at once as there may be."""
        requests = [partial(self._request, prompt, options) for prompt, options in texts]
        return self._scheduler.complete(requests, of_one_prompt=of_one_prompt)

    def _request(self, prompt: Prompt, options: Options) -> Request:
        sequence = self._opened()
        self._scheduler.expect_open()
        return self._requests.build(prompt, options, sequence)

    def _opened(self) -> TextSequence:
        if self._sequence is None:
            raise EdgeLMError("this session is closed")
        return self._sequence


def _expect_pair(text: object) -> tuple[list[int], GenerationConfig]:
    """One of the `texts` of `complete_ids`; TypeError where it is none."""
    if not isinstance(text, tuple | list) or len(text) != 2 or not isinstance(text[1], GenerationConfig):
        raise TypeError(f"texts must be pairs of token ids and a GenerationConfig, not {shown(text)}")
    return id_list("texts", text[0]), text[1]

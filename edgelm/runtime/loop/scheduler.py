"""Who may use a loaded model: one request at a time; others are told that it is busy."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING

from edgelm.errors import EdgeLMError
from edgelm.runtime.loop.asynchronous import each
from edgelm.runtime.loop.chunks import generate_chunks
from edgelm.runtime.loop.completions import interrupted
from edgelm.runtime.loop.request import Request
from edgelm.runtime.loop.results import Chunk, Completion, SchedulerStats
from edgelm.runtime.loop.speculation import PassCost
from edgelm.runtime.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from edgelm.runtime.loop.draft import DraftModel
    from edgelm.runtime.model import LoadedModel
    from edgelm.runtime.model import Sequence as TextSequence


class Scheduler:
    """Runs requests on a loaded model, each on the sequence that it names.

    Args:
        model: becomes this object's.
        tokenizer: of the same model.
        draft: a small model that drafts tokens, or None; it becomes this object's, too.

    Attributes:
        cost: what the model's passes take.
    """

    def __init__(self, model: LoadedModel, tokenizer: Tokenizer, draft: DraftModel | None = None) -> None:
        self.draft, self.cost = draft, PassCost()
        self._model, self._tokenizer = model, tokenizer
        self._running: threading.Event | None = None  # cancels the request under way
        self._busy = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._closing = self._closed = False

    def run(self, request: Request) -> Generator[Chunk, None, None]:
        """The chunks of a request.

        Raises:
            EdgeLMError: at the first one: another request is under way, or the model is closed.
        """
        with self.alone(request.cancelled):
            how = "failed"
            try:
                request.sequence.adapt(request.adapter)
                last = yield from generate_chunks(request, self._tokenizer, self.cost, self.draft)
                how = "finished" if last.finish_reason in ("stop", "length") else "cancelled"
                self._record(last)
            except GeneratorExit:
                how = "cancelled"
                raise
            finally:
                self._counts[how] += 1
        yield last  # the model is free by now, also for a caller who stops reading at the finish_reason

    def arun(self, request: Request) -> AsyncGenerator[Chunk, None]:
        """`run` for ``async for``: the model computes in a thread of the event loop's."""
        return each(request, self.run)

    def complete(self, requests: Iterable[Callable[[], Request]], *, of_one_prompt: bool = False) -> list[Completion]:
        """Whole texts, one after the other; each request is made when its turn has come. `of_one_prompt`, those after one
        that was interrupted are left out.
        """
        done: list[Completion] = []
        for make in requests:
            done.append(Completion.join(self.run(make())))
            if of_one_prompt and interrupted(done[-1]):
                break
        return done

    def stats(self) -> SchedulerStats:
        """What it does, and has done; decode_passes are without those that drafts saved."""
        counts, running = self._counts, int(self._busy.locked())
        names = ("finished", "cancelled", "failed", "prefix_tokens_reused", "prefill_tokens", "decode_tokens")
        return SchedulerStats(
            parallel=1,
            running=running,
            waiting=0,
            kv_bytes=self._model.kv_bytes,
            decode_passes=counts["decode_passes"],
            **{name: counts[name] for name in names},
        )

    def _record(self, last: Chunk) -> None:
        """What a request came to."""
        timings = last.timings
        assert timings is not None
        self._counts["prefix_tokens_reused"] += timings.cached_tokens
        self._counts["prefill_tokens"] += timings.prompt_tokens - timings.cached_tokens
        self._counts["decode_tokens"] += timings.completion_tokens
        self._counts["decode_passes"] += timings.completion_tokens - timings.accepted_tokens

    @contextlib.contextmanager
    def alone(self, cancelled: threading.Event | None = None, sequence: TextSequence | None = None) -> Iterator[None]:
        """The model for this block alone, whichever `sequence` it is about; `cancel` sets `cancelled`.

        Raises:
            EdgeLMError: a request is under way, or the model is closed.
        """
        if not self._busy.acquire(blocking=False):
            raise EdgeLMError(
                "this LM is busy with another generation", hint="finish or close that one, or load the bundle again"
            )
        try:
            self._running = cancelled
            self.expect_open()  # only now: whoever closes it from here on finds what to cancel
            yield
        finally:
            self._running = None
            self._busy.release()
            if self._closing:
                self._free()

    def expect_open(self) -> None:
        """EdgeLMError where the model is closed."""
        if self._closing:
            raise EdgeLMError("this LM is closed")

    def cancel(self) -> None:
        """End the request under way, if any, as ``cancelled`` before its next pass; from any thread."""
        running = self._running
        if running is not None:
            running.set()

    def close(self, *, wait: bool = False, timeout: float | None = None) -> None:
        """Free the models. A request under way ends as ``cancelled`` at its next token, and frees them then.

        Args:
            wait: let it come to its end before, in the thread that reads it.
            timeout: seconds to wait for it at most.
        """
        self._closing = True
        if wait and self._busy.acquire(timeout=-1 if timeout is None else timeout):
            self._busy.release()
        self.cancel()
        self._free()

    def _free(self) -> None:
        if self._closed or not self._busy.acquire(blocking=False):
            return
        try:
            self._closed = True
            self._model.close()
            if self.draft is not None:
                self.draft.close()
        finally:
            self._busy.release()

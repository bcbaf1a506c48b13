"""Who may use a loaded model: one request at a time; others are told that it is busy."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from edgelm.errors import EdgeLMError
from edgelm.runtime.loop.chunks import generate_chunks
from edgelm.runtime.loop.request import Request
from edgelm.runtime.loop.results import Chunk
from edgelm.runtime.loop.speculation import PassCost
from edgelm.runtime.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from edgelm.runtime.loop.draft import DraftModel
    from edgelm.runtime.model import LoadedModel


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
        self._closing = self._closed = False

    def run(self, request: Request) -> Generator[Chunk, None, None]:
        """The chunks of a request.

        Raises:
            EdgeLMError: at the first one: another request is under way, or the model is closed.
        """
        with self.alone(request.cancelled):
            request.sequence.adapt(request.adapter)
            last = yield from generate_chunks(request, self._tokenizer, self.cost, self.draft)
        yield last  # the model is free by now, also for a caller who stops reading at the finish_reason

    @contextlib.contextmanager
    def alone(self, cancelled: threading.Event | None = None) -> Iterator[None]:
        """The model for this block alone; `cancel` sets `cancelled`.

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

    def close(self) -> None:
        """Free the models. A request under way ends as ``cancelled`` at its next token, and frees them then."""
        self._closing = True
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

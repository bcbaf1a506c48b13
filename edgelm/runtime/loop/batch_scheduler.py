"""Several requests at once, from any number of threads: one thread of the scheduler runs the rounds of a `BatchLoop`.

The thread is a daemon, begins with the first request and ends with `close`, or with the interpreter. What goes wrong in it
reaches every caller who waits. It does not survive a fork: in the child every call says so.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from edgelm.errors import BusyError, EdgeLMError
from edgelm.runtime.loop.batch_loop import BatchLoop, Texts
from edgelm.runtime.loop.completions import interrupted
from edgelm.runtime.loop.request import Request
from edgelm.runtime.loop.results import Chunk, Completion, SchedulerStats
from edgelm.runtime.loop.running import Deliver, Running
from edgelm.runtime.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from edgelm.runtime.model import Sequence as TextSequence

_IDLE = 5.0  # seconds without a request after which the thread ends, until the next one
_EXIT = 10.0  # seconds that the end of the interpreter waits for a pass


class BatchScheduler:
    """Runs up to as many requests at once as the batch has sequences; more wait in the order in which they came.

    Args:
        batch: the sequences.
        own: see `BatchLoop`.
        tokenizer: of the model.
        free: called once, at the end, to free the model.
        max_queue: requests that may wait; None for any number.
    """

    draft = None  # speculation is for one text at a time

    def __init__(
        self,
        batch: Texts,
        own: TextSequence,
        tokenizer: Tokenizer,
        free: Callable[[], None],
        max_queue: int | None = None,
    ) -> None:
        self._loop, self._own, self._tokenizer = BatchLoop(batch, own), own, tokenizer
        self._free: Callable[[], None] | None = free
        self._max_queue, self._pid = max_queue, os.getpid()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = self._draining = False
        self._one_guest, self._guest = threading.Lock(), False  # who wants the model for himself
        self._in_round = False
        self._broken: BaseException | None = None
        _until_exit(self)

    def run(self, request: Request) -> Generator[Chunk, None, None]:
        """The chunks of a request. Where the generator is closed, the request ends before its next pass.

        Raises:
            BusyError: at the first one: as many requests wait already as may.
            EdgeLMError: the model is closed.
        """
        chunks: SimpleQueue[Chunk | BaseException] = SimpleQueue()
        self._submit(request, chunks.put)
        try:
            while True:
                self.expect_process()
                chunk = chunks.get()
                if isinstance(chunk, BaseException):
                    raise chunk
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            request.cancelled.set()

    async def arun(self, request: Request) -> AsyncGenerator[Chunk, None]:
        """`run` for ``async for``; no thread waits for the chunks."""
        import asyncio

        loop, chunks = asyncio.get_running_loop(), asyncio.Queue[Chunk | BaseException]()

        def deliver(chunk: Chunk | BaseException) -> None:
            try:
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)
            except RuntimeError:  # the event loop is closed: nobody reads on
                request.cancelled.set()

        self._submit(request, deliver)
        try:
            while True:
                chunk = await chunks.get()
                if isinstance(chunk, BaseException):
                    raise chunk
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            request.cancelled.set()

    def complete(self, requests: Sequence[Callable[[], Request]], *, of_one_prompt: bool = False) -> list[Completion]:
        """Whole texts, in their order; as many at once as may run, the others as these end. Where one fails, all end.

        Args:
            requests: make them, each when its turn has come.
            of_one_prompt: whether those after one that was interrupted are left out.

        Raises:
            BusyError: others take all the room that there is.
            EdgeLMError: what one of them met.
        """
        done: SimpleQueue[tuple[int, Chunk | BaseException]] = SimpleQueue()
        chunks: list[list[Chunk]] = [[] for _ in requests]
        under_way: dict[int, Request] = {}
        coming = deque(range(len(requests)))

        def fill() -> None:
            while coming and len(under_way) < self._loop.parallel:
                index = coming[0]
                request = requests[index]()
                try:
                    self._submit(request, lambda item, index=index: done.put((index, item)), patient=True)  # type: ignore[misc]
                except BusyError:
                    if not under_way:
                        raise
                    return
                under_way[coming.popleft()] = request

        try:
            fill()
            while under_way:
                self.expect_process()
                index, item = done.get()
                if isinstance(item, BaseException):
                    raise item
                chunks[index].append(item)
                if item.finish_reason is not None:
                    del under_way[index]
                    fill()
        finally:
            for request in under_way.values():
                request.cancelled.set()
        done_texts = [Completion.join(some) for some in chunks]
        ends = (index for index, each in enumerate(done_texts, 1) if of_one_prompt and interrupted(each))
        return done_texts[: next(ends, len(done_texts))]

    @contextlib.contextmanager
    def alone(self, cancelled: threading.Event | None = None, sequence: TextSequence | None = None) -> Iterator[None]:
        """The model for this block alone, between two rounds; all requests wait meanwhile.

        Args:
            cancelled: not used: nothing is generated in the block.
            sequence: the one it is about.

        Raises:
            EdgeLMError: a request is under way in that sequence, or the model is closed.
        """
        self.expect_open()
        with self._one_guest:
            with self._changed:
                self._guest = True
                self._changed.wait_for(lambda: not self._in_round)
            try:
                self.expect_open()
                if any(each.sequence is sequence for each in self._loop.running):
                    raise EdgeLMError(
                        "this session is busy with a generation",
                        hint="finish or close that one, or open another session",
                    )
                yield
            finally:
                with self._changed:
                    self._guest = False
                    self._changed.notify_all()

    def save_beginning(self, ids: Sequence[int], path: Path, tie: str) -> int:
        """See `LM.save_beginning`; `tie` is what the file belongs to."""
        from edgelm.runtime.kv.prompt_cache import write

        with self.alone():
            sequence = self._loop.holding(ids)
            if sequence is None:
                return 0
            tokens, snapshot = sequence.save(len(ids))
            if tokens:
                write(path, tie, tokens, snapshot, sequence.context)
        return len(tokens)

    def load_beginning(self, path: Path, tie: str) -> int:
        """See `LM.load_beginning`; `tie` is what the file belongs to."""
        from edgelm.runtime.kv.prompt_cache import of_another_model, read

        tokens, snapshot = read(path, tie)
        with self.alone():
            sequence = self._loop.spare()
            if sequence is None or len(tokens) > sequence.context or self._loop.holding(tokens) is not None:
                return 0
            if not sequence.takes(tokens, snapshot):
                raise of_another_model(path)
            sequence.adapt(None)
            sequence.restore(tokens, snapshot)
        return len(tokens)

    def stats(self) -> SchedulerStats:
        """What it does, and has done."""
        return self._loop.stats()

    def expect_open(self) -> None:
        """EdgeLMError where the model is closed, or the scheduler has ended."""
        self.expect_process()
        if self._broken is not None:
            raise EdgeLMError(f"this LM has failed: {self._broken}", hint="load the bundle again")
        if self._closing or self._draining:
            raise EdgeLMError("this LM is closed")

    def expect_process(self) -> None:
        """EdgeLMError in a child of the process that loaded the model."""
        if os.getpid() != self._pid:
            raise EdgeLMError("this LM was loaded before a fork", hint="load the bundle in the process that uses it")

    def cancel(self) -> None:
        """End all requests, those that wait included, as ``cancelled`` before their next pass; from any thread."""
        self.expect_process()
        with self._changed:
            for each in (*self._loop.running, *self._loop.waiting):
                each.request.cancelled.set()
            self._changed.notify_all()

    def close(self, *, wait: bool = False, timeout: float | None = None) -> None:
        """Free the model. Requests that wait end as ``cancelled``, and so do those under way before their next pass.

        Args:
            wait: let those under way come to their ends, and return when all is done.
            timeout: seconds to wait for them at most.
        """
        if os.getpid() != self._pid:
            return
        with self._changed:
            self._draining = True
            if not self._in_round:
                self._loop.end(waiting_alone=True)
            self._changed.notify_all()
            if wait and self._thread is not None and self._thread is not threading.current_thread():
                self._changed.wait_for(lambda: self._thread is None, timeout)
            self._closing = True
            self._changed.notify_all()
            if self._thread is None:
                self._end()
        thread = self._thread
        if wait and thread is not None and thread is not threading.current_thread():
            thread.join()

    def _submit(self, request: Request, deliver: Deliver, *, patient: bool = False) -> None:
        self.expect_open()
        running = Running(request, self._tokenizer, deliver, patient=patient)
        with self._changed:
            self.expect_open()  # only now: whoever closes it from here on finds what to end
            free = self._loop.parallel - len(self._loop.running)
            if self._max_queue is not None and len(self._loop.waiting) - free >= self._max_queue:
                raise BusyError(
                    f"{self._loop.parallel} requests are under way and {self._max_queue} wait already",
                    hint="try again later, or load with a larger parallel or max_queue",
                )
            self._loop.waiting.append(running)
            if self._thread is None:
                self._start()
            self._changed.notify_all()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="edgelm-scheduler", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        """The thread: rounds while there is something to do; it ends when there was nothing for a while."""
        try:
            while self._next_round():
                try:
                    self._loop.round()
                finally:
                    with self._changed:
                        self._in_round = False
                        self._changed.notify_all()
        except BaseException as error:  # nobody may be left waiting
            self._broken = error
        with self._changed:
            self._thread = None
            if self._loop.waiting and not self._closing and self._broken is None:  # came after the last look
                self._start()
                return
            if self._broken is not None:
                self._loop.end(self._broken)
            if self._broken is not None or self._draining:
                self._end()
            self._changed.notify_all()

    def _next_round(self) -> bool:
        """Wait until there is something to do; False where it is time to end."""
        with self._changed:
            while not self._closing:
                if self._draining:
                    self._loop.end(waiting_alone=True)
                    if not self._loop.running:
                        return False
                if not self._guest and (self._loop.waiting or self._loop.running):
                    self._in_round = True
                    return True
                if not self._changed.wait(_IDLE) and not self._guest and not self._loop.waiting:
                    return False
            return False

    def _end(self) -> None:
        """Free the model, once."""
        free, self._free = self._free, None
        self._closing = True
        if free is not None:
            self._loop.end()
            free()


def _until_exit(scheduler: BatchScheduler) -> None:
    """See to it that the thread is out of onnxruntime before the interpreter ends."""
    found = weakref.ref(scheduler)

    def leave() -> None:
        if (alive := found()) is not None:
            thread = alive._thread
            alive.close()
            if thread is not None:
                thread.join(_EXIT)

    atexit.register(leave)
    weakref.finalize(scheduler, atexit.unregister, leave).atexit = False

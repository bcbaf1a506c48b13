"""Which texts of a batch are read next: requests come and go between its rounds. No threads here: see `batch_scheduler`.

A round computes the next token of every text that has been read, in one pass, and then reads a piece of one prompt. The
piece is as long as the time between tokens of the others allows: where that is not enough for a pass, the prompt's next token
is one more row of the others' (see `piece_size`). Prompts take turns, and requests are admitted in the order in which they
came, so that nobody starves. What a prompt has in common with another text, kept or under way, is copied.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from edgelm.errors import EdgeLMError
from edgelm.runtime.kv.prefill import common
from edgelm.runtime.loop.piece_size import TILE, PieceSize
from edgelm.runtime.loop.results import SchedulerStats
from edgelm.runtime.loop.running import Running
from edgelm.runtime.sample.sampling import Floats

if TYPE_CHECKING:
    from edgelm.runtime.lora_adapter import RuntimeAdapter
    from edgelm.runtime.model import Sequence as TextSequence

WORTH = 16  # tokens that are copied or waited for, at least; fewer are read as fast
_LOOK = 0.05  # seconds between looks at who has left the queue


class Texts(Protocol):
    """What is asked of a `Batch`."""

    @property
    def sequences(self) -> list[TextSequence]:
        """All of them."""

    @property
    def kv_bytes(self) -> int:
        """Bytes that keys and values take."""

    def step(self, texts: list[tuple[TextSequence, int]]) -> list[Floats]:
        """Append one token to each of some sequences, and compute the logits behind it."""

    def copy(self, source: TextSequence, target: TextSequence, position: int) -> None:
        """Let `target` hold what `source` holds of its first `position` tokens."""

    def room(self) -> int | None:
        """Bytes that its sequences may take together; None for any number."""

    def needs(self, tokens: int) -> int:
        """Bytes that a sequence of so many tokens takes."""

    def drop(self, sequence: TextSequence) -> None:
        """Forget what a sequence holds, and give back its memory."""


class BatchLoop:
    """The requests of a batch, those that wait included.

    Args:
        batch: the sequences.
        own: the sequence that requests name which may have any of the batch's; those of another one, a session's, are
            read there.

    Attributes:
        waiting: in the order in which they came. Others may append to it.
        running: those that have a sequence.
    """

    def __init__(self, batch: Texts, own: TextSequence) -> None:
        self._batch, self._own, self._size = batch, own, PieceSize()
        self.parallel = len(batch.sequences)
        self.waiting: deque[Running] = deque()
        self.running: list[Running] = []
        self._used = dict.fromkeys(batch.sequences, 0)  # when each was in use the last time
        self._rounds, self._looked = 0, 0.0
        self._finished = self._cancelled = self._failed = 0
        self._reused = self._decoded = self._prefilled = self._steps = 0

    def stats(self) -> SchedulerStats:
        """The counts so far; from any thread."""
        return SchedulerStats(
            parallel=self.parallel,
            running=len(self.running),
            waiting=len(self.waiting),
            finished=self._finished,
            cancelled=self._cancelled,
            failed=self._failed,
            kv_bytes=self._batch.kv_bytes,
            prefix_tokens_reused=self._reused,
            decode_tokens=self._decoded,
            prefill_tokens=self._prefilled,
            decode_passes=self._steps,
        )

    def round(self) -> bool:
        """One round; whether another one has something to do."""
        self._rounds += 1
        self._leave()
        self._share()
        self._admit()
        ready = [each for each in self.running if not each.reads and each.source is None]
        reader = self._reader()
        waits = any(not each.patient for each in ready)
        size = self._size.next() if reader is not None and waits else None
        row = reader if size == 1 and self._joins(reader) else None
        self._decode(ready, row)
        if reader is not None and row is None:
            self._read(reader, size)
        return bool(self.running or self.waiting)

    def end(self, error: BaseException | None = None, *, waiting_alone: bool = False) -> None:
        """End all requests, or those that wait, as cancelled or with an error."""
        ended = [*self.waiting, *([] if waiting_alone else self.running)]
        self.waiting.clear()
        if not waiting_alone:
            self.running.clear()
        for each in ended:
            if error is None:
                each.end("cancelled")
            else:
                each.fail(error)
            self._count(each, "cancelled" if error is None else "failed")

    def holding(self, ids: Sequence[int]) -> TextSequence | None:
        """One of the batch's sequences whose text begins with `ids`, computed without an adapter; None where there is none."""
        found = (s for s in self._batch.sequences if s.adapter is None and common(s.tokens, ids) == len(ids))
        return next(found, None)

    def spare(self) -> TextSequence | None:
        """A sequence that nobody uses, an empty one where there is one; it counts as used now. None where all are in use."""
        free = self._free()
        if not free:
            return None
        found = min(free, key=lambda s: (bool(s.tokens), self._used[s]))
        self._used[found] = self._rounds
        return found

    def _leave(self) -> None:
        """Let those go whose caller left, or whose time is up."""
        self._let_go(each for each in self.running if each.interrupted())
        if time.perf_counter() - self._looked < _LOOK:
            return
        self._looked = time.perf_counter()
        for each in [each for each in tuple(self.waiting) if each.interrupted()]:
            self.waiting.remove(each)
            self._count(each, "cancelled")

    def _let_go(self, ended: Iterable[Running], how: str = "cancelled") -> None:
        for each in list(ended):
            self.running.remove(each)
            if each.sequence in self._used:
                self._used[each.sequence] = self._rounds
            self._count(each, how)

    def _count(self, each: Running, how: str) -> None:
        """One has ended, and is among the others no more."""
        self._finished += how == "finished"
        self._cancelled += how == "cancelled"
        self._failed += how == "failed"
        each.hand_over()

    # Admission

    def _admit(self) -> None:
        """Give those that wait a sequence, in their order, while there is one and memory for it."""
        passed: list[Running] = []  # whose session is in use
        while self.waiting and len(self.running) < self.parallel:
            each = self.waiting.popleft()
            if each.interrupted():
                self._count(each, "cancelled")
            elif (own := each.request.sequence) is not self._own and any(r.sequence is own for r in self.running):
                passed.append(each)
            elif self.running and not self._fits(each):
                self.waiting.appendleft(each)
                break
            else:
                self._begin(each)
        self.waiting.extendleft(reversed(passed))

    def _fits(self, each: Running) -> bool:
        """Whether there is memory for all that is under way and for this one, at their longest; what was kept of other
        texts goes first.
        """
        room = self._batch.room()
        if room is None:
            return True
        context = self._own.context
        needed = sum(self._batch.needs(min(context, r.most)) for r in (*self.running, each))
        kept = sorted(self._free(), key=lambda sequence: self._used[sequence])
        while kept and needed + sum(sequence.cache_bytes for sequence in kept) > room:
            self._batch.drop(kept.pop(0))
        return needed <= room

    def _free(self) -> list[TextSequence]:
        """Sequences of the batch that nobody uses; what they hold is kept for texts that begin alike."""
        busy = {each.sequence for each in self.running}
        return [sequence for sequence in self._batch.sequences if sequence not in busy]

    def _begin(self, each: Running) -> None:
        """Give it a sequence, which holds as much of it as is known already."""
        own = each.request.sequence
        sequence = self._pick(each) if own is self._own else own
        try:
            sequence.adapt(each.request.adapter)
            if each.request.reuse_cache:
                sequence.resume(each.history[:-1])
            same = common(sequence.tokens, each.history[:-1]) if each.request.reuse_cache else 0
            each.begin(sequence, sequence.forget(same))
        except EdgeLMError as error:
            each.fail(error)
            self._count(each, "failed")
            return
        self.running.append(each)
        self._reused += sequence.position
        if own is self._own and each.request.reuse_cache:
            self._find_source(each)

    def _pick(self, each: Running) -> TextSequence:
        """A free sequence: one that holds the beginning and little else, or the one that was in use the longest ago."""
        free, ids = self._free(), each.history[:-1]
        if each.request.reuse_cache:
            same = {s: common(s.tokens, ids) for s in free if _digest(s.adapter) == _digest(each.request.adapter)}
            best = max(same, key=lambda s: (same[s], -len(s.tokens)), default=None)
            if best is not None and same[best] >= max(WORTH, len(best.tokens) // 2):
                return best
        return min(free, key=lambda s: (bool(s.tokens), self._used[s]))

    def _find_source(self, each: Running) -> None:
        """Copy what another sequence holds of its beginning, or wait for one that is reading it."""
        assert each.sequence is not None
        ids, held, adapter = each.history[:-1], each.sequence.position, _digest(each.request.adapter)
        others = [s for s in self._batch.sequences if s is not each.sequence and _digest(s.adapter) == adapter]
        source = max(others, key=lambda s: common(s.tokens, ids), default=None)
        done = 0 if source is None else common(source.tokens, ids)
        coming = [(common(r.history, ids), r) for r in self.running if r.sequence in others and r.reads]
        most, under_way = max(coming, key=lambda pair: pair[0], default=(0, None))
        if under_way is not None and most >= max(held, done) + WORTH:
            each.source = under_way, most
        elif source is not None and done >= held + WORTH:
            self._copy(source, each, done)

    def _share(self) -> None:
        """Copy beginnings that others have read by now."""
        for each in self.running:
            if each.source is None:
                continue
            other, tokens = each.source
            assert other.sequence is not None
            if other in self.running and other.sequence.position < tokens and (other.reads or other.source):
                continue
            each.source = None
            done = common(other.sequence.tokens, each.history[:-1])
            if each.sequence is not None and done >= each.sequence.position + WORTH:
                self._copy(other.sequence, each, done)

    def _copy(self, source: TextSequence, each: Running, tokens: int) -> None:
        sequence = each.sequence
        assert sequence is not None
        before = sequence.position
        self._batch.copy(source, sequence, tokens)
        each.copied(sequence.position - before)
        self._reused += sequence.position - before

    # Passes

    def _reader(self) -> Running | None:
        """Whose turn it is to read of its prompt, or of tokens that a grammar forces."""
        reading = (each for each in self.running if each.reads and each.source is None)
        return min(reading, key=lambda r: r.last_read, default=None)

    def _joins(self, reader: Running | None) -> bool:
        """Whether a token of its prompt may be a row of the others' pass: not where states are saved behind passes of
        several tokens, nor of a sequence beside the batch.
        """
        sequence = None if reader is None else reader.sequence
        return sequence is not None and sequence in self._used and sequence.room_after(0) != 0

    def _decode(self, ready: list[Running], reader: Running | None) -> None:
        """The next token of all that were read, and of the prompt of one that was not."""
        if not ready:
            return
        rows = [*ready, *([] if reader is None else [reader])]
        started = time.perf_counter()
        try:
            found = self._batch.step([(each.sequence, each.next_id) for each in rows])  # type: ignore[misc]
        except EdgeLMError as error:
            self._fail(rows, error)
            return
        self._steps += 1
        self._decoded += len(ready)
        if reader is None:
            self._size.stepped(time.perf_counter() - started)
        else:
            reader.last_read = self._rounds
            self._prefilled += 1
        for each, logits in zip(ready, found, strict=False):
            self._advance(each, logits)

    def _read(self, each: Running, size: int | None) -> None:
        """A piece of its prompt: of `size` tokens beside others who wait for theirs, or None for a whole pass."""
        each.last_read = self._rounds
        piece, wanted = each.piece(self._own.model.prefill_chunk if size is None else max(size, TILE))
        started = time.perf_counter()
        try:
            logits = each.sequence.forward(piece, wanted)  # type: ignore[union-attr]
        except EdgeLMError as error:
            self._fail([each], error)
            return
        self._prefilled += len(piece)
        if size is not None:
            self._size.read(len(piece), time.perf_counter() - started)
        if wanted:
            self._advance(each, logits[0])

    def _advance(self, each: Running, logits: Floats) -> None:
        try:
            each.advance(logits)
        except Exception as error:  # of this text alone: logits that are no numbers, a grammar that fails
            self._fail([each], error)
            return
        if each.ended:
            self._let_go([each], "finished")

    def _fail(self, some: list[Running], error: BaseException) -> None:
        """Some end with an error; what their sequences hold may be half a pass."""
        for each in some:
            each.fail(error)
            if each.sequence is not None:
                with contextlib.suppress(EdgeLMError):
                    each.sequence.forget(0)
        self._let_go(some, "failed")


def _digest(adapter: RuntimeAdapter | None) -> str | None:
    return None if adapter is None else adapter.digest

"""A draft model: a second, small model's greedy tokens are drafts, which the large one checks in one pass.

Leviathan et al. 2022 (arXiv:2211.17192) and Chen et al. 2023 (arXiv:2302.01318), with drafts that are certain of
themselves: how they are checked, and why the tokens stay those of the large model, is told in `speculation`. Drafts
that prompt lookup makes cost nothing and are taken first, where they promise as much.

Whether the draft model is asked is decided by time, its own included: what its passes take is measured beside those of
the large one.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import takewhile
from weakref import WeakKeyDictionary

from edgelm.bundle.reader import TOKENIZER, Bundle
from edgelm.errors import DeviceError, OptionError
from edgelm.runtime.engine import Engine
from edgelm.runtime.kv.memory_limit import Room, fit_both
from edgelm.runtime.loop.generate import Interrupt
from edgelm.runtime.loop.speculation import FADE, PAUSES, PROBE, SHARE, PassCost, PromptLookup, best_length
from edgelm.runtime.model import LoadedModel
from edgelm.runtime.model import Sequence as TextSequence
from edgelm.runtime.ort.options import LoadOptions
from edgelm.runtime.sample.sampling import Floats
from edgelm.runtime.text.prompt import open_tokenizer

_PRIOR = (2.0, 1.0)  # draft tokens accepted and rejected, assumed before any was seen
_PROMPT = 0.25  # of a single pass, assumed of a token that is read with many others
_MANY = 8  # tokens of a pass that tells what reading a prompt takes
_AGAIN = 64  # passes after which one without a draft measures again what such a pass takes


def load_both(bundle: Bundle, draft: Bundle, options: LoadOptions) -> tuple[Engine, DraftModel]:
    """Load a bundle, and another one as its draft model.

    Args:
        bundle: the large one.
        draft: the small one.
        options: of both: `max_memory_mb` is for both together, and the draft model has the threads of the large one. The
            two alternate: `disable_spinning` serves them.

    Raises:
        OptionError: their tokens differ, or the large one cannot take back rejected tokens for nothing.
        BundleError, DeviceError: one of them cannot be loaded.
    """
    for each in (bundle, draft):
        each.expect_generator()
    hashes = [b.files[TOKENIZER].sha256 for b in (bundle, draft)]
    if hashes[0] != hashes[1] and not open_tokenizer(bundle).same_ids(open_tokenizer(draft)):
        raise OptionError(
            f"draft {draft.path} has other tokens than {bundle.path}: its drafts would mean something else",
            hint="take a smaller model of the same family, exported with the same tokenizer",
        )
    rooms: tuple[Room | None, Room | None] = (None, None)
    if options.max_memory_mb is not None:
        rooms = fit_both(bundle.manifest, draft.manifest, options.max_memory_mb)
    engine = Engine(LoadedModel.load(bundle, options, rooms[0]))
    try:
        if engine.room_after(0) == 0:
            raise OptionError(
                f"{bundle.path} cannot take back a wrong draft without reading again, so that drafts do not pay",
                hint="leave the draft out",
            )
        small = LoadedModel.load(draft, replace(options, threads=engine.threads, settings=None), rooms[1])
    except BaseException:
        engine.close()
        raise
    read = [max(1, b.manifest.memory.weights_bytes) for b in (bundle, draft)]
    return engine, DraftModel(
        small, engine.vocab_size, frozenset(bundle.manifest.special_tokens.eos), read[1] / read[0]
    )


class CostEstimate:
    """What the passes of a draft model take, in seconds a token; measured while it runs, and kept.

    Args:
        share: of the large model's time, assumed before anything was measured.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._token: float | None = None
        self._prompt: float | None = None

    def token(self, single: float) -> float:
        """Seconds of a token drafted, where a pass of the large model takes `single`."""
        return self._share * single if self._token is None else self._token

    def prompt(self, single: float) -> float:
        """Seconds of a token read with many others."""
        return _PROMPT * self.token(single) if self._prompt is None else self._prompt

    def record(self, tokens: int, seconds: float) -> None:
        """A pass over `tokens` took so long."""
        if tokens == 1:
            self._token = _moved(self._token, seconds)
        elif tokens >= _MANY:
            self._prompt = _moved(self._prompt, seconds / tokens)


class DraftModel:
    """A small model beside a large one, with a sequence of its own beside each of the large one's.

    Args:
        model: the small model; it becomes this object's.
        vocab_size: ids that the large model knows.
        eos: ids that end a text: nothing is drafted from there on.
        share: of the large model's time a token takes it, about; such as the ratio of weights read.

    Attributes:
        model: the small model.
        cost: what its passes take.
        seen: its tokens that were accepted, and those that were not, the older ones counting less.
    """

    def __init__(self, model: LoadedModel, vocab_size: int, eos: Collection[int], share: float) -> None:
        self.model = model
        self.cost = CostEstimate(share)
        self.seen = _PRIOR
        self._known = min(model.vocab_size, vocab_size)
        self._eos = frozenset(eos)
        self._beside: WeakKeyDictionary[TextSequence, TextSequence] = WeakKeyDictionary()

    def beside(self, sequence: TextSequence) -> TextSequence:
        """The sequence that reads beside one of the large model; it is freed with that one."""
        own = self._beside.get(sequence)
        if own is None:
            own = self._beside[sequence] = self.model.sequence()
        return own

    def room(self, history: Sequence[int]) -> int:
        """How many tokens it could draft after `history` before its context is full."""
        return self.model.context - len(history) + 1

    def guess(
        self, own: TextSequence, history: Sequence[int], sure: int, count: int, interrupt: Interrupt
    ) -> list[int]:
        """The most likely tokens after `history`, at most `count`.

        Args:
            own: from `beside`.
            history: the text.
            sure: how many of its tokens are known to be in the cache of `own`.
            count: 1 … `room`.
            interrupt: asked before every pass; where it gives a reason there is no draft.
        """
        same = in_common(own, history, sure)
        try:
            own.rewind(same)
            if max(history[same:]) >= self.model.vocab_size:
                return []
            return self._decode(own, history, count, interrupt)
        except DeviceError:  # the memory allowed is taken by other texts, whose caches can be made again
            self._beside.clear()
            own.reset()
            return []
        except BaseException:  # the cache may hold half a step
            with contextlib.suppress(Exception):
                own.reset()
            raise

    def close(self) -> None:
        """Free the model."""
        self.model.close()

    def _decode(self, own: TextSequence, history: Sequence[int], count: int, interrupt: Interrupt) -> list[int]:
        guess: list[int] = []
        while len(guess) < count:
            logits = self._read(own, guess[-1:] or history[own.position :], interrupt)
            if logits is None:
                return []
            token = self._choose(own, logits[-1, : self._known])
            if token in self._eos:
                break
            guess.append(token)
        return guess

    def _read(self, own: TextSequence, ids: Sequence[int], interrupt: Interrupt) -> Floats | None:
        """The logits after `ids`, [1, V], every pass timed; None where `interrupt` gave a reason."""
        passes, end = own.prefill_passes(ids), own.position + len(ids)
        while (start := own.position) < end:
            if interrupt():
                return None
            started = time.perf_counter()
            logits = next(passes)
            self.cost.record(own.position - start, time.perf_counter() - started)
        return logits

    def _choose(self, own: TextSequence, logits: Floats) -> int:
        """The most likely token after what `own` holds."""
        return int(logits.argmax())


def in_common(own: TextSequence, history: Sequence[int], sure: int) -> int:
    """Tokens at the beginning of `history` that `own` holds, of which the first `sure` are known to be those; at least one
    of `history` is always missing.
    """
    pairs = zip(own.tokens[sure:], history[sure : len(history) - 1], strict=False)
    return sure + sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


class ModelDrafter:
    """Drafts of one generation: those of prompt lookup or of a draft model, whichever promises more; none while
    neither pays.

    Args:
        model: the draft model.
        own: its sequence, from `DraftModel.beside`.
        lookup: drafts from the text itself.
        cost: of the large model's passes.
        interrupt: ends the generation before its time.

    Attributes:
        drafted: draft tokens, and
        accepted: how many of them were accepted.
    """

    def __init__(
        self, model: DraftModel, own: TextSequence, lookup: PromptLookup, cost: PassCost, interrupt: Interrupt
    ) -> None:
        self._model, self._own, self._lookup, self._cost, self._interrupt = model, own, lookup, cost, interrupt
        self._sure = 0  # tokens of the text that the draft model has read
        self._spent = 0.0  # seconds that its last draft took; 0 for none that is not judged yet
        self._until, self._pauses = 0, 1  # as in PromptLookup
        self._since = 0  # passes since the last one over a single token
        self.drafted = self.accepted = 0

    def draft(self, history: Sequence[int], limit: int) -> list[int]:
        """The tokens that may follow `history`, at most `limit`; often none."""
        if self._spent:  # the last draft was cut to nothing, by the grammar of the text
            self._judged(0, 1, len(history))
        single = self._cost.single
        if single is None or self._since >= _AGAIN:
            return []
        found = self._lookup.draft(history, limit)
        limit = min(limit, self._model.room(history))
        length, promise = self._plan(history, limit, single) if limit > 0 else (0, 1.0)
        if found and (not length or self._lookup.promise >= promise or self._lookup.promise == 1):
            return found
        if not length:
            return []
        started = time.perf_counter()
        guess = self._model.guess(self._own, history, self._sure, min(length, limit), self._interrupt)
        self._spent = time.perf_counter() - started
        self._sure = min(len(history), self._own.position)
        return guess

    def checked(self, drafted: int, accepted: int, position: int) -> None:
        """Of `drafted` tokens the first `accepted` were accepted; the text has `position` tokens now."""
        self.drafted += drafted
        self.accepted += accepted
        if self._spent:
            self._judged(accepted, int(accepted < drafted), position)
        else:
            self._lookup.checked(drafted, accepted, position)

    def passed(self, tokens: int, seconds: float) -> None:
        """A pass of the large model over `tokens`, and undoing what was wrong in it, took so long."""
        self._since = 0 if tokens == 1 else self._since + 1
        self._lookup.passed(tokens, seconds)

    def _plan(self, history: Sequence[int], limit: int, single: float) -> tuple[int, float]:
        """How many tokens to have drafted, and how many times as fast that promises to be."""
        model, (accepted, rejected) = self._model, self._model.seen
        each, rate = model.cost.token(single) / single, accepted / (accepted + rejected)
        length, promise = best_length(rate, lambda count: self._cost.of(count + 1) + count * each)
        # What it has yet to read of the text must be won back by the tokens that are left.
        missing = len(history) - in_common(self._own, history, self._sure)
        behind = (missing - 1) * model.cost.prompt(single) / single
        if length and behind <= limit * (1 - 1 / promise):
            return length, promise
        if not self._until:
            self._pause(behind + PROBE * each, len(history))
        return PROBE if len(history) >= self._until and not length else 0, 1.0

    def _judged(self, accepted: int, rejected: int, position: int) -> None:
        """So many tokens of the last draft were accepted, and rejected; it took what it took."""
        before = self._model.seen
        self._model.seen = before[0] * FADE + accepted, before[1] * FADE + rejected
        self._pauses = 1 if accepted else min(2 * self._pauses, PAUSES)
        self._pause(self._spent / (self._cost.single or self._spent), position)
        self._spent = 0.0

    def _pause(self, cost: float, position: int) -> None:
        """Set where the next probe may be: after one that costs so many passes, it is a small share of the time."""
        cost += self._cost.of(PROBE + 1) - 1
        self._until = position + max(1, int(self._pauses * cost / SHARE))


def _moved(value: float | None, seen: float) -> float:
    """An average that follows what is seen."""
    return seen if value is None else value + 0.2 * (seen - value)

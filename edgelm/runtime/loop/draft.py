"""A draft model: a second, small model's greedy tokens are guesses, which the large one checks in one pass.

Leviathan et al. 2022 (arXiv:2211.17192) and Chen et al. 2023 (arXiv:2302.01318), with guesses that are certain of
themselves: how they are checked, and why the tokens stay those of the large model, is told in `speculation`. Guesses
that prompt lookup makes cost nothing and are taken first, where they promise as much.

Whether the draft model is asked is decided by time, its own included: what its passes take is measured beside those of
the large one.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from edgelm.bundle.reader import TOKENIZER
from edgelm.errors import DeviceError, OptionError
from edgelm.runtime.kv.memory_limit import Room, fit_both
from edgelm.runtime.loop.generate import Interrupt
from edgelm.runtime.loop.speculation import FADE, PAUSES, PROBE, SHARE, PassCost, PromptLookup, best_length
from edgelm.runtime.prefill import PREFILL_CHUNK, prefill_pieces

if TYPE_CHECKING:
    from edgelm.bundle.reader import Bundle
    from edgelm.runtime.engine import Engine, KVState
    from edgelm.runtime.sample.sampling import Floats
    from edgelm.runtime.text.tokenizer import Tokenizer

_PRIOR = (2.0, 1.0)  # guesses right and wrong, assumed before any was seen
_PROMPT = 0.25  # of a single pass, assumed of a token that is read with many others
_MANY = 8  # tokens of a pass that tells what reading a prompt takes
_AGAIN = 64  # passes after which one without a guess measures again what such a pass takes


def load_both(
    bundle: Bundle,
    tokenizer: Tokenizer,
    draft: Bundle,
    *,
    max_memory_mb: float | None = None,
    threads: int | None = None,
    disable_spinning: bool = True,
    **options: Any,
) -> tuple[Engine, DraftModel]:
    """Load a bundle, and another one as its draft model.

    Args:
        bundle: the large one.
        tokenizer: of it.
        draft: the small one.
        max_memory_mb: for both together.
        threads, disable_spinning: see `Engine.load`.
        options: others of `Engine.load`.

    Raises:
        OptionError: their tokens differ, or the large one cannot take back what was guessed wrong for nothing.
        BundleError, DeviceError: one of them cannot be loaded.
    """
    from edgelm.runtime.engine import Engine
    from edgelm.runtime.text.prompt import text_tools

    hashes = [b.files[TOKENIZER].sha256 for b in (bundle, draft)]
    if hashes[0] != hashes[1] and not tokenizer.same_ids(text_tools(draft)[0]):
        raise OptionError(
            f"draft {draft.path} has other tokens than {bundle.path}: its guesses would mean something else",
            hint="take a smaller model of the same family, exported with the same tokenizer",
        )
    rooms: tuple[Room | None, Room | None] = (None, None)
    if max_memory_mb is not None:
        rooms = fit_both(bundle.manifest, draft.manifest, max_memory_mb)
    engine = Engine.load(bundle, threads=threads, room=rooms[0], disable_spinning=disable_spinning, **options)
    try:
        if engine.room_after(0) == 0:
            raise OptionError(
                f"{bundle.path} cannot take back a wrong guess without reading again, so that guesses do not pay",
                hint="leave the draft out",
            )
        small = Engine.load(draft, threads=engine.threads, room=rooms[1], disable_spinning=disable_spinning, **options)
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
        """Seconds of a token guessed, where a pass of the large model takes `single`."""
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
    """A small model beside a large one, and the text it has read in each of the large one's states.

    Args:
        engine: of the small model; it becomes this object's.
        vocab_size: ids that the large model knows.
        eos: ids that end a text: nothing is guessed from there on.
        share: of the large model's time a token takes it, about; such as the ratio of weights read.

    Attributes:
        cost: what its passes take.
        seen: its guesses right and wrong, the older ones counting less.
    """

    def __init__(self, engine: Engine, vocab_size: int, eos: Collection[int], share: float) -> None:
        self.engine = engine
        self.cost = CostEstimate(share)
        self.seen = _PRIOR
        self._known = min(engine.vocab_size, vocab_size)
        self._eos = frozenset(eos)
        self._own = engine.new_state()
        self._states: WeakKeyDictionary[KVState, KVState] = WeakKeyDictionary()

    def use(self, state: KVState | None) -> None:
        """Read beside `state` of the large model from now on; None stands for that of no session."""
        if state is not None and state not in self._states:
            self._states[state] = self.engine.new_state()
        self.engine.use(self._own if state is None else self._states[state])

    def missing(self, history: Sequence[int], sure: int) -> int:
        """How many tokens of `history` would have to be read; the first `sure` are known to be in the cache."""
        return len(history) - self._common(history, sure)

    def room(self, history: Sequence[int]) -> int:
        """How many tokens it could guess after `history` before its context is full."""
        return self.engine.context - len(history) + 1

    def guess(self, history: Sequence[int], sure: int, count: int, interrupt: Interrupt) -> list[int]:
        """The likeliest tokens after `history`, at most `count`.

        Args:
            history: the text.
            sure: how many of its tokens are known to be in the cache.
            count: 1 … `room`.
            interrupt: asked before every pass; where it gives a reason there is no guess.
        """
        same = self._common(history, sure)
        try:
            self.engine.rewind(same)
            if max(history[same:]) >= self.engine.vocab_size:
                return []
            return self._decode(history, count, interrupt)
        except DeviceError:  # the memory allowed is taken by other sessions, whose caches can be made again
            self._states.clear()
            self.use(None)
            self.engine.reset()
            return []
        except BaseException:  # the cache may hold half a step
            with contextlib.suppress(Exception):
                self.engine.reset()
            raise

    def close(self) -> None:
        """Free the model."""
        self.engine.close()

    def _decode(self, history: Sequence[int], count: int, interrupt: Interrupt) -> list[int]:
        guess: list[int] = []
        pieces = prefill_pieces(history[self.engine.position :], PREFILL_CHUNK, self.engine.rewinds)
        while pieces:
            for piece, wanted in pieces:
                if interrupt():
                    return []
                started = time.perf_counter()
                logits = self.engine.forward(piece, wanted)
                self.cost.record(len(piece), time.perf_counter() - started)
            token = self._choose(logits[-1, : self._known])
            if token in self._eos:
                break
            guess.append(token)
            pieces = [([token], 1)] if len(guess) < count else []
        return guess

    def _choose(self, logits: Floats) -> int:
        """The likeliest token."""
        return int(logits.argmax())

    def _common(self, history: Sequence[int], sure: int) -> int:
        """Tokens at the beginning of `history` that are in the cache; at least one is always missing."""
        pairs = zip(self.engine.tokens[sure:], history[sure : len(history) - 1], strict=False)
        return sure + sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


class ModelDrafter:
    """Guesses of one generation: those of prompt lookup or of a draft model, whichever promises more; none while
    neither pays.

    Args:
        model: the draft model.
        lookup: guesses from the text itself.
        cost: of the large model's passes.
        interrupt: ends the generation before its time.

    Attributes:
        drafted: tokens guessed.
        accepted: of these, how many were right.
    """

    def __init__(self, model: DraftModel, lookup: PromptLookup, cost: PassCost, interrupt: Interrupt) -> None:
        self._model, self._lookup, self._cost, self._interrupt = model, lookup, cost, interrupt
        self._sure = 0  # tokens of the text that the draft model has read
        self._own = 0.0  # seconds that its last guess took; 0 for none that is not judged yet
        self._until, self._pauses = 0, 1  # as in PromptLookup
        self._since = 0  # passes since the last one over a single token
        self.drafted = self.accepted = 0

    def draft(self, history: Sequence[int], limit: int) -> list[int]:
        """The tokens that may follow `history`, at most `limit`; often none."""
        if self._own:  # the last guess was cut to nothing, by the form that the text must have
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
        guess = self._model.guess(history, self._sure, min(length, limit), self._interrupt)
        self._own = time.perf_counter() - started
        self._sure = min(len(history), self._model.engine.position)
        return guess

    def checked(self, drafted: int, accepted: int, position: int) -> None:
        """The first `accepted` of the last guess of `drafted` tokens were right; the text has `position` tokens now."""
        self.drafted += drafted
        self.accepted += accepted
        if self._own:
            self._judged(accepted, int(accepted < drafted), position)
        else:
            self._lookup.checked(drafted, accepted, position)

    def passed(self, tokens: int, seconds: float) -> None:
        """A pass of the large model over `tokens`, and undoing what was wrong in it, took so long."""
        self._since = 0 if tokens == 1 else self._since + 1
        self._lookup.passed(tokens, seconds)

    def _plan(self, history: Sequence[int], limit: int, single: float) -> tuple[int, float]:
        """How many tokens to have guessed, and how many times as fast that promises to be."""
        model, (right, wrong) = self._model, self._model.seen
        each = model.cost.token(single) / single
        length, promise = best_length(right / (right + wrong), lambda count: self._cost.of(count + 1) + count * each)
        # What it has yet to read of the text must be won back by the tokens that are left.
        behind = (model.missing(history, self._sure) - 1) * model.cost.prompt(single) / single
        if length and behind <= limit * (1 - 1 / promise):
            return length, promise
        if not self._until:
            self._pause(behind + PROBE * each, len(history))
        return PROBE if len(history) >= self._until and not length else 0, 1.0

    def _judged(self, right: int, wrong: int, position: int) -> None:
        """So many of the last guess were right, and wrong; it took what it took."""
        known, unknown = self._model.seen
        self._model.seen = known * FADE + right, unknown * FADE + wrong
        self._pauses = 1 if right else min(2 * self._pauses, PAUSES)
        self._pause(self._own / (self._cost.single or self._own), position)
        self._own = 0.0

    def _pause(self, cost: float, position: int) -> None:
        """Set where the next probe may be: after one whose guess costs so many passes, it is a small share of the time."""
        cost += self._cost.of(PROBE + 1) - 1
        self._until = position + max(1, int(self._pauses * cost / SHARE))


def _moved(value: float | None, seen: float) -> float:
    """An average that follows what is seen."""
    return seen if value is None else value + 0.2 * (seen - value)

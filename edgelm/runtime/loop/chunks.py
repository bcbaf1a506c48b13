"""One generation from ids to chunks of text: the loop, the tokenizer and the stop strings together."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from edgelm.runtime.loop.generate import Drafter, FinishReason, Follow, generate_step
from edgelm.runtime.loop.request import Request
from edgelm.runtime.loop.results import Chunk, Stopwatch, Timings
from edgelm.runtime.loop.speculation import PassCost, PromptLookup
from edgelm.runtime.sample.sampling import Sampler, make_sampler
from edgelm.runtime.text.tokenizer import Detokenizer, StopStrings, Tokenizer

if TYPE_CHECKING:
    from edgelm.runtime.engine import Engine
    from edgelm.runtime.loop.draft import DraftModel, ModelDrafter
    from edgelm.runtime.loop.structured import Grammar
    from edgelm.runtime.sample.logprobs import TokenLogprob


def generate_chunks(
    engine: Engine,
    tokenizer: Tokenizer,
    eos: frozenset[int],
    request: Request,
    cost: PassCost,
    draft: DraftModel | None = None,
) -> Generator[Chunk, None, Chunk]:
    """Yield every chunk but the last, and return that one."""
    pending, text = list[int](), ""
    watch = Stopwatch(
        len(request.ids), reuse(engine, request.ids if request.reuse_cache else []), request.encode_seconds
    )
    healing = request.healing
    writer = _Writer(tokenizer, request.config.stop, "" if healing is None else healing.text)
    lookup = _drafter(engine, request, cost, draft)
    records: list[TokenLogprob] = []
    sampler, drafter, follow = _constrained(request.grammar, make_sampler(request.config, len(request.ids)), lookup)
    sampler = sampler if healing is None else healing.sampler(sampler, len(request.ids))
    steps = generate_step(
        engine,
        request.ids,
        _recorded(sampler, tokenizer, request.logprobs, records),
        max_tokens=request.config.max_tokens,
        eos=eos,
        interrupt=request.interrupt,
        progress=watch.prefilled,
        drafter=drafter,
        follow=follow,
    )

    def chunk(reason: FinishReason | None = None, timings: Timings | None = None) -> Chunk:
        """What has come since the last one."""
        known = None if request.logprobs is None else tuple(records[: len(pending)])
        done = Chunk(text, tuple(pending), reason, timings, known)
        del records[: len(pending)]
        pending.clear()
        return done

    try:
        if request.echo:
            yield Chunk(request.echo, (), logprobs=None if request.logprobs is None else ())
        while True:
            watch.start()
            step = _next(steps)
            if isinstance(step, str):
                break
            watch.token()
            pending.append(step)
            text = writer.push(step)
            if writer.stopped:
                step = "stop"
                break
            if text:
                yield chunk()
                text = ""
        text += writer.flush()
    except GeneratorExit:
        raise
    except BaseException:  # the cache may hold half a step
        with contextlib.suppress(Exception):
            engine.reset()
        raise
    finally:
        steps.close()
    return chunk("stop" if writer.stopped else step, watch.timings(lookup))


def _drafter(
    engine: Engine, request: Request, cost: PassCost, draft: DraftModel | None
) -> PromptLookup | ModelDrafter | None:
    """What guesses tokens, or None. Where going back means reading again, a wrong guess costs more than a right one saves."""
    if not request.speculate or engine.room_after(0) == 0:
        return None
    lookup = PromptLookup(cost)
    if draft is None:
        return lookup
    from edgelm.runtime.loop.draft import ModelDrafter

    draft.use(request.state)
    return ModelDrafter(draft, lookup, cost, request.interrupt)


def _recorded(sampler: Sampler, tokenizer: Tokenizer, count: int | None, records: list[TokenLogprob]) -> Sampler:
    """The sampler, which adds to `records` where log-probabilities are wanted."""
    if count is None:
        return sampler
    from edgelm.runtime.sample.logprobs import recording

    return recording(sampler, tokenizer, count, records.append)


def _constrained(
    grammar: Grammar | None, sampler: Sampler, drafter: Drafter | None
) -> tuple[Sampler, Drafter | None, Follow]:
    """Sampler, drafter, and what follows a token, where a grammar has a say in them."""
    if grammar is None:
        return sampler, drafter, lambda token: ((token,), False)
    from edgelm.runtime.loop.structured import GrammarDrafter

    return (
        lambda logits, history: sampler(grammar.mask(logits), history),
        None if drafter is None else GrammarDrafter(drafter, grammar),
        lambda token: (grammar.follow(token), grammar.finished),
    )


def reuse(engine: Engine, ids: Sequence[int]) -> int:
    """Rewind the engine to what its cache has in common with `ids`, at least one token short of all of them.

    Returns:
        the number of tokens in common.
    """
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(engine.tokens, ids[:-1], strict=False)))
    if same:
        engine.rewind(same)
    else:
        engine.reset()
    return same


class _Writer:
    """Ids to text that may be shown: detokenised, behind what the prompt holds already, up to the first stop string."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], known: str = "") -> None:
        self._detokenizer, self._known = Detokenizer(tokenizer), known
        self._stops = StopStrings(stop)

    @property
    def stopped(self) -> bool:
        return self._stops.matched is not None

    def push(self, token: int) -> str:
        return self._stops.push(self._new(self._detokenizer.push(token)))

    def flush(self) -> str:
        return self._stops.push(self._new(self._detokenizer.flush())) + self._stops.flush()

    def _new(self, text: str) -> str:
        """The text without what is known of it."""
        count = min(len(text), len(self._known))
        self._known = self._known[count:]
        return text[count:]


def _next(steps: Generator[int, None, FinishReason]) -> int | FinishReason:
    try:
        return next(steps)
    except StopIteration as end:
        reason: FinishReason = end.value
        return reason

"""One generation from ids to chunks of text: the loop, the tokenizer and the stop strings together."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from edgelm.runtime.kv.prefill import common
from edgelm.runtime.loop.generate import Drafter, FinishReason, Follow, generate_step
from edgelm.runtime.loop.request import Request
from edgelm.runtime.loop.results import Chunk, Stopwatch, Timings
from edgelm.runtime.loop.speculation import PassCost, PromptLookup
from edgelm.runtime.sample.sampling import Floats, Sampler, make_sampler
from edgelm.runtime.text.stop_strings import StoppedText
from edgelm.runtime.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from edgelm.runtime.loop.draft import DraftModel, ModelDrafter
    from edgelm.runtime.loop.structured import Grammar
    from edgelm.runtime.model import Sequence as TextSequence
    from edgelm.runtime.sample.logprobs import TokenLogprob


def generate_chunks(
    request: Request, tokenizer: Tokenizer, cost: PassCost, draft: DraftModel | None = None
) -> Generator[Chunk, None, Chunk]:
    """Yield every chunk but the last, and return that one.

    Args:
        request: what is generated, and in which sequence.
        tokenizer: of the model.
        cost: of the model's passes.
        draft: drafts tokens, or None.
    """
    cached = reuse(request.sequence, request.ids if request.reuse_cache else [])
    watch = Stopwatch(len(request.ids), cached, request.encode_seconds)
    drafter = _drafter(request, cost, draft)
    out = Output(request, tokenizer)
    steps = _steps(request, tokenizer, watch, drafter, out.records)
    try:
        if request.echo:
            yield out.echo(request.echo)
        while True:
            watch.start()
            step = _next(steps)
            if isinstance(step, str):
                break
            watch.token()
            out.push(step)
            if out.stopped:
                step = "stop"
                break
            if out.text:
                yield out.take()
        out.flush()
    except GeneratorExit:
        raise
    except BaseException:  # the cache may hold half a step
        with contextlib.suppress(Exception):
            request.sequence.reset()
        raise
    finally:
        steps.close()
    return out.take("stop" if out.stopped else step, watch.timings(drafter))


def _steps(
    request: Request,
    tokenizer: Tokenizer,
    watch: Stopwatch,
    drafter: Drafter | None,
    records: list[TokenLogprob],
) -> Generator[int, None, FinishReason]:
    """The ids of the generation; where log-probabilities are wanted, those of each go to `records`."""
    sampler, drafter, follow = choosing(request, tokenizer, drafter, records)
    return generate_step(
        request.sequence,
        request.ids,
        sampler,
        request.limits,
        progress=watch.prefilled,
        drafter=drafter,
        follow=follow,
    )


def choosing(
    request: Request, tokenizer: Tokenizer, drafter: Drafter | None, records: list[TokenLogprob]
) -> tuple[Sampler, Drafter | None, Follow]:
    """What chooses the tokens of a request, what drafts them, and what follows a token; see `_steps`."""
    count, healing = len(request.ids), request.healing
    sampler, drafter, follow = _constrained(request.grammar, make_sampler(request.config, count), drafter)
    sampler = sampler if healing is None else healing.sampler(sampler, count)
    return _recorded(sampler, tokenizer, request.logprobs, records), drafter, follow


class Output:
    """What has come since the last chunk.

    Args:
        request: whose output it is.
        tokenizer: of the model.

    Attributes:
        text: that may be shown.
        records: log-probabilities of the tokens, where they are wanted.
    """

    def __init__(self, request: Request, tokenizer: Tokenizer) -> None:
        healing = request.healing
        self._writer = StoppedText(tokenizer, request.config.stop, "" if healing is None else healing.text)
        self._recorded = request.logprobs is not None
        self._tokens: list[int] = []
        self.records: list[TokenLogprob] = []
        self.text = ""

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the text."""
        return self._writer.stopped

    def echo(self, text: str) -> Chunk:
        """A chunk of the prompt's own text."""
        return Chunk(text, (), logprobs=() if self._recorded else None)

    def push(self, token: int) -> None:
        """A token has come."""
        self._tokens.append(token)
        self.text += self._writer.push(token)

    def flush(self) -> None:
        """No more tokens come."""
        self.text += self._writer.flush()

    def take(self, reason: FinishReason | None = None, timings: Timings | None = None) -> Chunk:
        """It, as a chunk; then there is nothing."""
        count = len(self._tokens)
        chunk = Chunk(
            self.text, tuple(self._tokens), reason, timings, tuple(self.records[:count]) if self._recorded else None
        )
        del self.records[:count]
        self._tokens.clear()
        self.text = ""
        return chunk


def _drafter(request: Request, cost: PassCost, draft: DraftModel | None) -> PromptLookup | ModelDrafter | None:
    """What drafts tokens, or None. Where going back means reading again, a rejected draft costs more than others save."""
    if not request.speculate or request.sequence.room_after(0) == 0:
        return None
    lookup = PromptLookup(cost)
    if draft is None:
        return lookup
    from edgelm.runtime.loop.draft import ModelDrafter

    return ModelDrafter(draft, draft.beside(request.sequence), lookup, cost, request.limits.interrupt)


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

    def choose(logits: Floats, history: Sequence[int]) -> int:
        if grammar.tries and grammar.allows(token := sampler(logits, history)):
            return token
        return sampler(grammar.mask(logits), history)

    return (
        choose,
        None if drafter is None else GrammarDrafter(drafter, grammar),
        lambda token: (grammar.follow(token), grammar.finished),
    )


def reuse(sequence: TextSequence, ids: Sequence[int]) -> int:
    """Rewind a sequence to what its cache has in common with `ids`, at least one token short of all of them.

    Returns:
        the number of tokens in common.
    """
    sequence.resume(ids[:-1])
    same = common(sequence.tokens, ids[:-1])
    sequence.rewind(same)
    return same


def _next(steps: Generator[int, None, FinishReason]) -> int | FinishReason:
    try:
        return next(steps)
    except StopIteration as end:
        reason: FinishReason = end.value
        return reason

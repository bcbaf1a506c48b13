"""The generation loop: ids in, ids out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from typing import TYPE_CHECKING, Literal

from edgelm.errors import PromptError
from edgelm.runtime.sampling import Floats, Sampler

if TYPE_CHECKING:
    from edgelm.runtime.engine import Engine

FinishReason = Literal["stop", "length", "cancelled", "deadline"]
Interrupt = Callable[[], FinishReason | None]

PREFILL_CHUNK = 512  # tokens a forward pass takes of a prompt: large enough for full speed, small enough to be stopped


def generate_step(
    engine: Engine,
    prompt_ids: Sequence[int],
    sampler: Sampler,
    *,
    max_tokens: int,
    eos: Collection[int] = (),
    interrupt: Interrupt = lambda: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    prefill_chunk: int = PREFILL_CHUNK,
) -> Generator[int, None, FinishReason]:
    """Prefill the prompt, then sample, yield and feed back one token after the other.

    No pass runs whose logits nobody needs: a token is fed back only when the next one is asked for, and the last
    one never.

    Args:
        engine: its KV cache holds the first ``engine.position`` tokens of the prompt already, 0 for a fresh start.
        prompt_ids: the whole prompt, at least one token longer than what is cached.
        sampler: from `make_sampler`; sees the prompt and every token since.
        max_tokens: tokens to yield at most.
        eos: ids that end the text; they are not yielded.
        interrupt: asked before every forward pass; a reason ends the generation there.
        progress: called with (tokens in the cache, tokens of the prompt) after every pass of the prefill.
        prefill_chunk: tokens of the prompt per pass.

    Yields:
        the generated ids.

    Returns:
        ``stop`` (an id of `eos`), ``length`` (`max_tokens`, or the context is full), or what `interrupt` gave.

    Raises:
        PromptError: the prompt is empty, or longer than the context.
    """
    history = [int(i) for i in prompt_ids]
    if len(history) > engine.context:
        raise PromptError(f"the prompt has {len(history):,} tokens, the context is {engine.context:,}")
    if engine.position >= len(history):
        raise PromptError("the prompt is empty" if not history else "the prompt holds nothing new to this engine")
    logits = None
    for piece in prefill_pieces(history[engine.position :], prefill_chunk, engine.rewinds):
        if reason := interrupt():
            return reason
        logits = engine.forward(piece)
        progress(engine.position, len(history))
    for count in range(1, max_tokens + 1):
        token = sampler(_last(logits), history)
        if token in eos:
            return "stop"
        history.append(token)
        yield token
        if count == max_tokens or engine.position >= engine.context:
            return "length"
        if reason := interrupt():
            return reason
        logits = engine.forward([token])
    return "length"


def prefill_pieces(ids: Sequence[int], size: int, rewinds: bool) -> list[Sequence[int]]:
    """The passes that read `ids`, none longer than `size`.

    Where the engine does not rewind freely it keeps the states after a pass of several tokens. The last token then has
    a pass of its own: a prompt given again begins before it.
    """
    body = len(ids) if rewinds or len(ids) < 3 else len(ids) - 1
    pieces = [ids[start : min(start + size, body)] for start in range(0, body, size)]
    return pieces if body == len(ids) else [*pieces, ids[body:]]


def _last(logits: Floats | None) -> Floats:
    assert logits is not None
    last: Floats = logits[-1]
    return last

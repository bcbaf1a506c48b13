"""Texts that begin with their prompt, each of whose tokens is described, too: ``echo`` with ``logprobs``."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from edgelm.runtime.lm import LM
from edgelm.runtime.loop.results import Chunk, Timings
from edgelm.runtime.sample.logprobs import TokenLogprob
from edgelm.runtime.text.prompt import Prompt


def scored_chunks(lm: LM, prompt: Prompt, top: int, options: Mapping[str, Any]) -> AsyncGenerator[Chunk, None]:
    """The prompt as a chunk, then what follows it.

    Where no more than the most likely next token is asked for, it is known once the prompt is read. If that token would
    end the text, it is described all the same: who scores prompts takes the last token off.

    Args:
        lm: the model.
        prompt: a raw one.
        top: how many of the most likely tokens are told for each place.
        options: see `LM.stream`; `max_tokens` may be 0.
    """
    lm.encode_prompt(prompt, raw=True)  # what is wrong with it is told before the first chunk
    return _chunks(lm, prompt, top, dict(options))


async def _chunks(lm: LM, prompt: Prompt, top: int, options: dict[str, Any]) -> AsyncGenerator[Chunk, None]:
    started, cancel = time.perf_counter(), threading.Event()
    with lm.session() as session:
        try:
            *records, following = await asyncio.to_thread(session.score, prompt, top=top, raw=True, cancel=cancel)
        finally:
            cancel.set()
        seconds = time.perf_counter() - started
        text = lm.tokenizer.decode([record.token for record in records], skip_special=False)
        yield Chunk(text, (), logprobs=tuple(records))
        tokens, temperature = options["max_tokens"], options.get("temperature", lm.config.temperature)
        plain = not options.get("logit_bias") and not options.get("stop")
        if tokens > 1 or (tokens and (temperature or not plain)):
            async with contextlib.aclosing(session.astream(prompt, **options)) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        timings = Timings(len(records), 0, tokens, seconds if tokens else None, seconds, 0.0)
        yield _last(lm, following if tokens else None, timings)


def _last(lm: LM, record: TokenLogprob | None, timings: Timings) -> Chunk:
    if record is None:
        return Chunk("", (), "length", timings, ())
    ends = record.token in lm.bundle.manifest.special_tokens.eos
    text = "" if ends else lm.tokenizer.decode([record.token])
    return Chunk(text, (record.token,), "stop" if ends else "length", timings, (record,))

"""OpenAI's ``/v1/completions``: prompts as they are, without a chat template."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from secrets import token_hex
from typing import Any

from starlette.responses import Response

from edgelm.runtime.loop.results import Timings
from edgelm.runtime.sample.logprobs import MOST, TokenLogprob
from edgelm.serve.backend import Answer, Backend, Events, collect
from edgelm.serve.body import Body
from edgelm.serve.generation import End, Job, Piece
from edgelm.serve.openai_chat import DONE, finish_reason, seeds, timings_of, usage_of
from edgelm.serve.options import response_format, sampling
from edgelm.serve.streams import PING, SSE, Json, Stream, event

_DEFAULT_TOKENS = 16  # OpenAI's


async def completions(backend: Backend, body: Body) -> Response:
    """Continue prompts."""
    model, stream = backend.model(body), body.flag("stream")
    head = {
        "id": f"cmpl-{token_hex(12)}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model.name,
    }
    extra = (body.table("stream_options") or Body({})).flag("include_usage")
    jobs = _jobs(backend, body)
    events = await backend.begin(jobs)
    if stream:
        pieces = _streamed(events, head, usage=extra)
        return Stream(SSE, pieces, lambda problem: event(problem.body("openai")), PING)
    answers = await collect(events, len(jobs))
    all_timings = [answer.timings for answer in answers]
    choices = [_whole(number, answer) for number, answer in enumerate(answers)]
    return Json({**head, "choices": choices, "usage": _usage(jobs, all_timings), "timings": timings_of(all_timings[0])})


def _jobs(backend: Backend, body: Body) -> list[Job]:
    model, options = backend.model(body), sampling(body)
    for name in ("suffix", "best_of"):
        if body.data.get(name) not in (None, "", 1):
            body.fail(name, "is not supported")
    tokens = body.integer("max_tokens", 0)
    options["max_tokens"] = _DEFAULT_TOKENS if tokens is None else tokens
    options["raw"] = True
    if (schema := response_format(body)) is not None:
        options["json_schema"] = schema
    top, echo = None, body.flag("echo")
    if body.has("logprobs") and body.data["logprobs"] is not False:
        top = body.integer("logprobs", 0, MOST) or 0
        options |= {"logprobs": True, "top_logprobs": top}
    if tokens == 0 and (top is None or not echo):
        body.fail("max_tokens", "may be 0 only with echo and logprobs")
    options["echo"] = echo and top is None
    count = body.integer("n", 1, backend.settings.limits.choices) or 1
    score = top if echo else None
    return [backend.job(model, p, options | own, score=score) for p in prompts(body) for own in seeds(options, count)]


def prompts(body: Body) -> list[str | list[int]]:
    """The prompts of a request: texts, or lists of ids."""
    given: Any = body.data.get("prompt")
    if isinstance(given, str) or _is_ids(given):
        return [given]
    if not isinstance(given, list) or not given or not all(isinstance(p, str) or _is_ids(p) for p in given):
        body.fail("prompt", "must be a string, an array of token ids, or an array of these")
    return given


def _is_ids(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(isinstance(i, int) and not isinstance(i, bool) for i in value)
    )


def _usage(jobs: Sequence[Job], timings: Sequence[Timings]) -> dict[str, Any]:
    """Tokens of all prompts, each counted once, and of all texts."""
    each = [usage_of([t for job, t in zip(jobs, timings, strict=True) if job.prompt == p]) for p in _distinct(jobs)]
    keys = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {key: sum(usage[key] for usage in each) for key in keys}


def _distinct(jobs: Sequence[Job]) -> list[Any]:
    found: list[Any] = []
    for job in jobs:
        if job.prompt not in found:
            found.append(job.prompt)
    return found


async def _streamed(events: Events, head: Mapping[str, Any], *, usage: bool) -> AsyncGenerator[bytes, None]:
    ended, offsets = list[Timings](), dict[int, int]()
    async with contextlib.aclosing(events):
        async for number, happened in events:
            if isinstance(happened, End):
                ended.append(happened.timings)
                choice = {
                    "index": number,
                    "text": "",
                    "logprobs": None,
                    "finish_reason": finish_reason(happened.reason),
                }
                figures = {"usage": usage_of([happened.timings]), "timings": timings_of(happened.timings)}
                yield event({**head, "choices": [choice], **figures})
            elif isinstance(happened, Piece) and (happened.text or happened.logprobs):
                records = logprobs_dict(happened.logprobs, offsets.get(number, 0))
                offsets[number] = offsets.get(number, 0) + len(happened.text)
                choice = {"index": number, "text": happened.text, "logprobs": records, "finish_reason": None}
                yield event({**head, "choices": [choice]})
    if usage:
        yield event({**head, "choices": [], "usage": usage_of(ended)})
    yield DONE


def _whole(number: int, answer: Answer) -> dict[str, Any]:
    return {
        "index": number,
        "text": answer.text,
        "logprobs": logprobs_dict(answer.logprobs, 0),
        "finish_reason": finish_reason(answer.reason),
    }


def logprobs_dict(records: Sequence[TokenLogprob] | None, offset: int) -> dict[str, Any] | None:
    """Log-probabilities in the form of completions; `offset` is the place of the first token in the text."""
    if not records:
        return None
    offsets = []
    for record in records:
        offsets.append(offset)
        offset += len(record.text)
    return {
        "tokens": [record.text for record in records],
        "token_logprobs": [None if math.isnan(record.logprob) else record.logprob for record in records],
        "top_logprobs": [None if math.isnan(record.logprob) else _top(record) for record in records],
        "text_offset": offsets,
    }


def _top(record: TokenLogprob) -> dict[str, float]:
    """The most likely tokens by their text; of several that look alike, the most likely."""
    found: dict[str, float] = {}
    for other in record.top:
        found.setdefault(other.text, other.logprob)
    return found

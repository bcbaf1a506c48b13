"""OpenAI's ``/v1/chat/completions``."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from secrets import token_hex
from typing import Any

from starlette.responses import Response

from edgelm.runtime.loop.results import Timings
from edgelm.runtime.sample.logprobs import Alternative, TokenLogprob
from edgelm.serve.backend import Answer, Backend, Events, collect
from edgelm.serve.body import Body
from edgelm.serve.calls import ToolCall
from edgelm.serve.generation import End, Job, Piece
from edgelm.serve.messages import chat_messages, function_tools
from edgelm.serve.options import effort, response_format, sampling, text_form, tool_choice
from edgelm.serve.streams import PING, SSE, Json, Stream, event

DONE = b"data: [DONE]\n\n"


async def chat(backend: Backend, body: Body) -> Response:
    """Answer a conversation."""
    model = backend.model(body)
    jobs = _jobs(backend, body)
    head = {"id": f"chatcmpl-{token_hex(12)}", "created": int(time.time()), "model": model.name}
    stream = body.flag("stream")
    extra = (body.table("stream_options") or Body({})).flag("include_usage")
    several = body.flag("parallel_tool_calls", True)
    events = await backend.begin(jobs)
    if stream:
        pieces = _streamed(events, {**head, "object": "chat.completion.chunk"}, len(jobs), usage=extra, several=several)
        return Stream(SSE, pieces, lambda problem: event(problem.body("openai")), PING)
    answers = await collect(events, len(jobs))
    choices = [_choice(number, answer, several) for number, answer in enumerate(answers)]
    all_timings = [answer.timings for answer in answers]
    found = {**head, "object": "chat.completion", "choices": choices, "usage": usage_of(all_timings)}
    return Json(found | {"timings": timings_of(all_timings[0])})


def _jobs(backend: Backend, body: Body) -> list[Job]:
    model, options = backend.model(body), sampling(body)
    messages = chat_messages(body)
    form = text_form(response_format(body), function_tools(body), tool_choice(body))
    options |= form.options
    options["max_tokens"] = body.integer("max_completion_tokens", 1) or body.integer("max_tokens", 1)
    options |= {"parse_special": backend.settings.parse_special, "template_args": template_arguments(body)}
    if body.flag("logprobs"):
        options |= {"logprobs": True, "top_logprobs": body.integer("top_logprobs", 0, 20) or 0}
    return [
        backend.job(model, messages, options | own, tools=form.tools, forced=form.forced)
        for own in seeds(options, body.integer("n", 1, backend.settings.limits.choices) or 1)
    ]


def template_arguments(body: Body) -> dict[str, Any]:
    """What the chat template is given: ``chat_template_kwargs``, as llama.cpp and vLLM have it, and the effort to think with."""
    table = body.table("chat_template_kwargs")
    return effort(body.text("reasoning_effort")) | ({} if table is None else dict(table.data))


def seeds(options: Mapping[str, Any], count: int) -> list[dict[str, int]]:
    """What tells several texts of a request apart."""
    seed = options.get("seed")
    return [{} if seed is None else {"seed": seed + number} for number in range(count)]


async def _streamed(
    events: Events, head: Mapping[str, Any], count: int, *, usage: bool, several: bool
) -> AsyncGenerator[bytes, None]:
    counts, ended = [0] * count, list[Timings]()

    def chunk(number: int, delta: Mapping[str, Any], reason: str | None = None, **more: Any) -> bytes:
        choice = {"index": number, "delta": delta, "logprobs": more.pop("logprobs", None), "finish_reason": reason}
        return event({**head, "choices": [choice], **more})

    async with contextlib.aclosing(events):
        for number in range(count):
            yield chunk(number, {"role": "assistant", "content": ""})
        async for number, happened in events:
            if isinstance(happened, End):
                ended.append(happened.timings)
                figures = {"usage": usage_of([happened.timings]), "timings": timings_of(happened.timings)}
                yield chunk(number, {}, finish_reason(happened.reason, happened.calls), **figures)
            elif isinstance(happened, Piece):
                delta, told = _delta(happened, counts[number]), _logprobs(happened.logprobs)
                if happened.call is not None and counts[number] and not several:
                    continue
                counts[number] += happened.call is not None
                if delta or told:
                    yield chunk(number, delta, logprobs=told)
    if usage:
        yield event({**head, "choices": [], "usage": usage_of(ended)})
    yield DONE


def _delta(piece: Piece, calls: int) -> dict[str, Any]:
    if piece.call is not None:
        return {"tool_calls": [{"index": calls, **call_dict(piece.call)}]}
    if piece.thought:
        return {"reasoning_content": piece.thought}
    return {"content": piece.text} if piece.text else {}


def _choice(number: int, answer: Answer, several: bool) -> dict[str, Any]:
    calls = answer.calls if several else answer.calls[:1]
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.thought:
        message["reasoning_content"] = answer.thought
    if calls:
        message |= {"content": answer.text or None, "tool_calls": [call_dict(call) for call in calls]}
    return {
        "index": number,
        "message": message,
        "logprobs": _logprobs(answer.logprobs or None),
        "finish_reason": finish_reason(answer.reason, len(calls)),
    }


def call_dict(call: ToolCall) -> dict[str, Any]:
    """A call, its arguments as a string."""
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def finish_reason(reason: str, calls: int = 0) -> str:
    """Why a text ended, in OpenAI's words."""
    if calls:
        return "tool_calls"
    return "length" if reason in ("length", "deadline") else "stop"


def usage_of(timings: Sequence[Timings]) -> dict[str, Any]:
    """Tokens of a request; a prompt that several texts share counts once."""
    prompt = max((t.prompt_tokens for t in timings), default=0)
    cached = max((t.cached_tokens for t in timings), default=0)
    completion = sum(t.completion_tokens for t in timings)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def timings_of(timings: Timings) -> dict[str, Any]:
    """What a text took; times in milliseconds."""
    return {
        "prompt_tokens": timings.prompt_tokens,
        "cached_tokens": timings.cached_tokens,
        "prompt_ms": round(timings.prefill_seconds * 1000, 3),
        "predicted_tokens": timings.completion_tokens,
        "predicted_ms": round(timings.decode_seconds * 1000, 3),
        "tokens_per_second": timings.decode_tokens_per_second,
    }


def _logprobs(records: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
    if not records:
        return None
    content = [{**_alternative(r), "top_logprobs": [_alternative(other) for other in r.top]} for r in records]
    return {"content": content, "refusal": None}


def _alternative(token: Alternative) -> dict[str, Any]:
    part = "\ufffd" in token.text  # of a character
    return {"token": token.text, "logprob": token.logprob, "bytes": None if part else list(token.text.encode())}

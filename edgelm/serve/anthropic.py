"""Anthropic's ``/v1/messages``."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from secrets import token_hex
from typing import Any

from starlette.responses import Response

from edgelm.runtime.loop.request import rendering
from edgelm.runtime.loop.results import Timings
from edgelm.serve.backend import Answer, Backend, Events, collect
from edgelm.serve.body import Body
from edgelm.serve.calls import ToolCall
from edgelm.serve.generation import End, Job, Piece
from edgelm.serve.messages import content_text
from edgelm.serve.options import sampling, text_form
from edgelm.serve.streams import SSE, Json, Stream, event

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


async def messages(backend: Backend, body: Body) -> Response:
    """Answer a conversation."""
    model, stream = backend.model(body), body.flag("stream")
    if not body.has("max_tokens"):
        body.fail("max_tokens", "is missing")
    head = {"id": f"msg_{token_hex(12)}", "type": "message", "role": "assistant", "model": model.name}
    events = await backend.begin([_job(backend, body)])
    if stream:
        ping = event({"type": "ping"}, "ping")
        return Stream(SSE, _streamed(events, head), lambda p: event(p.body("anthropic"), "error"), ping)
    (answer,) = await collect(events, 1)
    assert answer.end is not None
    return Json({**head, "content": _content(answer), **_ended(answer.end), "usage": _usage(answer.timings)})


async def count_tokens(backend: Backend, body: Body) -> Response:
    """How many tokens a conversation has."""
    job = _job(backend, body)
    how = rendering(job.options)
    async with backend.pool.using(job.model) as lm:
        return Json({"input_tokens": await asyncio.to_thread(lm.count_prompt, job.prompt, how=how)})


def _job(backend: Backend, body: Body) -> Job:
    options = sampling(body) | {"stop": body.strings("stop_sequences") or None}
    thinking = (body.table("thinking") or Body({})).text("type") in ("enabled", "adaptive")
    options |= {"max_tokens": body.integer("max_tokens", 1), "parse_special": backend.settings.parse_special}
    options["template_args"] = {"enable_thinking": thinking}
    form = text_form(None, _tools(body), _choice(body))
    conversation = _system(body) + [part for message in body.tables("messages") for part in _of_message(message)]
    if not conversation:
        body.fail("messages", "must hold at least one message")
    return backend.job(backend.model(body), conversation, options | form.options, tools=form.tools, forced=form.forced)


def _system(body: Body) -> list[dict[str, Any]]:
    text = content_text(body.data.get("system"), "system")
    return [{"role": "system", "content": text}] if text else []


def _of_message(message: Body) -> Iterator[dict[str, Any]]:
    """A message as templates have them: results of tools are messages of their own."""
    role = message.text("role")
    if role not in ("user", "assistant", "system"):
        message.fail("role", "must be user or assistant")
    if not isinstance(message.data.get("content"), list):
        if not message.has("content"):
            message.fail("content", "is missing")
        yield {"role": role, "content": content_text(message.data["content"], message.name("content"))}
        return
    texts, thoughts, calls = list[str](), list[str](), list[dict[str, Any]]()
    for block in message.tables("content"):
        kind = block.text("type")
        if kind == "tool_result":
            content = content_text(block.data.get("content"), block.name("content"))
            yield {"role": "tool", "content": content, "tool_call_id": block.text("tool_use_id") or ""}
        elif kind == "tool_use":
            given = block.table("input") or Body({})
            function = {"name": block.text("name") or "", "arguments": dict(given.data)}
            calls.append({"type": "function", "id": block.text("id") or "", "function": function})
        elif kind == "thinking":
            thoughts.append(block.text("thinking") or "")
        elif kind != "redacted_thinking":
            texts.append(content_text([block.data], block.name("content")))
    if texts or calls:
        more = {"tool_calls": calls, "reasoning_content": "\n".join(thoughts)}
        yield {"role": role, "content": "\n".join(texts), **{key: value for key, value in more.items() if value}}


def _tools(body: Body) -> list[dict[str, Any]]:
    """Tools, in the form that templates know."""
    found = []
    for tool in body.tables("tools"):
        name, schema = tool.text("name"), tool.table("input_schema")
        if not name or schema is None:
            tool.fail("input_schema", "and name are needed: this server runs no tools of its own")
        function = {"name": name, "description": tool.text("description") or "", "parameters": dict(schema.data)}
        found.append({"type": "function", "function": function})
    return found


def _choice(body: Body) -> str:
    choice = body.table("tool_choice")
    kind = "auto" if choice is None else choice.text("type")
    if choice is not None and kind == "tool":
        return choice.text("name") or choice.fail("name", "is missing")
    return _CHOICES.get(str(kind)) or body.fail("tool_choice", "must be of type auto, any, tool or none")


async def _streamed(events: Events, head: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
    start = {**head, "content": [], "stop_reason": None, "stop_sequence": None}
    yield _event("message_start", message={**start, "usage": {"input_tokens": 0, "output_tokens": 0}})
    blocks = _Blocks()
    async with contextlib.aclosing(events):
        async for _, happened in events:
            if isinstance(happened, Piece) and (happened.text or happened.thought):
                for piece in blocks.text(happened):
                    yield piece
            elif isinstance(happened, Piece) and happened.call is not None:
                for piece in (*blocks.close(), *_called(blocks.index, happened.call)):
                    yield piece
                blocks.index += 1
            elif isinstance(happened, End):
                for piece in blocks.close():
                    yield piece
                yield _event("message_delta", delta=_ended(happened), usage=_usage(happened.timings))
                yield _event("message_stop")


class _Blocks:
    """The blocks of a message that is written; one of text, or of a thought, may be open.

    Attributes:
        index: of the open one, or of the next.
    """

    def __init__(self) -> None:
        self.index, self._open = 0, ""

    def text(self, piece: Piece) -> Iterator[bytes]:
        """More text, or more of a thought."""
        kind, text = ("text", piece.text) if piece.text else ("thinking", piece.thought)
        if self._open != kind:
            yield from self.close()
            more = {"signature": ""} if kind == "thinking" else {}
            yield _event("content_block_start", index=self.index, content_block={"type": kind, kind: "", **more})
            self._open = kind
        yield _event("content_block_delta", index=self.index, delta={"type": f"{kind}_delta", kind: text})

    def close(self) -> Iterator[bytes]:
        """The open block, if any, is whole."""
        if self._open:
            yield _event("content_block_stop", index=self.index)
            self.index, self._open = self.index + 1, ""


def _called(index: int, call: ToolCall) -> Iterator[bytes]:
    block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
    yield _event("content_block_start", index=index, content_block=block)
    text = json.dumps(call.arguments, ensure_ascii=False)
    yield _event("content_block_delta", index=index, delta={"type": "input_json_delta", "partial_json": text})
    yield _event("content_block_stop", index=index)


def _event(kind: str, **content: Any) -> bytes:
    return event({"type": kind, **content}, kind)


def _content(answer: Answer) -> list[dict[str, Any]]:
    thought = [{"type": "thinking", "thinking": answer.thought, "signature": ""}] if answer.thought else []
    text = [{"type": "text", "text": answer.text}] if answer.text or not (answer.calls or thought) else []
    calls = [{"type": "tool_use", "id": c.id, "name": c.name, "input": c.arguments} for c in answer.calls]
    return [*thought, *text, *calls]


def _ended(end: End) -> dict[str, Any]:
    reason = "max_tokens" if end.reason in ("length", "deadline") else "end_turn"
    if end.stop is not None:
        reason = "stop_sequence"
    return {"stop_reason": "tool_use" if end.calls else reason, "stop_sequence": end.stop}


def _usage(timings: Timings) -> dict[str, int]:
    """Tokens; those of the prompt that were in the KV cache count apart."""
    return {
        "input_tokens": timings.prompt_tokens - timings.cached_tokens,
        "cache_read_input_tokens": timings.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": timings.completion_tokens,
    }

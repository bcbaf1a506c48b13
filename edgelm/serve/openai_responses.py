"""OpenAI's ``/v1/responses``. Nothing is stored: a conversation is sent whole every time."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from itertools import count
from secrets import token_hex
from typing import Any

from starlette.responses import Response

from edgelm.serve.backend import Backend, Events
from edgelm.serve.body import Body
from edgelm.serve.calls import ToolCall
from edgelm.serve.errors import ApiError
from edgelm.serve.generation import End, Job, Piece
from edgelm.serve.messages import arguments, content_text
from edgelm.serve.options import effort, format_schema, sampling, text_form, tool_choice
from edgelm.serve.streams import PING, SSE, Json, Stream, event

# What an item's text is called in its part and events, and what the events hold besides.
_TEXTS: dict[str, tuple[str, dict[str, Any]]] = {
    "message": ("output_text", {"logprobs": []}),
    "reasoning": ("reasoning_text", {}),
}
_IDS = {"message": "msg", "reasoning": "rs"}
_ITEMS: dict[str, dict[str, Any]] = {"message": {"role": "assistant"}, "reasoning": {"summary": []}}
_ECHOED = ("instructions", "max_output_tokens", "metadata", "temperature", "top_p", "user")


async def responses(backend: Backend, body: Body) -> Response:
    """Answer a conversation."""
    model, stream = backend.model(body), body.flag("stream")
    if body.has("previous_response_id") or body.has("conversation"):
        raise ApiError(400, "this server stores no responses: send the conversation", param="previous_response_id")
    head = {
        "id": f"resp_{token_hex(12)}",
        "object": "response",
        "created_at": int(time.time()),
        "model": model.name,
        **{name: body.data.get(name) for name in _ECHOED},
        "parallel_tool_calls": body.flag("parallel_tool_calls", True),
        "previous_response_id": None,
        "store": False,
        "text": body.data.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.data.get("tool_choice") or "auto",
        "tools": body.listing("tools") or [],
    }
    events = await backend.begin([_job(backend, body)])
    writer = _Writer(head)
    if stream:
        return Stream(SSE, writer.streamed(events), writer.failed, PING)
    async with contextlib.aclosing(writer.streamed(events)) as pieces:
        async for _ in pieces:
            pass
    return Json(writer.response)


def _job(backend: Backend, body: Body) -> Job:
    form = text_form(_schema(body), _tools(body), tool_choice(body))
    options = sampling(body) | form.options
    options |= {"max_tokens": body.integer("max_output_tokens", 1), "parse_special": backend.settings.parse_special}
    options["template_args"] = effort((body.table("reasoning") or Body({})).text("effort"))
    return backend.job(backend.model(body), _messages(body), options, tools=form.tools, forced=form.forced)


def _schema(body: Body) -> Any:
    table = (body.table("text") or Body({})).table("format")
    return None if table is None else format_schema(table, table)


def _tools(body: Body) -> list[dict[str, Any]]:
    found = []
    for tool in body.tables("tools"):
        if tool.text("type") != "function" or not tool.text("name"):
            tool.fail("type", "must be function, with a name: this server runs no tools of its own")
        tool.table("parameters")
        known = {key: tool.data[key] for key in ("name", "description", "parameters") if tool.has(key)}
        found.append({"type": "function", "function": known})
    return found


def _messages(body: Body) -> list[dict[str, Any]]:
    instructions = body.text("instructions")
    found: list[dict[str, Any]] = [{"role": "system", "content": instructions}] if instructions else []
    if isinstance(body.data.get("input"), str):
        return [*found, {"role": "user", "content": body.data["input"]}]
    items = [message for item in body.tables("input") if (message := _of_item(item)) is not None]
    if not items:
        body.fail("input", "must be a string, or an array of at least one item")
    return found + items


def _of_item(item: Body) -> dict[str, Any] | None:
    kind = item.text("type") or "message"
    if kind == "message":
        role = item.text("role")
        if not role or not item.has("content"):
            item.fail("role", "and content are needed")
        content = content_text(item.data["content"], item.name("content"))
        return {"role": "system" if role == "developer" else role, "content": content}
    if kind == "function_call":
        function = {"name": item.text("name") or "", "arguments": arguments(item.data.get("arguments"))}
        call = {"type": "function", "id": item.text("call_id") or "", "function": function}
        return {"role": "assistant", "content": "", "tool_calls": [call]}
    if kind == "function_call_output":
        content = content_text(item.data.get("output"), item.name("output"))
        return {"role": "tool", "content": content, "tool_call_id": item.text("call_id") or ""}
    if kind == "reasoning":
        return None
    return item.fail("type", "is not understood")


class _Writer:
    """Makes the events of a response, and the response.

    Args:
        head: what does not change.
    """

    def __init__(self, head: Mapping[str, Any]) -> None:
        self._numbers = count()
        self._item: dict[str, Any] | None = None  # the message, or the thought, that is being written
        self._output: list[dict[str, Any]] = []
        empty: dict[str, Any] = {
            "error": None,
            "incomplete_details": None,
            "output": [],
            "usage": None,
            "status": "in_progress",
        }
        self.response: dict[str, Any] = {**head, **empty}

    async def streamed(self, events: Events) -> AsyncGenerator[bytes, None]:
        """All events."""
        async with contextlib.aclosing(events):
            for kind in ("created", "in_progress"):
                yield self._event(f"response.{kind}", response=self.response)
            async for _, happened in events:
                for piece in self._pieces(happened):
                    yield piece

    def failed(self, problem: ApiError) -> bytes:
        """What an error in the middle looks like."""
        told = {"code": problem.code, "message": str(problem), "param": problem.param}
        return self._event("error", **told, error=problem.body("openai")["error"])

    def _pieces(self, happened: object) -> Iterator[bytes]:
        if isinstance(happened, Piece) and (happened.text or happened.thought):
            yield from (
                self._text(happened.text, "message") if happened.text else self._text(happened.thought, "reasoning")
            )
        elif isinstance(happened, Piece) and happened.call is not None:
            yield from self._close()
            yield from self._call(happened.call)
        elif isinstance(happened, End):
            yield from self._close()
            yield from self._end(happened)

    def _text(self, text: str, kind: str) -> Iterator[bytes]:
        if self._item is not None and self._item["type"] != kind:
            yield from self._close()
        name, more = _TEXTS[kind]
        if self._item is None:
            self._item = {"id": f"{_IDS[kind]}_{token_hex(12)}", "type": kind, **_ITEMS[kind], "content": []}
            self._item["status"] = "in_progress"
            yield self._event("response.output_item.added", output_index=len(self._output), item=dict(self._item))
            yield self._event("response.content_part.added", **self._place(), part=_part(name))
            self._item["content"] = [_part(name)]
        self._item["content"][0]["text"] += text
        yield self._event(f"response.{name}.delta", **self._place(), delta=text, **more)

    def _close(self) -> Iterator[bytes]:
        """What is being written, if anything, is whole."""
        if self._item is None:
            return
        self._item["status"] = "completed"
        part, (name, more) = self._item["content"][0], _TEXTS[self._item["type"]]
        yield self._event(f"response.{name}.done", **self._place(), text=part["text"], **more)
        yield self._event("response.content_part.done", **self._place(), part=part)
        yield self._event("response.output_item.done", output_index=len(self._output), item=self._item)
        self._output.append(self._item)
        self._item = None

    def _call(self, call: ToolCall) -> Iterator[bytes]:
        index, text = len(self._output), json.dumps(call.arguments, ensure_ascii=False)
        item = {"id": f"fc_{token_hex(12)}", "type": "function_call", "call_id": call.id, "name": call.name}
        place = {"item_id": item["id"], "output_index": index}
        begun = {**item, "arguments": "", "status": "in_progress"}
        done = {**item, "arguments": text, "status": "completed"}
        yield self._event("response.output_item.added", output_index=index, item=begun)
        yield self._event("response.function_call_arguments.delta", **place, delta=text)
        yield self._event("response.function_call_arguments.done", **place, arguments=text, name=call.name)
        yield self._event("response.output_item.done", output_index=index, item=done)
        self._output.append(done)

    def _end(self, end: End) -> Iterator[bytes]:
        short = end.reason in ("length", "deadline")
        self.response |= {"output": self._output, "usage": _usage(end)}
        self.response["status"] = "incomplete" if short else "completed"
        self.response["incomplete_details"] = {"reason": "max_output_tokens"} if short else None
        yield self._event(f"response.{self.response['status']}", response=self.response)

    def _place(self) -> dict[str, Any]:
        assert self._item is not None
        return {"item_id": self._item["id"], "output_index": len(self._output), "content_index": 0}

    def _event(self, kind: str, **content: Any) -> bytes:
        return event({"type": kind, "sequence_number": next(self._numbers), **content}, kind)


def _part(name: str) -> dict[str, Any]:
    more: dict[str, Any] = {"annotations": [], "logprobs": []} if name == "output_text" else {}
    return {"type": name, "text": "", **more}


def _usage(end: End) -> dict[str, Any]:
    timings = end.timings
    return {
        "input_tokens": timings.prompt_tokens,
        "input_tokens_details": {"cached_tokens": timings.cached_tokens},
        "output_tokens": timings.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": end.thought_tokens},
        "total_tokens": timings.prompt_tokens + timings.completion_tokens,
    }

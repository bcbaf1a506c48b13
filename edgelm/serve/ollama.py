"""Ollama's ``/api/chat`` and ``/api/generate``: lines of JSON, streamed unless told otherwise."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.responses import Response

from edgelm.serve.backend import Answer, Backend, Events, collect
from edgelm.serve.body import Body
from edgelm.serve.calls import ToolCall
from edgelm.serve.errors import ApiError
from edgelm.serve.generation import End, Job, Piece
from edgelm.serve.messages import arguments, content_text, function_tools
from edgelm.serve.ollama_models import api_name
from edgelm.serve.options import effort, sampling, text_form
from edgelm.serve.pool import Served
from edgelm.serve.streams import NDJSON, Json, Stream, line

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")

Said = Callable[[Piece], dict[str, Any]]
"""A piece -> the part of a line that holds it."""


async def chat(backend: Backend, body: Body) -> Response:
    """Answer a conversation; without messages the model is loaded, or unloaded."""
    model = backend.model(body)
    if not body.listing("messages"):
        return await _load(backend, body, model, _message)
    form = text_form(_format(body), function_tools(body), "auto")
    messages = [_of_message(message) for message in body.tables("messages")]
    options = _options(body) | form.options
    options["parse_special"] = backend.settings.parse_special
    job = backend.job(model, messages, options, tools=form.tools, forced=form.forced)
    return await _answer(backend, body, job, _message)


async def generate(backend: Backend, body: Body) -> Response:
    """Answer a prompt, or continue it where it is raw."""
    model, prompt = backend.model(body), body.text("prompt")
    if not prompt:
        return await _load(backend, body, model, _response)
    if body.text("suffix") or body.listing("images"):
        raise ApiError(400, "suffix and images are not supported")
    options = _options(body) | text_form(_format(body), [], "none").options
    raw = body.flag("raw") or model.bundle.chat_template is None
    given: Any = prompt
    if raw:
        options["raw"] = True
    else:
        options["parse_special"] = backend.settings.parse_special
        system = body.text("system")
        given = [{"role": "system", "content": system}] if system else []
        given = [*given, {"role": "user", "content": prompt}]
    return await _answer(backend, body, backend.job(model, given, options), _response)


async def _answer(backend: Backend, body: Body, job: Job, said: Said) -> Response:
    stream = body.flag("stream", True)
    keep = keep_alive(body)
    head = {"model": body.text("model") or api_name(job.model)}
    events = await backend.begin([job])
    job.model.keep_seconds = job.model.keep_seconds if keep is None else keep
    if stream:
        pieces = _streamed(events, head, job, said)
        return Stream(NDJSON, pieces, lambda problem: line(problem.body("ollama")))
    (answer,) = await collect(events, 1)
    return Json({**head, **_stamp(), **_whole(answer, said), **_last(answer.end, job)})


async def _streamed(events: Events, head: Mapping[str, Any], job: Job, said: Said) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(events):
        async for _, happened in events:
            if isinstance(happened, Piece) and (happened.text or happened.thought or happened.call is not None):
                yield line({**head, **_stamp(), **said(happened), "done": False})
            elif isinstance(happened, End):
                yield line({**head, **_stamp(), **said(Piece()), **_last(happened, job)})


def _whole(answer: Answer, said: Said) -> dict[str, Any]:
    found = said(Piece(answer.text, answer.thought))
    if answer.calls:
        found["message"]["tool_calls"] = [_call(call) for call in answer.calls]
    return found


def _message(piece: Piece) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": piece.text, **_thinking(piece)}
    return {"message": message if piece.call is None else {**message, "tool_calls": [_call(piece.call)]}}


def _response(piece: Piece) -> dict[str, Any]:
    return {"response": piece.text, **_thinking(piece)}


def _thinking(piece: Piece) -> dict[str, str]:
    return {"thinking": piece.thought} if piece.thought else {}


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "function": {"name": call.name, "arguments": call.arguments}}


def _stamp() -> dict[str, str]:
    return {"created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z")}


def _last(end: End | None, job: Job) -> dict[str, Any]:
    """What the last line says, times in nanoseconds."""
    assert end is not None
    timings = end.timings
    return {
        "done": True,
        "done_reason": "length" if end.reason in ("length", "deadline") else "stop",
        "total_duration": int((time.monotonic() - job.arrived) * 1e9),
        "load_duration": 0,
        "prompt_eval_count": timings.prompt_tokens,
        "prompt_eval_duration": int(timings.prefill_seconds * 1e9),
        "eval_count": timings.completion_tokens,
        "eval_duration": int(timings.decode_seconds * 1e9),
    }


async def _load(backend: Backend, body: Body, model: Served, said: Said) -> Response:
    """Load a model that is asked nothing, or unload it where it is to be kept for no time."""
    keep = keep_alive(body)
    if keep == 0:
        await backend.pool.unload(model)
    else:
        async with backend.pool.using(model):
            model.keep_seconds = keep
    reason = "unload" if keep == 0 else "load"
    name = body.text("model") or api_name(model)
    return Json({"model": name, **_stamp(), **said(Piece()), "done": True, "done_reason": reason})


def keep_alive(body: Body) -> float | None:
    """Seconds to keep the model for after this request; negative for ever; None where nothing is said.

    Raises:
        ApiError: it is no duration.
    """
    value = body.data.get("keep_alive")
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    text = value if isinstance(value, str) else ""
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    if re.fullmatch(r"\d{1,9}", digits):
        return float(sign * int(digits))
    if not digits or not re.fullmatch(rf"(?:{_DURATION.pattern})+", digits):
        body.fail("keep_alive", "must be seconds, or a duration such as 5m")
    return sign * sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(digits))


def _options(body: Body) -> dict[str, Any]:
    """Those under ``options``; others than edgelm has, such as ``num_ctx``, are passed over."""
    given = body.table("options") or Body({})
    found = sampling(given)
    tokens = given.integer("num_predict", -2)
    think = body.data.get("think")
    if isinstance(think, bool):
        found["template_args"] = {"enable_thinking": think}
    elif think is not None:
        found["template_args"] = effort(body.text("think"))
    return found | ({"max_tokens": tokens} if tokens is not None and tokens > 0 else {})


def _format(body: Body) -> Any:
    """The JSON schema of the answer, or None."""
    value = body.data.get("format")
    if value in (None, ""):
        return None
    if value == "json":
        return {"type": "object"}
    if not isinstance(value, dict):
        body.fail("format", "must be json, or a JSON schema")
    return value


def _of_message(message: Body) -> dict[str, Any]:
    role = message.text("role")
    if not role:
        message.fail("role", "must be a string such as user")
    if message.listing("images"):
        message.fail("images", "are not understood: only text is")
    found: dict[str, Any] = {"role": role, "content": content_text(message.data.get("content"), "content")}
    calls = []
    for call in message.tables("tool_calls"):
        function = call.table("function")
        if function is None or not function.text("name"):
            call.fail("function", "must be an object with a name")
        given = arguments(function.data.get("arguments"))
        calls.append({"type": "function", "function": {"name": function.text("name"), "arguments": given}})
    if calls:
        found["tool_calls"] = calls
    if message.text("thinking"):
        found["reasoning_content"] = message.text("thinking")
    if message.text("tool_name"):
        found["name"] = message.text("tool_name")
    return found

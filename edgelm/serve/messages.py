"""Conversations as OpenAI's interface has them, to messages for a chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgelm.json_text import json_value
from edgelm.serve.body import Body
from edgelm.serve.errors import ApiError

_TEXT_PARTS = ("text", "input_text", "output_text")
_ROLES = {"developer": "system", "function": "tool"}


def chat_messages(body: Body, name: str = "messages") -> list[dict[str, Any]]:
    """The messages under a key.

    Raises:
        ApiError: there are none, or one is malformed or holds something other than text.
    """
    found = [_message(message) for message in body.tables(name)]
    if not found:
        body.fail(name, "must hold at least one message")
    return found


def content_text(content: Any, where: str) -> str:
    """The text of a content: a string, or parts, which are joined.

    Raises:
        ApiError: it is something else, such as a picture.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise ApiError(400, f"{where} must be a string or an array of parts", param=where)
    return "\n".join(_part(part, f"{where}[{index}]") for index, part in enumerate(content))


def tool_calls(calls: Sequence[Body]) -> list[dict[str, Any]]:
    """Earlier calls of tools, their arguments as an object: templates write them out themselves."""
    found = []
    for call in calls:
        function = call.table("function")
        if function is None or not function.text("name"):
            call.fail("function", "must be an object with a name")
        given = function.data.get("arguments")
        entry = {"type": "function", "function": {"name": function.text("name"), "arguments": arguments(given)}}
        found.append(entry | ({"id": call.text("id")} if call.has("id") else {}))
    return found


def arguments(given: Any) -> Any:
    """Arguments of a call: an object where they are one as a string."""
    if not isinstance(given, str):
        return {} if given is None else given
    try:
        value = json_value(given or "{}", surrogates=True)
    except ValueError:
        return given
    return value if isinstance(value, dict) else given


def function_tools(body: Body) -> list[dict[str, Any]]:
    """The tools of a request, checked.

    Raises:
        ApiError: one is no function with a name.
    """
    found = []
    for tool in body.tables("tools"):
        if tool.text("type") not in (None, "function"):
            tool.fail("type", "must be function: this server runs no tools of its own")
        function = tool.table("function") or Body({})
        if not function.text("name"):
            tool.fail("function", "must be an object with a name")
        function.table("parameters")
        found.append({"type": "function", "function": dict(function.data)})
    return found


def _message(message: Body) -> dict[str, Any]:
    role = message.text("role")
    if not role:
        message.fail("role", "must be a string such as user")
    calls = tool_calls(message.tables("tool_calls"))
    content = content_text(message.data.get("content"), message.name("content"))
    found: dict[str, Any] = {"role": _ROLES.get(role, role), "content": content}
    if calls:
        found["tool_calls"] = calls
    elif not message.has("content"):
        message.fail("content", "is missing")
    for key in ("tool_call_id", "name", "reasoning_content"):
        if message.text(key):
            found[key] = message.text(key)
    return found


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    text = part.get("text") if isinstance(part, Mapping) else part
    if (kind is not None and kind not in _TEXT_PARTS) or not isinstance(text, str):
        what = f"{kind!r}" if isinstance(kind, str) else "this"
        raise ApiError(400, f"{where}: only text is understood, not {what[:40]}", param=where)
    return text

"""Earlier calls of tools and their results, as a model's chat template takes them: found out by trying.

Some templates write arguments out as JSON themselves and want an object, others want the JSON; some tell a call by a
content that is null. Where a template knows nothing of calls they become text, so that none is lost.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from edgelm.errors import PromptError
from edgelm.runtime.text.chat import ChatTemplate

_ARGUMENT, _RESULT = "edgelm-argument", "edgelm-result"
_TOOL = {
    "type": "function",
    "function": {"name": "probe", "description": "", "parameters": {"type": "object", "properties": {}}},
}


@dataclass(frozen=True)
class Style:
    """How a template takes calls.

    Attributes:
        null: the content of a message without text is null, and not empty.
        text: arguments are JSON, and not an object.
        folded: it takes none at all.
    """

    null: bool = False
    text: bool = False
    folded: bool = False


def fitted(template: ChatTemplate, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages, their calls as the template takes them."""
    if not any(message.get("tool_calls") or message.get("role") == "tool" for message in messages):
        return [dict(message) for message in messages]
    style = style_of(template)
    return [_folded(message) if style.folded else _styled(message, style) for message in messages]


@lru_cache(maxsize=32)
def style_of(template: ChatTemplate) -> Style:
    """The first style of a call whose argument and result are both in what the template makes of it."""
    styles = [Style(null, text) for text in (False, True) for null in (True, False)]
    return next((style for style in styles if _takes(template, style)), Style(folded=True))


def _takes(template: ChatTemplate, style: Style) -> bool:
    function = {"name": "probe", "arguments": {"a": _ARGUMENT}}
    call = {"id": "abcdefghi", "type": "function", "function": function}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "probe", "tool_call_id": "abcdefghi", "content": _RESULT},
    ]
    try:
        text = template.render([_styled(message, style) for message in messages], tools=[_TOOL])
    except PromptError:
        return False
    return _RESULT in text and _ARGUMENT in text and f'\\"{_ARGUMENT}' not in text


def _styled(message: Mapping[str, Any], style: Style) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if not calls:
        return dict(message)
    content = message.get("content") or (None if style.null else "")
    return {**message, "content": content, "tool_calls": [_with_text(call) if style.text else call for call in calls]}


def _with_text(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    given = function["arguments"]
    text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    return {**call, "function": {**function, "arguments": text}}


def _folded(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message without calls: they are a part of its text, and a result is a user's message."""
    if message.get("role") == "tool":
        return {"role": "user", "content": message.get("content", "")}
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    if not calls:
        return dict(message)
    lines = [json.dumps({"name": c["name"], "arguments": c["arguments"]}, ensure_ascii=False) for c in calls]
    return {"role": message["role"], "content": "\n".join([*filter(None, [message.get("content")]), *lines])}

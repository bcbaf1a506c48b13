"""Calls of tools in a model's text, told apart from the text while it comes. What looks like a call and is none stays text."""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgelm.runtime.text.stop_strings import overlap
from edgelm.serve.call_forms import MARKS, OPENERS, parse_calls

_DIGITS = string.ascii_letters + string.digits
_DECIDED = 64  # characters after which a text that begins like JSON must look like a call, or is none
_BARE = re.compile(r'\s*(```(json)?\s*)?\[?\s*\{\s*"(name|type|function|parameters|arguments|tool)"')


def call_id() -> str:
    """A name for a call: nine letters and digits, which is what Mistral's templates insist on."""
    return "".join(secrets.choice(_DIGITS) for _ in range(9))


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool: its name and arguments."""

    name: str
    arguments: Mapping[str, Any]
    id: str = field(default_factory=call_id)


class CallReader:
    """Reads a text piece by piece.

    Args:
        tools: that may be called, as OpenAI's interface has them.
        forced: whether all of the text is a call, or several, as JSON.
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]], *, forced: bool = False) -> None:
        self._schemas = {name: schema for name, schema in map(_described, tools) if name}
        self._held, self._opener = "", ""
        self._bare: bool | None = True if forced else None  # whether all of it may be a call without any mark
        self._calls = 0

    def push(self, text: str) -> list[str | ToolCall]:
        """Take more text and give what is certain."""
        self._held += text
        if self._bare is None:
            self._bare = self._may_be_bare()
        if self._bare is not False:
            return []
        found: list[str | ToolCall] = []
        while self._step(found):
            pass
        return found

    def flush(self) -> list[str | ToolCall]:
        """End the text and give the rest."""
        found: list[str | ToolCall] = []
        if self._bare is not False:
            calls = parse_calls(_unfenced(self._held), self._schemas, known=True)
            if calls is not None:
                self._held = ""
                return self._told(calls)
            self._bare = False
            while self._step(found):
                pass
        rest, self._held = self._held, ""
        if self._opener:
            found += self._block(rest, "")
        elif rest and not (self._calls and rest.isspace()):
            found.append(rest)
        return found

    def _may_be_bare(self) -> bool | None:
        """Whether the text is a call without any mark, as far as its beginning tells; None where it does not yet."""
        text = self._held.lstrip()
        if not text:
            return None
        if text[0] not in "{[`" or text.startswith("[TOOL_CALLS]"):
            return False
        if _BARE.match(text) or any(re.match(rf"\[\s*{re.escape(name)}\(", text) for name in self._schemas):
            return True
        return None if len(text) < _DECIDED else False

    def _step(self, found: list[str | ToolCall]) -> bool:
        """Move text from what is held to `found`; whether there may be more to move."""
        if self._opener:
            return self._close(found)
        places = [(self._held.find(mark), -len(mark), mark) for mark in OPENERS if mark in self._held]
        if places:
            start, _, self._opener = min(places)
            self._say(self._held[:start].rstrip(), found)
            self._held = self._held[start + len(self._opener) :]
            return True
        keep = max((overlap(self._held, mark) for mark in OPENERS), default=0)
        sure = self._held[: len(self._held) - keep]
        sure = sure.rstrip()  # blanks before a call are none of the text
        self._say(sure, found)
        self._held = self._held[len(sure) :]
        return False

    def _close(self, found: list[str | ToolCall]) -> bool:
        closer = OPENERS[self._opener]
        if closer is None or closer not in self._held:
            return False
        inside, _, self._held = self._held.partition(closer)
        found += self._block(inside, closer)
        return True

    def _block(self, inside: str, closer: str) -> list[str | ToolCall]:
        """What stood behind a mark: calls, or the text as it was."""
        opener, self._opener = self._opener, ""
        # The forms in which the mark is a part of what says who is called.
        text = opener + inside + closer if opener == "<function=" else inside
        calls = parse_calls(text, self._schemas, known=False)
        return [opener + inside + closer] if calls is None else self._told(calls)

    def _told(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str | ToolCall]:
        self._calls += len(calls)
        return [ToolCall(name, arguments) for name, arguments in calls]

    def _say(self, text: str, found: list[str | ToolCall]) -> None:
        if text and not (self._calls and text.isspace()):
            found.append(text)


def is_mark(name: str) -> bool:
    """Whether a special token is a part of a call, which is to be read although it is not to be shown."""
    return name in MARKS


def _described(tool: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The name and the parameters' schema of a tool."""
    function = tool.get("function", tool)
    function = function if isinstance(function, Mapping) else {}
    schema = function.get("parameters")
    return str(function.get("name", "")), schema if isinstance(schema, Mapping) else {}


def _unfenced(text: str) -> str:
    """The text without a Markdown fence around it."""
    match = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*(?:```\s*)?", text, re.DOTALL)
    return match[1] if match else text

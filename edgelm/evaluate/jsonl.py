"""Tasks of your own: JSON Lines, an item a line, whose keys tell its kind (docs/reference/tasks.md).

    {"messages": [{"role": "user", "content": "turn the lamp on"}], "answer": "{…}"}        exact match
    {"prompt": "2 + 2 =", "answer": "4", "stop": ["\\n"]}                                     exact match of a text
    {"prompt": "The sky is", "choices": ["blue", "green"], "answer": 0}                      multiple choice
    {"sentence_good": "Cats sleep.", "sentence_bad": "Cats sleeps."}                         minimal pair

``kind`` and ``split`` are optional strings, for each of whose values figures are told; other keys are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgelm.errors import EdgeLMError, PromptError
from edgelm.evaluate.items import ExactMatch, Item, MinimalPair, MultipleChoice
from edgelm.json_text import json_value
from edgelm.runtime.text.chat import check_messages

_GROUPS = ("kind", "split")
_HINTS = {
    "exact match": '{"messages": [{"role": "user", "content": "…"}], "answer": "…"}',
    "multiple choice": '{"prompt": "…", "choices": ["…", "…"], "answer": 0}',
    "minimal pair": '{"sentence_good": "…", "sentence_bad": "…"}',
}


class _Wrong(Exception):
    """What is wrong with a line."""


def read_jsonl(path: Path, data: bytes) -> list[Item]:
    """The items of a file's content.

    Raises:
        EdgeLMError: a line is malformed, or of another kind than the first one; it names the line.
    """
    items: list[Item] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        value: Any = None
        try:
            value = _object(line)
            item = _item(value, number)
            if items and type(item) is not type(items[0]):
                raise _Wrong(f"is {_kind(value)}, and line {items[0].line} is not: a file holds items of one kind")
        except (_Wrong, PromptError) as problem:
            hint = f"a line is {_HINTS[_kind(value)]}; see docs/reference/tasks.md"
            raise EdgeLMError(f"{path}:{number}: {problem}", hint=hint) from None
        items.append(item)
    return items


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json_value(line, constants=True)
    except ValueError as error:
        raise _Wrong(f"not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise _Wrong(f"holds {type(value).__name__}, expected an object")
    return value


def _kind(value: Any) -> str:
    """By the keys."""
    keys = value if isinstance(value, dict) else ()
    if "sentence_good" in keys or "sentence_bad" in keys:
        return "minimal pair"
    return "multiple choice" if "choices" in keys else "exact match"


def _item(value: dict[str, Any], line: int) -> Item:
    groups = {key: _string(value, key) for key in _GROUPS if value.get(key) is not None}
    match _kind(value):
        case "minimal pair":
            if "linguistics_term" in value:  # as BLiMP calls its kinds
                groups = {"kind": _string(value, "linguistics_term"), **groups}
            return MinimalPair(_text(value, "sentence_good"), _text(value, "sentence_bad"), line, groups)
        case "multiple choice":
            return _multiple_choice(value, line, groups)
    if not isinstance(value.get("answer"), str):
        raise _Wrong("'answer' must be a string")
    return ExactMatch(_prompt(value), value["answer"], line, _stop(value), groups)


def _multiple_choice(value: dict[str, Any], line: int, groups: dict[str, str]) -> MultipleChoice:
    choices, answer = value["choices"], value.get("answer")
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise _Wrong("'choices' must be a list of strings")
    if len(choices) < 2:
        raise _Wrong(f"'choices' must hold two or more, not {len(choices)}")
    if (empty := next((place for place, choice in enumerate(choices) if not choice.strip()), None)) is not None:
        raise _Wrong(f"choice {empty} is empty")
    if isinstance(answer, str) and choices.count(answer) == 1:
        answer = choices.index(answer)
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise _Wrong(f"'answer' must be one of the choices, or its place from 0 to {len(choices) - 1}, not {answer!r}")
    delimiter = _string(value, "delimiter") if "delimiter" in value else " "
    return MultipleChoice(_prompt(value), tuple(choices), answer, line, delimiter, groups)


def _prompt(value: Mapping[str, Any]) -> str | Sequence[Mapping[str, Any]]:
    if "prompt" in value:
        if "messages" in value:
            raise _Wrong("'prompt' and 'messages' exclude each other")
        return _string(value, "prompt")
    return check_messages(value.get("messages") or [])


def _stop(value: Mapping[str, Any]) -> tuple[str, ...]:
    stop = value.get("stop", [])
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop):
        raise _Wrong("'stop' must be a string or a list of strings, none of them empty")
    return tuple(stop)


def _text(value: Mapping[str, Any], key: str) -> str:
    """A string that is not empty."""
    text = _string(value, key)
    if not text.strip():
        raise _Wrong(f"'{key}' is empty")
    return text


def _string(value: Mapping[str, Any], key: str) -> str:
    text = value.get(key)
    if not isinstance(text, str):
        raise _Wrong(f"'{key}' must be a string")
    return text

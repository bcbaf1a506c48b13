"""Options of a request, as OpenAI's interface names them, to those of `LM.stream`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgelm.serve.body import Body
from edgelm.serve.errors import ApiError

_SEEDS = (1 << 63) - 1
_NUMBERS = {  # name -> range
    "temperature": (0.0, 100.0),
    "min_p": (0.0, 1.0),
    "frequency_penalty": (-100.0, 100.0),
    "presence_penalty": (-100.0, 100.0),
}


def sampling(body: Body) -> dict[str, Any]:
    """Those of sampling; what is left out is the model's default."""
    found: dict[str, Any] = {name: body.number(name, *bounds) for name, bounds in _NUMBERS.items()}
    found |= top_p(body) | {"stop": body.strings("stop") or None, "seed": seed(body), "logit_bias": _biases(body)}
    for name in ("repetition_penalty", "repeat_penalty"):
        found["repetition_penalty"] = body.number(name, 1e-3, 100.0) or found.get("repetition_penalty")
    if body.has("top_k"):
        found["top_k"] = body.integer("top_k", 0)
    if body.has("answer_grammar"):
        found["answer_grammar"] = body.flag("answer_grammar")
    return {name: value for name, value in found.items() if value is not None}


def top_p(body: Body) -> dict[str, Any]:
    """``top_p``, of which 0 is the most likely token alone."""
    value = body.number("top_p", 0.0, 1.0)
    return {"top_k": 1} if value == 0 else {"top_p": value}


def seed(body: Body) -> int | None:
    """``seed``; negative ones are as good as others."""
    value = body.integer("seed", -(1 << 64), 1 << 64)
    return None if value is None else value & _SEEDS


def effort(level: str | None) -> dict[str, Any]:
    """Variables of chat templates that say how much to think: ``none`` for not at all, or a word such as ``low``."""
    if level is None:
        return {}
    return {"enable_thinking": False} if level == "none" else {"enable_thinking": True, "reasoning_effort": level}


def _biases(body: Body) -> dict[int, float] | None:
    table = body.table("logit_bias")
    if table is None or not table.data:
        return None
    if len(table.data) > 1024:
        body.fail("logit_bias", "must have at most 1,024 entries")
    found = {}
    for name in table.data:
        if not (name.isascii() and name.isdecimal() and len(name) < 10):
            body.fail("logit_bias", "must have token ids as keys")
        found[int(name)] = table.number(name, -100.0, 100.0) or 0.0
    return found


@dataclass(frozen=True)
class Form:
    """What the text must be, and which tools may be called in it.

    Attributes:
        options: for `LM.stream`: tools for the template, a JSON schema of the text.
        tools: whose calls are looked for.
        forced: whether the text, being JSON, may be a call.
    """

    options: dict[str, Any]
    tools: Sequence[Mapping[str, Any]] = ()
    forced: bool = False


def text_form(schema: Any, tools: Sequence[Mapping[str, Any]], choice: str) -> Form:
    """The options of a text that must have a form.

    A call that is asked for is made sure of by a JSON schema: the text is the call, and nothing else. Where there are a
    schema for the answer and tools, the text is either.

    Args:
        schema: of the answer, or None for any text.
        tools: that the template is given.
        choice: ``auto``, ``none``, ``required``, or the name of the tool that must be called.
    """
    if not tools or choice == "none":
        return Form({} if schema is None else {"json_schema": schema})
    names = {tool["function"]["name"] for tool in tools}
    if choice not in ("auto", "required") and choice not in names:
        raise ApiError(400, f"tool_choice names {choice[:100]!r}, which is none of the tools", param="tool_choice")
    calls = [_call_schema(tool) for tool in tools if choice in ("auto", "required", tool["function"]["name"])]
    if choice != "auto":
        one = calls[0] if len(calls) == 1 else _either(calls)
        return Form({"tools": tools, "json_schema": one}, tools, True)
    if schema is not None:
        answer = schema if isinstance(schema, Mapping) else {}
        return Form({"tools": tools, "json_schema": _either([answer, *calls])}, tools, True)
    return Form({"tools": tools}, tools)


def _call_schema(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a call. What ``#/$defs`` refers to is looked for in the whole schema, so it is put at its root."""
    function = tool["function"]
    given = dict(function.get("parameters") or {"type": "object", "properties": {}})
    if "properties" in given:
        given.setdefault("additionalProperties", False)  # a tool has the parameters that it names
    definitions = {key: given.pop(key) for key in ("$defs", "definitions") if key in given}
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "arguments": given},
        "required": ["name", "arguments"],
        "additionalProperties": False,
        **definitions,
    }


def _either(schemas: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The schema of what one of some schemas allows; definitions of one name must be the same."""
    definitions: dict[str, Any] = {}
    parts = []
    for schema in schemas:
        part = dict(schema)
        for key in ("$defs", "definitions"):
            definitions.setdefault(key, {}).update(part.pop(key, {}))
        parts.append(part)
    return {"anyOf": parts, **{key: found for key, found in definitions.items() if found}}


def response_format(body: Body) -> Any:
    """The JSON schema that ``response_format`` asks for, or None."""
    table = body.table("response_format")
    if table is None:
        return None
    return format_schema(table, table.table("json_schema"))


def format_schema(table: Body, described: Body | None) -> Any:
    """The JSON schema of a format.

    Args:
        table: with its ``type``.
        described: what holds ``schema``.
    """
    kind = table.text("type")
    if kind in (None, "text"):
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind != "json_schema":
        table.fail("type", "must be text, json_object or json_schema")
    if described is None or not described.has("schema"):
        table.fail("json_schema", "must hold a schema")
    schema = described.data["schema"]
    if not isinstance(schema, dict | bool):
        described.fail("schema", "must be a JSON schema")
    return schema


def tool_choice(body: Body) -> str:
    """``auto``, ``none``, ``required``, or a tool's name."""
    value = body.data.get("tool_choice")
    if value is None or value in ("auto", "none", "required"):
        return value or "auto"
    inner = value.get("function", value) if isinstance(value, dict) else None
    name = inner.get("name") if isinstance(inner, dict) else None
    if not isinstance(name, str) or not name:
        body.fail("tool_choice", "must be auto, none, required, or name a function")
    return name

"""The forms in which models write calls of tools.

<tool_call>{"name": …, "arguments": {…}}</tool_call>            Hermes, Qwen 2.5 and 3, SmolLM, Granite (a list)
<tool_call><function=f><parameter=a>1</parameter></function>    Qwen3-Coder, Qwen3.5
<function=f>{"a": 1}</function>                                 Llama 3.1 with tools of one's own
{"name": …, "parameters": {…}}                                  Llama 3, with or without <|python_tag|>
[f(a=1), g()]                                                   Llama 3.2 and 4; in <|tool_call_start|> LFM2
[TOOL_CALLS][{"name": …, "arguments": {…}}], [TOOL_CALLS]f{…}   Mistral, old and new
<|tool_call|>[{"name": …, "arguments": {…}}]<|/tool_call|>      Phi-4-mini
<start_function_call>call:f{a:<escape>x<escape>}                FunctionGemma
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from edgelm.json_text import json_start, json_value

OPENERS: dict[str, str | None] = {  # mark -> the mark that ends it, or None where the text's end does
    "<tool_call>": "</tool_call>",
    "<|tool_call_start|>": "<|tool_call_end|>",
    "[TOOL_CALLS]": None,
    "<|python_tag|>": None,
    "<|tool_call|>": "<|/tool_call|>",
    "<start_function_call>": "<end_function_call>",
    "<function=": "</function>",
}
MARKS = frozenset(OPENERS) | frozenset(OPENERS.values()) | {"[ARGS]", "[CALL_ID]", "<escape>"}

Calls = list[tuple[str, dict[str, Any]]]
Schemas = Mapping[str, Mapping[str, Any]]

_NAMED = re.compile(r"\s*(?:\[TOOL_CALLS\])?\s*([\w.-]+)\s*(?:\[CALL_ID\]\s*\w+\s*)?(?:\[ARGS\])?\s*(?=\{)")
_XML = re.compile(r"<function=([^>\s]+)>(.*?)(?:</function>|\Z)", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\s]+)>(.*?)(?:</parameter>|(?=<parameter=)|\Z)", re.DOTALL)
_GEMMA = re.compile(r"\s*call:([\w.-]+)\{(.*)\}\s*", re.DOTALL)
_GEMMA_VALUE = re.compile(r"([\w.-]+):(?:<escape>(.*?)<escape>|([^,]*))(?:,|\Z)", re.DOTALL)


def parse_calls(text: str, schemas: Schemas, *, known: bool) -> Calls | None:
    """The calls that a text consists of, each a name and arguments; None where it is something else.

    Args:
        text: without the marks around it.
        schemas: of the parameters of each tool.
        known: whether it counts only where all that is called are tools there are.
    """
    for form in (_json_form, _xml_form, _python_form, _named_form, _gemma_form):
        calls = form(text, schemas)
        if calls and (not known or all(name in schemas for name, _ in calls)):
            return calls
    return None


def _json_form(text: str, schemas: Schemas) -> Calls | None:
    """JSON objects with a name and arguments, one after the other or in a list."""
    calls: Calls = []
    rest = text.strip()
    while rest:
        found = _value(rest)
        if found is None:
            return None
        value, end = found
        for item in value if isinstance(value, list) else [value]:
            call = _call_of(item)
            if call is None:
                return None
            calls.append(call)
        rest = rest[end:].strip().lstrip(";,}]").strip()
    return calls


def _value(text: str) -> tuple[Any, int] | None:
    """A JSON value at the start of a text, and where it ends. Brackets that a small model forgot at the end are put there."""
    if text[:1] not in ("{", "["):
        return None
    for ending in ("", "}", "}}", "]", "}]", "}}]"):
        try:
            value, end = json_start(text + ending)
        except ValueError:
            continue
        return value, min(end, len(text))
    try:  # as Python writes it, in single quotes
        return _as_json(ast.literal_eval(text)), len(text)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None


def _call_of(value: Any) -> tuple[str, dict[str, Any]] | None:
    """The call in a JSON object."""
    if not isinstance(value, dict):
        return None
    inner = value.get("function")
    if isinstance(inner, dict):
        return _call_of(inner)
    name = value.get("name") or (inner if isinstance(inner, str) else None) or value.get("tool")
    if not isinstance(name, str):
        return None
    arguments: Any = next((value[key] for key in ("arguments", "parameters", "args") if key in value), {})
    if isinstance(arguments, str):
        try:
            arguments = json_value(arguments, surrogates=True)
        except ValueError:
            return None
    if arguments is None:
        arguments = {}
    return (name, arguments) if isinstance(arguments, dict) else None


def _xml_form(text: str, schemas: Schemas) -> Calls | None:
    """``<function=name>`` with parameters as elements, or as a JSON object."""
    calls: Calls = []
    for name, inside in _XML.findall(text):
        if inside.strip().startswith("{"):
            found = _value(inside.strip())
            if found is None or not isinstance(found[0], dict):
                return None
            calls.append((name, found[0]))
        else:
            values = _PARAMETER.findall(inside)
            calls.append((name, {key: _typed(_trimmed(value), schemas.get(name, {}), key) for key, value in values}))
    rest = _XML.sub("", text).strip()
    return None if rest and not rest.startswith("</") else calls


def _python_form(text: str, schemas: Schemas) -> Calls | None:
    """A list of Python calls with arguments by name, or a single call."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        nodes = tree.elts if isinstance(tree, ast.List | ast.Tuple) else [tree]
        return [_python_call(node, schemas) for node in nodes]
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None


def _python_call(node: ast.expr, schemas: Schemas) -> tuple[str, dict[str, Any]]:
    """A node as a call; ValueError where it is none."""
    if not isinstance(node, ast.Call):
        raise ValueError
    name = ast.unparse(node.func)
    if not re.fullmatch(r"[\w.]+", name):
        raise ValueError
    places = list(schemas.get(name, {}).get("properties", {}))
    if len(node.args) > len(places):
        raise ValueError
    arguments = {place: _literal(value) for place, value in zip(places, node.args, strict=False)}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError
        arguments[keyword.arg] = _literal(keyword.value)
    return name, arguments


def _literal(node: ast.expr) -> Any:
    """A value; JSON's words for true, false and null are known, too."""
    if isinstance(node, ast.Name) and node.id in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[node.id]
    return _as_json(ast.literal_eval(node))


def _as_json(value: Any) -> Any:
    """What Python read, as JSON has it: keys are strings; ValueError or TypeError for bytes, sets, infinities."""
    return json.loads(json.dumps(value, allow_nan=False))


def _named_form(text: str, schemas: Schemas) -> Calls | None:
    """Names, each before a JSON object of arguments."""
    calls: Calls = []
    rest = text.strip()
    while rest:
        match = _NAMED.match(rest)
        found = _value(rest[match.end() :]) if match else None
        if match is None or found is None or not isinstance(found[0], dict):
            return None
        calls.append((match[1], found[0]))
        rest = rest[match.end() + found[1] :].strip().lstrip(",;").strip()
    return calls


def _gemma_form(text: str, schemas: Schemas) -> Calls | None:
    match = _GEMMA.fullmatch(text)
    if match is None:
        return None
    schema = schemas.get(match[1], {})
    values = _GEMMA_VALUE.findall(match[2])
    return [(match[1], {key: text or _typed(other.strip(), schema, key) for key, text, other in values})]


def _typed(text: str, schema: Mapping[str, Any], key: str) -> Any:
    """A value written as text: a string where the tool's schema says so, else what it is as JSON, else a string."""
    properties = schema.get("properties")
    described = properties.get(key) if isinstance(properties, Mapping) else None
    if isinstance(described, Mapping) and described.get("type") == "string":
        return text
    try:
        return json_value(text, surrogates=True)
    except ValueError:
        return text


def _trimmed(text: str) -> str:
    """Without the line breaks that stand between a value and its tags."""
    return text.removeprefix("\n").removesuffix("\n")

"""Calls of tools in text, in each form that models write, however the text is cut."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("starlette")

from edgelm.serve.calls import CallReader, ToolCall

TOOLS = [
    {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {
        "a": {"type": "integer"}, "s": {"type": "string"}, "deep": {"type": "object"}}}}},
    {"type": "function", "function": {"name": "home.on", "parameters": {"type": "object", "properties": {}}}},
]  # fmt: skip

CALL, EMPTY = ("f", {"a": 1, "s": "x"}), ("home.on", {})
FORMS: dict[str, tuple[str, list[Any]]] = {
    "hermes": ('<tool_call>\n{"name": "f", "arguments": {"a": 1, "s": "x"}}\n</tool_call>', [CALL]),
    "two": (
        'Yes.\n<tool_call>{"name": "f", "arguments": {"a": 1, "s": "x"}}</tool_call>\n'
        '<tool_call>{"name": "home.on", "arguments": {}}</tool_call>\n',
        ["Yes.", CALL, EMPTY],
    ),
    "unclosed": ('<tool_call>\n{"name": "f", "arguments": {"a": 1, "s": "x"}}', [CALL]),
    "forgotten bracket": ('<tool_call>{"name": "f", "arguments": {"a": 1, "s": "x"}</tool_call>', [CALL]),
    "one bracket too many": ('<tool_call>{"name": "f", "arguments": {"a": 1, "s": "x"}}}</tool_call>', [CALL]),
    "single quotes": ("<tool_call>{'name': 'f', 'arguments': {'a': 1, 's': 'x'}}</tool_call>", [CALL]),
    "arguments as a string": (
        '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1, \\"s\\": \\"x\\"}"}</tool_call>',
        [CALL],
    ),
    "granite": ('<tool_call>[{"name": "f", "arguments": {"a": 1, "s": "x"}}]</tool_call>', [CALL]),
    "qwen xml": (
        "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n<parameter=s>\nx\n</parameter>\n</function>\n</tool_call>",
        [CALL],
    ),
    "llama": ('{"name": "f", "parameters": {"a": 1, "s": "x"}}', [CALL]),
    "llama in a fence": ('```json\n{"name": "f", "parameters": {"a": 1, "s": "x"}}\n```', [CALL]),
    "llama two": (
        '{"name": "f", "parameters": {"a": 1, "s": "x"}}; {"name": "home.on", "parameters": {}}',
        [CALL, EMPTY],
    ),
    "python tag": ('<|python_tag|>{"name": "f", "parameters": {"a": 1, "s": "x"}}', [CALL]),
    "function tag": ('<function=f>{"a": 1, "s": "x"}</function>', [CALL]),
    "pythonic": ("[f(a=1, s='x'), home.on()]", [CALL, EMPTY]),
    "lfm2": ('Sure. <|tool_call_start|>[f(a=1, s="x")]<|tool_call_end|>Done', ["Sure.", CALL, "Done"]),
    "mistral": ('[TOOL_CALLS][{"name": "f", "arguments": {"a": 1, "s": "x"}}]', [CALL]),
    "mistral new": ('[TOOL_CALLS]f[ARGS]{"a": 1, "s": "x"}[TOOL_CALLS]home.on[ARGS]{}', [CALL, EMPTY]),
    "mistral with an id": ('[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{"a": 1, "s": "x"}', [CALL]),
    "phi": ('<|tool_call|>[{"name": "f", "arguments": {"a": 1, "s": "x"}}]<|/tool_call|>', [CALL]),
    "gemma": ("<start_function_call>call:f{a:1,s:<escape>x<escape>}<end_function_call>", [CALL]),
    # What is no call comes out as it is.
    "text": ("Just text, 3 < 4 and a <tool.", ["Just text, 3 < 4 and a <tool."]),
    "trailing blanks": ("Text \n", ["Text \n"]),
    "json": ('{"name": "Bob", "age": 3}', ['{"name": "Bob", "age": 3}']),
    "other json": ('{"actions": [{"device": "light"}]}', ['{"actions": [{"device": "light"}]}']),
    "unknown tool without a mark": ('{"name": "g", "parameters": {}}', ['{"name": "g", "parameters": {}}']),
    "broken": ('<tool_call>{"name": "f", "argu</tool_call> so', ['<tool_call>{"name": "f", "argu</tool_call> so']),
    "cut short": ('<tool_call>{"name": "f", "argume', ['<tool_call>{"name": "f", "argume']),
    "list": ("[1, 2, 3]", ["[1, 2, 3]"]),
    "empty": ("", []),
    "blanks": ("  \n", ["  \n"]),
}  # fmt: skip


def read(pieces: list[str], **more: Any) -> list[Any]:
    """What comes out, neighbouring text joined."""
    reader, found = CallReader(TOOLS, **more), list[Any]()
    parts = [part for piece in pieces for part in reader.push(piece)]
    for part in [*parts, *reader.flush()]:
        value = (part.name, part.arguments) if isinstance(part, ToolCall) else part
        if isinstance(value, str) and found and isinstance(found[-1], str):
            found[-1] += value
        else:
            found.append(value)
    return found


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_read_whole_and_by_the_character(form: str) -> None:
    text, expected = FORMS[form]
    assert read([text]) == expected
    assert read(list(text)) == expected


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(sorted(FORMS)))
def test_how_the_text_is_cut_changes_nothing(data: st.DataObject, form: str) -> None:
    text, expected = FORMS[form]
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]
    assert read(pieces) == expected


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "<tool_call>",
                "</tool_call>",
                "{",
                "}",
                '"name":',
                '"f"',
                " ",
                "\n",
                "a",
                "[",
                "<|python_tag|>",
                "<function=f>",
                "call:f{",
                "(",
            ]
        )
    )
)
def test_nothing_is_lost_and_nothing_raised(pieces: list[str]) -> None:
    """Whatever comes: either there are calls, or every character that is no blank comes out as text."""
    found = read(pieces)
    if all(isinstance(part, str) for part in found):
        assert "".join("".join(found).split()) == "".join("".join(pieces).split())


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"a": -Infinity}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"a": 1e999}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": "{\\"a\\": NaN}"}</tool_call>',
        "<tool_call>{'name': 'f', 'arguments': {'a': 1e999}}</tool_call>",
        "<tool_call>{'name': 'f', 'arguments': {'a': b'x'}}</tool_call>",
        "<tool_call>{'name': 'f', 'arguments': {'a': {1, 2}}}</tool_call>",
        "<tool_call>{'name': 'f', 'arguments': {(1, 2): 1}}</tool_call>",
        "[f(a=1e999)]",
        "[f(a=2j)]",
    ],
)
def test_what_no_json_holds_is_no_call(text: str) -> None:
    """A client reads the arguments as JSON."""
    assert all(isinstance(part, str) for part in read([text]))


def test_a_number_that_no_float_holds_is_text_where_a_parameter_is_text() -> None:
    found = read(
        ["<tool_call><function=f><parameter=a>1e999</parameter><parameter=s>NaN</parameter></function></tool_call>"]
    )
    assert found == [("f", {"a": "1e999", "s": "NaN"})]


def test_text_that_cannot_be_a_call_is_not_held_back() -> None:
    reader = CallReader(TOOLS)
    assert reader.push("Hello") == ["Hello"]
    assert reader.push(", there <too") == [", there"]
    assert reader.push("th>") == [" <tooth>"]
    answer = CallReader(TOOLS)
    given = '{"actions": [{"device": "light", "room": "kitchen", "set": "on", "value": true}]}'
    assert "".join(str(part) for part in answer.push(given)) == given


def test_a_text_that_must_be_a_call() -> None:
    assert read(list('{"name": "f", "arguments": {"a": 1, "s": "x"}}'), forced=True) == [CALL]
    assert read(['{"name": "f", "argu'], forced=True) == ['{"name": "f", "argu']

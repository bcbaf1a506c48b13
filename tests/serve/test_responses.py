"""OpenAI's responses, spoken by its own client."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from serving import CALL, HELLO, LAMP, TOOL, Running

openai = pytest.importorskip("openai")

THEIRS = {"type": "function", **TOOL["function"]}


def _client(running: Running) -> Any:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def client(home: Running) -> Any:
    return _client(home)


def test_a_response_whole_and_streamed(client: Any) -> None:
    for given in (
        HELLO[0]["content"],
        HELLO,
        [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": HELLO[0]["content"]}]}],
    ):
        whole = client.responses.create(model="home", input=given)
        assert whole.output_text == LAMP
        assert (whole.status, whole.usage.input_tokens, whole.usage.output_tokens) == ("completed", 11, 9)
    with client.responses.stream(model="home", input=HELLO) as stream:
        events = list(stream)
        assert stream.get_final_response().output_text == LAMP
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


def test_limits_and_formats(client: Any) -> None:
    pytest.importorskip("llguidance")
    short = client.responses.create(model="home", input=HELLO, max_output_tokens=3)
    assert (short.status, short.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    form = {"format": {"type": "json_schema", "name": "a", "schema": schema, "strict": True}}
    assert json.loads(client.responses.create(model="home", input=HELLO, text=form).output_text)["a"] in (1, 2)


def test_calls_of_tools(scripted: Callable[..., Any]) -> None:
    running, model = scripted(f"Yes.{CALL}")
    client = _client(running)
    given = [
        *HELLO,
        {"type": "function_call", "call_id": "x", "name": "set_light", "arguments": '{"room": "attic"}'},
        {"type": "function_call_output", "call_id": "x", "output": "done"},
    ]
    asked = {"model": "home", "input": given, "tools": [THEIRS], "instructions": "Be"}
    whole = client.responses.create(**asked)
    text, call = whole.output
    assert (text.content[0].text, call.type, call.name) == ("Yes.", "function_call", "set_light")
    assert json.loads(call.arguments) == {"room": "kitchen"}
    with client.responses.stream(**asked) as stream:
        final = stream.get_final_response()
    assert json.loads(final.output[1].arguments) == {"room": "kitchen"}
    sent, options = model.asked[0]
    function = {"name": "set_light", "arguments": {"room": "attic"}}
    assert sent == [
        {"role": "system", "content": "Be"},
        *HELLO,
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "id": "x", "function": function}]},
        {"role": "tool", "content": "done", "tool_call_id": "x"},
    ]
    assert options["tools"] == [TOOL]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"previous_response_id": "resp_1"}, "stores no responses"),
        ({"tools": [{"type": "web_search"}]}, "runs no tools of its own"),
        ({"input": [{"type": "image"}]}, "is not understood"),
        ({"input": []}, "at least one item"),
    ],
)
def test_errors(home: Running, options: dict[str, Any], told: str) -> None:
    answer = home.post("/v1/responses", {"model": "home", "input": HELLO, **options})
    assert answer.status_code == 400
    assert told in answer.json()["error"]["message"]


def test_an_error_in_the_middle_is_raised_by_the_client(scripted: Callable[..., Any]) -> None:
    running, model = scripted("some text")
    chunks = model.chunks

    async def broken(options: Any) -> Any:
        yield await anext(chunks(options))
        raise RuntimeError("secret")

    model.chunks = broken
    with pytest.raises(openai.APIError, match="internal error"):
        list(_client(running).responses.create(model="home", input=HELLO, stream=True))

"""Anthropic's interface, spoken by its own client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from serving import CALL, HELLO, LAMP, TOOL, Running

anthropic = pytest.importorskip("anthropic")

THEIRS = {"name": "set_light", "description": "", "input_schema": TOOL["function"]["parameters"]}


def _client(running: Running) -> Any:
    return anthropic.Anthropic(base_url=running.url, api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def client(home: Running) -> Any:
    return _client(home)


def test_a_message_whole_and_streamed(client: Any) -> None:
    asked = {"model": "home", "max_tokens": 64, "messages": HELLO}
    whole = client.messages.create(**asked)
    assert [block.text for block in whole.content] == [LAMP]
    assert (whole.stop_reason, whole.role, whole.type) == ("end_turn", "assistant", "message")
    assert whole.usage.input_tokens + whole.usage.cache_read_input_tokens == 11
    assert whole.usage.output_tokens == 9
    with client.messages.stream(**asked) as stream:
        assert "".join(stream.text_stream) == LAMP
        final = stream.get_final_message()
    assert (final.stop_reason, final.content[0].text) == ("end_turn", LAMP)
    assert final.usage.output_tokens == 9


def test_reasons_to_stop(client: Any) -> None:
    create = client.messages.create
    short = create(model="home", max_tokens=3, messages=HELLO)
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 3)
    stopped = create(model="home", max_tokens=64, messages=HELLO, stop_sequences=["nothing", ',"room"'])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", ',"room"')
    assert stopped.content[0].text == LAMP.split(',"room"')[0]


def test_tokens_are_counted(client: Any) -> None:
    assert client.messages.count_tokens(model="home", messages=HELLO).input_tokens == 11
    more = client.messages.count_tokens(model="home", messages=[{"role": "user", "content": "lamp " * 2000}])
    assert more.input_tokens > 2000


def test_calls_of_tools(scripted: Callable[..., Any]) -> None:
    running, model = scripted(f"Yes.{CALL}{CALL}")
    client = _client(running)
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": [
            {"type": "text", "text": "c"}, {"type": "tool_use", "id": "x", "name": "set_light", "input": {"room": "attic"}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "x", "content": "done"}, {"type": "text", "text": "and now?"}]},
    ]  # fmt: skip
    asked = {
        "model": "home",
        "max_tokens": 999,
        "messages": messages,
        "tools": [THEIRS],
        "system": [{"type": "text", "text": "Be"}],
    }
    whole = client.messages.create(**asked)
    assert whole.stop_reason == "tool_use"
    assert [block.type for block in whole.content] == ["text", "tool_use", "tool_use"]
    assert (whole.content[1].name, whole.content[1].input) == ("set_light", {"room": "kitchen"})
    with client.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    assert [block.type for block in streamed.content] == ["text", "tool_use", "tool_use"]
    assert streamed.content[0].text == "Yes."
    assert streamed.content[2].input == {"room": "kitchen"}
    assert streamed.stop_reason == "tool_use"
    sent, options = model.asked[0]
    function = {"name": "set_light", "arguments": {"room": "attic"}}
    assert sent == [
        {"role": "system", "content": "Be"},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "c", "tool_calls": [{"type": "function", "id": "x", "function": function}]},
        {"role": "tool", "content": "done", "tool_call_id": "x"},
        {"role": "user", "content": "and now?"},
    ]
    assert options["tools"] == [TOOL | {"function": TOOL["function"] | {"description": ""}}]


def test_a_tool_that_must_be_called_is(client: Any) -> None:
    pytest.importorskip("llguidance")
    for choice in ({"type": "any"}, {"type": "tool", "name": "set_light"}):
        done = client.messages.create(model="home", max_tokens=400, messages=HELLO, tools=[THEIRS], tool_choice=choice)
        (block,) = done.content
        assert block.input["room"] in ("kitchen", "attic")


def test_errors(client: Any, home: Running) -> None:
    with pytest.raises(anthropic.NotFoundError, match="there is no model"):
        client.messages.create(model="other", max_tokens=9, messages=HELLO)
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    with pytest.raises(anthropic.BadRequestError, match="only text is understood"):
        client.messages.create(model="home", max_tokens=9, messages=[{"role": "user", "content": [image]}])
    answer = home.post("/v1/messages", {"model": "home", "messages": HELLO})
    assert answer.json() == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "max_tokens is missing"},
    }

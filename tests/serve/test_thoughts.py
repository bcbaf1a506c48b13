"""What a model thinks before it answers, told apart from the answer by every interface, however the text is cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("starlette")

from serving import CALL, HELLO, TOOL, Running, Scripted

from edgelm.runtime.text.chat import ChatTemplate
from edgelm.serve.thoughts import ThoughtReader, opened_by

THINKS = "<think>\nA lamp, and a\n kitchen.\n</think>\n\nDone <think> it."
THOUGHT, ANSWER = "A lamp, and a\n kitchen.", "Done <think> it."
TEXTS = {  # text, the mark that the prompt opened -> thought, answer
    "hybrid": (THINKS, None, (THOUGHT, ANSWER)),
    "opened by the template": ("Hm.\n</think>\nYes", "<think>", ("Hm.", "Yes")),
    "nothing thought": ("<think>\n\n</think>\n\nYes", None, ("", "Yes")),
    "magistral": ("[THINK]a [/THIN b[/THINK]Yes", None, ("a [/THIN b", "Yes")),
    "blanks before": (" \n<think>a</think> b", None, ("a", "b")),
    "cut short": ("<think>a b \n", None, ("a b", "")),
    "cut within the mark": ("<think>a</thi", None, ("a</thi", "")),
    "no thought": ("  <thing> is\n text </think> ", None, ("", "  <thing> is\n text </think> ")),
    "an opening alone": ("<thi", None, ("", "<thi")),
    "blanks": (" \n", None, ("", " \n")),
    "nothing": ("", None, ("", "")),
}


def read(pieces: list[str], opened: str | None) -> tuple[str, str]:
    reader = ThoughtReader(opened)
    parts = [*map(reader.push, pieces), reader.flush()]
    return "".join(thought for thought, _ in parts), "".join(answer for _, answer in parts)


@pytest.mark.parametrize(("text", "opened", "expected"), TEXTS.values(), ids=TEXTS)
def test_by_characters_and_whole(text: str, opened: str | None, expected: tuple[str, str]) -> None:
    assert read([text], opened) == expected
    assert read(list(text), opened) == expected


@given(st.lists(st.sampled_from(["<think>", "</think>", "<thi", "a", " ", "\n", "[THINK]", "[/THINK]"])), st.data())
@settings(max_examples=200, deadline=None)
def test_however_it_is_cut(parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    places = sorted(data.draw(st.sets(st.integers(0, len(text)))))
    ends = zip([0, *places], [*places, len(text)], strict=True)
    assert read([text[a:b] for a, b in ends], None) == read([text], None)


@pytest.mark.parametrize(
    ("source", "variables", "expected"),
    [
        ("{{ messages[0].content }}<|im_start|>assistant\n<think>\n", {}, "<think>"),
        ("{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}", {}, "<think>"),
        ("{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}", {"enable_thinking": False}, None),
        ("{{ messages[0].content }}<think>\n\n</think>\n\n", {}, None),
        ("{{ messages[0].content }}", {}, None),
        ("{{ raise_exception('<think>') }}", {}, None),
    ],
)  # fmt: skip
def test_a_mark_that_the_template_opens(source: str, variables: dict[str, Any], expected: str | None) -> None:
    assert opened_by(ChatTemplate(source), variables) == expected


def chunks(running: Running, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    lines = running.post(path, body | {"stream": True}).text.splitlines()
    found = [line.removeprefix("data: ") for line in lines if line.startswith(("data: {", "{"))]
    return [json.loads(line) for line in found]


def test_openai(scripted: Callable[..., tuple[Running, Scripted]]) -> None:
    running, model = scripted(THINKS)
    body = {"messages": HELLO, "reasoning_effort": "none", "chat_template_kwargs": {"x": 1}}
    message = running.post("/v1/chat/completions", body).json()["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == (THOUGHT, ANSWER)
    assert model.asked[-1][1]["template_args"] == {"enable_thinking": False, "x": 1}
    deltas = [c["choices"][0]["delta"] for c in chunks(running, "/v1/chat/completions", body) if c["choices"]]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == THOUGHT
    assert "".join(delta.get("content", "") for delta in deltas) == ANSWER
    whole = running.post("/v1/responses", {"input": "Hi", "reasoning": {"effort": "low"}}).json()
    thought, said = whole["output"]
    assert (thought["type"], thought["content"]) == ("reasoning", [{"type": "reasoning_text", "text": THOUGHT}])
    assert (said["type"], said["content"][0]["text"]) == ("message", ANSWER)
    assert whole["usage"]["output_tokens_details"]["reasoning_tokens"] > 5
    kinds = [event["type"] for event in chunks(running, "/v1/responses", {"input": "Hi"})]
    assert kinds.index("response.reasoning_text.done") < kinds.index("response.output_text.delta")


def test_a_call_behind_a_thought(scripted: Callable[..., tuple[Running, Scripted]]) -> None:
    running, _ = scripted(
        f"<think>Which lamp?</think>\n\n{CALL}", ["<think>", "</think>", "<tool_call>", "</tool_call>"]
    )
    message = running.post("/v1/chat/completions", {"messages": HELLO, "tools": [TOOL]}).json()["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Which lamp?", None)
    assert message["tool_calls"][0]["function"]["name"] == "set_light"
    without = running.post("/v1/chat/completions", {"messages": HELLO}).json()["choices"][0]["message"]
    assert without["reasoning_content"] == "Which lamp?"
    assert "tool_call" not in without["content"], "special tokens are shown only where they mark something"


def test_ollama(scripted: Callable[..., tuple[Running, Scripted]]) -> None:
    running, model = scripted(THINKS)
    body = {"messages": [*HELLO, {"role": "assistant", "content": "Hm", "thinking": "Before."}, *HELLO], "think": False}
    message = running.post("/api/chat", body | {"stream": False}).json()["message"]
    assert (message["thinking"], message["content"]) == (THOUGHT, ANSWER)
    assert model.asked[-1][1]["template_args"] == {"enable_thinking": False}
    assert model.asked[-1][0][1]["reasoning_content"] == "Before."
    lines = chunks(running, "/api/generate", {"prompt": "Hi"})
    assert "".join(line.get("thinking", "") for line in lines) == THOUGHT
    assert "".join(line["response"] for line in lines) == ANSWER


def test_anthropic(scripted: Callable[..., tuple[Running, Scripted]]) -> None:
    running, model = scripted(THINKS)
    body = {"messages": HELLO, "max_tokens": 500, "thinking": {"type": "enabled", "budget_tokens": 100}}
    content = running.post("/v1/messages", body).json()["content"]
    assert content == [
        {"type": "thinking", "thinking": THOUGHT, "signature": ""},
        {"type": "text", "text": ANSWER},
    ]
    assert model.asked[-1][1]["template_args"] == {"enable_thinking": True}
    events = chunks(running, "/v1/messages", {"messages": HELLO, "max_tokens": 500})
    assert model.asked[-1][1]["template_args"] == {"enable_thinking": False}
    begun = [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"]
    assert begun == ["thinking", "text"]
    assert [event["index"] for event in events if event["type"] == "content_block_stop"] == [0, 1]


@pytest.mark.parametrize("more", [{"response_format": {"type": "json_object"}}, {"raw": True}])
def test_where_nothing_is_thought(scripted: Callable[..., tuple[Running, Scripted]], more: dict[str, Any]) -> None:
    running, _ = scripted("<think>a</think>b")
    if "raw" in more:
        found = running.post("/api/generate", {"prompt": "x", "stream": False, **more}).json()["response"]
    else:
        found = running.post("/v1/chat/completions", {"messages": HELLO, **more}).json()["choices"][0]["message"][
            "content"
        ]
    assert found == "<think>a</think>b"

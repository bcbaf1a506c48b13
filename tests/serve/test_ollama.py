"""Ollama's interface, spoken by its own client."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from serving import CALL, HELLO, LAMP, TOOL, Running

from edgelm.serve.body import Body
from edgelm.serve.errors import ApiError
from edgelm.serve.ollama import keep_alive

ollama = pytest.importorskip("ollama")


@pytest.fixture(scope="module")
def client(home: Running) -> Any:
    return ollama.Client(host=home.url, trust_env=False)


def test_models_are_listed_and_described(client: Any, home: Running) -> None:
    (model,) = client.list().models
    assert model.model == "home:latest"
    assert model.details.parameter_size == "3.5M"
    shown = client.show("home")
    assert shown.modelinfo["llama.context_length"] == 1024
    assert "completion" in shown.capabilities
    assert [model.model for model in client.ps().models] == ["home:latest"]
    assert client.pull("home:latest").status == "success"
    assert home.get("/api/version").json()["version"]


@pytest.mark.parametrize("name", ["home", "home:latest"])
def test_a_conversation_whole_and_streamed(client: Any, name: str) -> None:
    whole = client.chat(name, HELLO)
    assert whole.message.content == LAMP
    assert (whole.done, whole.done_reason, whole.prompt_eval_count, whole.eval_count) == (True, "stop", 11, 9)
    assert whole.model == name
    parts = list(client.chat(name, HELLO, stream=True))
    assert "".join(part.message.content for part in parts) == LAMP
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == 9


def test_prompts_and_raw_prompts(client: Any) -> None:
    prompt = HELLO[0]["content"]
    assert client.generate("home", prompt).response == LAMP
    assert "".join(part.response for part in client.generate("home", prompt, stream=True)) == LAMP
    raw = client.generate("home", "turn", raw=True, options={"num_predict": 3})
    assert (raw.eval_count, raw.done_reason) == (3, "length")


def test_options_and_formats(client: Any) -> None:
    pytest.importorskip("llguidance")
    assert client.chat("home", HELLO, options={"stop": [',"room"']}).message.content == LAMP.split(',"room"')[0]
    hot = {"temperature": 9, "num_predict": 8, "num_ctx": 4096}
    texts = [client.chat("home", HELLO, options={**hot, "seed": seed}).message.content for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    assert json.loads(client.chat("home", HELLO, format=schema).message.content)["a"] in (1, 2)
    assert isinstance(json.loads(client.chat("home", HELLO, format="json").message.content), dict)


@pytest.mark.parametrize("stream", [False, True])
def test_calls_of_tools(scripted: Callable[..., Any], stream: bool) -> None:
    running, model = scripted(f"Yes.{CALL}")
    client = ollama.Client(host=running.url, trust_env=False)
    messages = [
        *HELLO,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "set_light", "arguments": {"room": "attic"}}}],
        },
        {"role": "tool", "tool_name": "set_light", "content": "done"},
    ]
    answer = client.chat("home", messages, tools=[TOOL], stream=stream)
    parts = list(answer) if stream else [answer]
    calls = [call for part in parts for call in part.message.tool_calls or []]
    assert [(call.function.name, call.function.arguments) for call in calls] == [("set_light", {"room": "kitchen"})]
    assert "".join(part.message.content or "" for part in parts) == "Yes."
    sent, options = model.asked[0]
    assert sent[1]["tool_calls"][0]["function"] == {"name": "set_light", "arguments": {"room": "attic"}}
    assert sent[2] == {"role": "tool", "content": "done", "name": "set_light"}
    assert options["tools"][0]["function"]["name"] == "set_light"


def test_errors(client: Any, home: Running) -> None:
    with pytest.raises(ollama.ResponseError, match="there is no model") as caught:
        client.chat("other", HELLO)
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="only text is"):
        client.chat("home", [{"role": "user", "content": "what is this?", "images": ["aGk="]}])
    with pytest.raises(ollama.ResponseError, match="context is 1,024"):
        list(client.chat("home", [{"role": "user", "content": "lamp " * 2000}], stream=True))
    assert home.post("/api/chat", {"messages": HELLO, "format": 3}).json() == {
        "error": "format must be json, or a JSON schema"
    }


def test_a_model_is_loaded_and_unloaded_as_it_is_asked_for(scripted: Callable[..., Any]) -> None:
    running, model = scripted("text")
    client = ollama.Client(host=running.url, trust_env=False)
    assert client.generate("home", "", keep_alive=0).done_reason == "unload"
    assert model.closed
    assert client.ps().models == []
    assert client.chat("home", [], keep_alive="10m").done_reason == "load"
    (loaded,) = client.ps().models
    assert 500 < loaded.expires_at.timestamp() - time.time() < 610
    client.chat("home", HELLO, keep_alive=0.01)
    running.wait_for("edgelm_model_loaded", 0, 5)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (None, None),
        (5, 5),
        (-1, -1),
        ("-1", -1),
        ("5m", 300),
        ("1h30m", 5400),
        ("-1m", -60),
        ("300", 300),
        (0, 0),
        ("1.5s", 1.5),
    ],
)
def test_durations(given: Any, seconds: float | None) -> None:
    assert keep_alive(Body({"keep_alive": given})) == seconds


@pytest.mark.parametrize("given", ["soon", "5 m", "", "m", "5x", True, [], "-"])
def test_what_is_no_duration(given: Any) -> None:
    with pytest.raises(ApiError, match="keep_alive must be"):
        keep_alive(Body({"keep_alive": given}))

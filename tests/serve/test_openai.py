"""OpenAI's interface, spoken by its own client."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from serving import CALL, HELLO, LAMP, TOOL, Running

openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def client(home: Running) -> Any:
    return openai.OpenAI(base_url=f"{home.url}/v1", api_key="none", max_retries=0)


def _client(running: Running) -> Any:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)


def test_models_are_listed(client: Any) -> None:
    (model,) = client.models.list()
    assert (model.id, model.object, model.context) == ("home", "model", 1024)
    assert "fp32 for x86-64" in model.description


def test_a_conversation_is_answered(client: Any) -> None:
    done = client.chat.completions.create(model="home", messages=HELLO)
    assert done.choices[0].message.content == LAMP
    assert done.choices[0].finish_reason == "stop"
    assert done.usage.prompt_tokens == 11
    assert done.usage.total_tokens == 11 + done.usage.completion_tokens
    assert done.model == "home"


def test_a_streamed_answer_is_the_same_and_ends_with_figures(client: Any) -> None:
    chunks = list(client.chat.completions.create(model="home", messages=HELLO, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == LAMP
    assert chunks[0].choices[0].delta.role == "assistant"
    last = chunks[-1]
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert last.choices[0].finish_reason == "stop"
    assert last.usage.completion_tokens == last.timings["predicted_tokens"]
    assert set(last.timings) >= {"prompt_tokens", "prompt_ms", "predicted_ms", "tokens_per_second"}


def test_usage_comes_in_a_chunk_of_its_own_where_it_is_asked_for(client: Any) -> None:
    stream = client.chat.completions.create(
        model="home", messages=HELLO, stream=True, n=2, stream_options={"include_usage": True}
    )
    *_, last = stream
    assert last.choices == []
    assert last.usage.completion_tokens == 2 * 9


def test_limits_stop_strings_seeds_and_biases_count(client: Any) -> None:
    create = client.chat.completions.create
    short = create(model="home", messages=HELLO, max_completion_tokens=3)
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 3)
    assert create(model="home", messages=HELLO, stop=[',"room"']).choices[0].message.content == LAMP.split(',"room"')[0]
    sampled = [
        create(model="home", messages=HELLO, temperature=9, seed=s, max_tokens=8).choices[0].message.content
        for s in (5, 5, 6)
    ]
    assert sampled[0] == sampled[1] != sampled[2]
    ids = client.post("/../tokenize", body={"content": "Hello"}, cast_to=object)["tokens"]
    free = {"answer_grammar": False}  # which no bias overcomes
    biased = create(model="home", messages=HELLO, max_tokens=1, logit_bias={str(ids[0]): 100}, extra_body=free)
    assert "Hello".startswith(biased.choices[0].message.content)


def test_n_texts_differ_by_their_seeds(client: Any) -> None:
    def texts(**options: Any) -> list[str]:
        done = client.chat.completions.create(model="home", messages=HELLO, temperature=9, max_tokens=8, **options)
        return [choice.message.content for choice in done.choices]

    three = texts(n=3, seed=1)
    assert len(set(three)) == 3
    assert texts(seed=2) == three[1:2]


def test_log_probabilities(client: Any) -> None:
    done = client.chat.completions.create(model="home", messages=HELLO, logprobs=True, top_logprobs=2)
    content = done.choices[0].logprobs.content
    assert "".join(entry.token for entry in content) == LAMP
    for entry in content:
        assert entry.logprob <= 0
        assert entry.top_logprobs[0].logprob >= entry.logprob
        assert bytes(entry.bytes).decode() == entry.token
    streamed = client.chat.completions.create(model="home", messages=HELLO, logprobs=True, stream=True)
    seen = [entry for chunk in streamed if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content]
    assert [entry.token for entry in seen] == [entry.token for entry in content]


def test_json_modes(client: Any) -> None:
    pytest.importorskip("llguidance")
    create = client.chat.completions.create
    schema = {
        "type": "object",
        "properties": {"room": {"enum": ["attic", "cellar"]}},
        "required": ["room"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "room", "schema": schema, "strict": True}}
    assert json.loads(create(model="home", messages=HELLO, response_format=form).choices[0].message.content)[
        "room"
    ] in (
        "attic",
        "cellar",
    )
    done = create(model="home", messages=HELLO, response_format={"type": "json_object"}, max_tokens=200)
    assert isinstance(json.loads(done.choices[0].message.content), dict)


@pytest.mark.parametrize(
    ("options", "status", "told"),
    [
        ({"messages": []}, 400, "messages must hold at least one message"),
        ({"messages": [{"role": "user"}]}, 400, "messages[0].content is missing"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "only text is understood"),
        ({"messages": "hello"}, 400, "messages must be an array"),
        ({"temperature": -1}, 400, "temperature must be a number from 0"),
        ({"temperature": "hot"}, 400, "temperature must be a number"),
        ({"max_tokens": 0}, 400, "max_tokens must be an integer"),
        ({"n": 99}, 400, "n must be an integer, 1 to 16"),
        ({"stop": [1]}, 400, "stop must be a string or an array"),
        ({"logit_bias": {"x": 1}}, 400, "logit_bias must have token ids as keys"),
        ({"logit_bias": {"999999": 1}}, 400, "the model has no token 999999"),
        ({"response_format": {"type": "xml"}}, 400, "response_format.type must be"),
        ({"tools": [{"type": "web_search"}]}, 400, "tools[0].type must be function"),
        ({"model": "gpt-9"}, 404, "there is no model 'gpt-9'"),
        ({"messages": [{"role": "user", "content": "lamp " * 2000}]}, 400, "this bundle's context is 1,024"),
    ],
)
def test_errors_are_told_in_openais_form(home: Running, options: dict[str, Any], status: int, told: str) -> None:
    answer = home.post("/v1/chat/completions", {"messages": HELLO, **options})
    assert answer.status_code == status
    error = answer.json()["error"]
    assert told in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_the_client_raises_its_own_errors(client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        client.chat.completions.create(model="other", messages=HELLO)
    with pytest.raises(openai.BadRequestError, match="context") as caught:
        client.chat.completions.create(model="home", messages=[{"role": "user", "content": "lamp " * 2000}])
    assert caught.value.code == "context_length_exceeded"


def test_completions_continue_prompts(client: Any) -> None:
    done = client.completions.create(model="home", prompt=["turn", "switch"], max_tokens=4, n=2, logprobs=2)
    assert [choice.index for choice in done.choices] == [0, 1, 2, 3]
    assert done.choices[0].text == done.choices[1].text
    first = done.choices[0].logprobs
    assert "".join(first.tokens) == done.choices[0].text
    assert first.text_offset[0] == 0
    assert all(max(top.values()) >= own for top, own in zip(first.top_logprobs, first.token_logprobs, strict=True))
    streamed = client.completions.create(model="home", prompt="turn", max_tokens=4, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == done.choices[0].text


def test_calls_of_tools_are_told_whole_and_streamed(scripted: Callable[..., Any]) -> None:
    running, model = scripted(f"I will.\n{CALL}\n{CALL}")
    create = _client(running).chat.completions.create
    (choice,) = create(model="home", messages=HELLO, tools=[TOOL]).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "I will."
    calls = choice.message.tool_calls
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [
        ("set_light", {"room": "kitchen"})
    ] * 2
    assert calls[0].id != calls[1].id
    assert model.asked[0][1]["tools"] == [TOOL]
    text, streamed, reason = "", {}, None
    for chunk in create(model="home", messages=HELLO, tools=[TOOL], stream=True):
        delta = chunk.choices[0].delta
        text += delta.content or ""
        streamed |= {call.index: (call.function.name, call.function.arguments) for call in delta.tool_calls or []}
        reason = chunk.choices[0].finish_reason
    assert (text, reason) == ("I will.", "tool_calls")
    assert streamed == {0: ("set_light", '{"room": "kitchen"}'), 1: ("set_light", '{"room": "kitchen"}')}
    one = create(model="home", messages=HELLO, tools=[TOOL], parallel_tool_calls=False).choices[0]
    assert len(one.message.tool_calls) == 1


def test_without_tools_what_looks_like_a_call_is_text(scripted: Callable[..., Any]) -> None:
    running, model = scripted(CALL)
    create = _client(running).chat.completions.create
    assert create(model="home", messages=HELLO).choices[0].message.content == CALL
    assert create(model="home", messages=HELLO, tools=[TOOL], tool_choice="none").choices[0].message.content == CALL
    assert "tools" not in model.asked[1][1]


def test_marks_that_are_special_tokens_are_read_and_not_shown(scripted: Callable[..., Any]) -> None:
    marks = ["<|tool_call_start|>", "<|tool_call_end|>"]
    running, _ = scripted('<|tool_call_start|>[set_light(room="attic")]<|tool_call_end|>Done.', marks, size=3)
    (choice,) = _client(running).chat.completions.create(model="home", messages=HELLO, tools=[TOOL]).choices
    assert choice.message.content == "Done."
    assert choice.message.tool_calls[0].function.arguments == '{"room": "attic"}'


def test_an_answer_of_special_tokens_alone_is_not_silently_empty(scripted: Callable[..., Any]) -> None:
    running, _ = scripted("<|odd|><|odd|>", ["<|odd|>"])
    (choice,) = _client(running).chat.completions.create(model="home", messages=HELLO).choices
    assert choice.message.content == "<|odd|><|odd|>"


def test_a_tool_that_must_be_called_is(client: Any, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("llguidance")
    named = {"type": "function", "function": {"name": "set_light"}}
    for choice in ("required", named):
        done = client.chat.completions.create(
            model="home", messages=HELLO, tools=[TOOL], tool_choice=choice, max_tokens=400, logit_bias={}
        )
        (call,) = done.choices[0].message.tool_calls
        assert call.function.name == "set_light"
        assert json.loads(call.function.arguments)["room"] in ("kitchen", "attic")
        assert done.choices[0].finish_reason == "tool_calls"
    told = [message for message in caplog.messages if "its chat template knows none" in message]
    assert len(told) == 1  # said once: the model's template shows it no tools


def test_results_of_tools_go_back_to_the_model(scripted: Callable[..., Any]) -> None:
    running, model = scripted("It is on.")
    call = {"id": "abc123def", "type": "function", "function": {"name": "set_light", "arguments": '{"room": "attic"}'}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abc123def", "content": [{"type": "text", "text": "done"}]},
    ]
    _client(running).chat.completions.create(model="home", messages=messages, tools=[TOOL])
    (sent, _) = model.asked[0]
    assert sent[1] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"type": "function", "id": "abc123def", "function": {"name": "set_light", "arguments": {"room": "attic"}}}
        ],
    }
    assert sent[2] == {"role": "tool", "content": "done", "tool_call_id": "abc123def"}


def test_prompts_may_be_ids(client: Any, home: Running) -> None:
    ids = home.post("/tokenize", {"content": "turn on", "add_special": True}).json()["tokens"]
    assert home.post("/detokenize", {"tokens": ids}).json()["content"].endswith("turn on")
    as_text, as_ids = (client.completions.create(model="home", prompt=p, max_tokens=5) for p in ("turn on", ids))
    assert as_ids.choices[0].text == as_text.choices[0].text
    assert as_ids.usage.prompt_tokens == len(ids)
    both = client.completions.create(model="home", prompt=[ids, ids[:-1]], max_tokens=5)
    assert both.choices[0].text == as_ids.choices[0].text
    assert both.usage.prompt_tokens == 2 * len(ids) - 1
    assert home.post("/v1/completions", {"prompt": [999_999]}).status_code == 400
    assert home.post("/v1/completions", {"prompt": [-1]}).status_code == 400


def test_a_prompt_is_echoed_with_its_log_probabilities(client: Any, home: Running, home_bundle: Any) -> None:
    import numpy as np

    from edgelm.runtime.engine import Engine

    ids = home.post("/tokenize", {"content": "turn on the lamp", "add_special": True}).json()["tokens"]
    done = client.completions.create(model="home", prompt=ids, max_tokens=1, logprobs=2, echo=True, temperature=0)
    told = done.choices[0].logprobs
    assert len(told.tokens) == len(ids) + 1
    assert (told.token_logprobs[0], told.top_logprobs[0]) == (None, None)
    engine = Engine.load(home_bundle, weight_cache=False)
    logits = engine.forward(ids, len(ids)).astype(np.float64)
    engine.close()
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    rows = [float(row[token]) for row, token in zip(expected, ids[1:], strict=False)]
    np.testing.assert_allclose(told.token_logprobs[1:-1], rows, atol=1e-4)
    np.testing.assert_allclose(told.token_logprobs[-1], expected[-1].max(), atol=1e-4)
    assert all(len(top) == 2 for top in told.top_logprobs[1:])
    more = client.completions.create(model="home", prompt=ids, max_tokens=3, logprobs=0, echo=True)
    plain = client.completions.create(model="home", prompt=ids, max_tokens=3, echo=True)
    assert len(more.choices[0].logprobs.tokens) == len(ids) + 3
    assert more.choices[0].text == plain.choices[0].text
    none = client.completions.create(model="home", prompt=ids, max_tokens=0, logprobs=0, echo=True)
    assert len(none.choices[0].logprobs.tokens) == len(ids)
    assert home.post("/v1/completions", {"prompt": "a", "max_tokens": 0}).status_code == 400

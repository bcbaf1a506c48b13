"""Vectors of texts by OpenAI's and Ollama's interfaces."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import HELLO, Running, serving

import edgelm
from edgelm.bundle.reader import Bundle
from edgelm.exporter.pipeline import export
from edgelm.serve.settings import Settings

TEXTS = ["the lamp is on", "a cat"]


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    source = tiny_checkpoint(kind="qwen3", head_dim=16)
    return export(source, "x86-64", "fp32", output=tmp_path_factory.mktemp("embed") / "tiny", task="embedding")


@pytest.fixture(scope="module")
def running(bundle: Bundle, home_bundle: Bundle) -> Iterator[Running]:
    with serving(Settings(bundles=(bundle.path, home_bundle.path), port=0, threads=1)) as running:
        yield running


@pytest.fixture(scope="module")
def expected(bundle: Bundle) -> np.ndarray:
    with edgelm.load(bundle.path, threads=1) as lm:
        return lm.embed(TEXTS)


def embed(running: Running, **body: Any) -> Any:
    answer = running.post("/v1/embeddings", {"model": "tiny", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_texts_come_back_as_vectors_in_their_order(running: Running, expected: np.ndarray) -> None:
    found = embed(running, input=TEXTS)
    assert [entry["index"] for entry in found["data"]] == [0, 1]
    np.testing.assert_allclose([entry["embedding"] for entry in found["data"]], expected, rtol=1e-6)
    assert found["usage"]["prompt_tokens"] == found["usage"]["total_tokens"] > 4
    (one,) = embed(running, input=TEXTS[1])["data"]
    np.testing.assert_allclose(one["embedding"], expected[1], rtol=1e-6)


def test_vectors_in_base64_and_of_fewer_dimensions(running: Running, expected: np.ndarray) -> None:
    packed = embed(running, input=TEXTS, encoding_format="base64")["data"]
    decoded = [np.frombuffer(base64.b64decode(entry["embedding"]), "<f4") for entry in packed]
    np.testing.assert_array_equal(decoded, expected)
    (short,) = embed(running, input=TEXTS[0], dimensions=8)["data"]
    np.testing.assert_allclose(short["embedding"], expected[0, :8] / np.linalg.norm(expected[0, :8]), rtol=1e-5)


def test_ids_are_taken_as_they_are(running: Running, bundle: Bundle) -> None:
    with edgelm.load(bundle.path, threads=1) as lm:
        ids = lm.encode_texts(TEXTS)
    assert [e["embedding"] for e in embed(running, input=ids)["data"]] == [
        e["embedding"] for e in embed(running, input=TEXTS)["data"]
    ]
    assert len(embed(running, input=ids[0])["data"]) == 1


def test_ollamas_interface(running: Running, expected: np.ndarray) -> None:
    found = running.post("/api/embed", {"model": "tiny", "input": TEXTS}).json()
    np.testing.assert_allclose(found["embeddings"], expected, rtol=1e-6)
    assert found["prompt_eval_count"] > 4


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": [1, "a"]}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": [[-1]]}, "input"),
        ({"input": [[10**9]]}, "token ids"),
        ({"input": "word " * 500}, "context"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "dimensions": 65}, "dimensions"),
        ({"input": "a", "model": "edgelm-home", "dimensions": 3}, "edgelm-home|home"),
    ],
)
def test_what_is_wrong_is_told(running: Running, home_bundle: Bundle, body: dict[str, Any], message: str) -> None:
    if body.get("model"):
        body = {**body, "model": home_bundle.path.name}
    answer = running.post("/v1/embeddings", {"model": "tiny", **body})
    assert answer.status_code == 400, answer.text
    assert any(part in answer.json()["error"]["message"] for part in message.split("|"))


def test_a_model_that_embeds_does_not_chat(running: Running) -> None:
    answer = running.post("/v1/chat/completions", {"model": "tiny", "messages": HELLO})
    assert answer.status_code == 400
    assert "generates no text" in answer.json()["error"]["message"]
    listed = {entry["id"]: entry.get("embedding") for entry in running.get("/v1/models").json()["data"]}
    assert listed["tiny"] == "last"
    assert list(listed.values()).count(None) == 1

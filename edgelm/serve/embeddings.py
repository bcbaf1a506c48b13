"""Vectors of texts: OpenAI's ``/v1/embeddings`` and Ollama's ``/api/embed``, for bundles exported with --task embedding."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
from starlette.responses import Response

from edgelm.runtime.lm import LM
from edgelm.serve.backend import Backend
from edgelm.serve.body import Body
from edgelm.serve.errors import ApiError
from edgelm.serve.pool import Served
from edgelm.serve.streams import Json

_MOST = 2048  # texts of a request; OpenAI's
_FORMATS = ("float", "base64")


async def openai(backend: Backend, body: Body) -> Response:
    """OpenAI's."""
    model, inputs = backend.model(body), _inputs(body, "input")
    form = body.text("encoding_format") or "float"
    if form not in _FORMATS:
        body.fail("encoding_format", f"must be one of {', '.join(_FORMATS)}")
    vectors, count = await _embedded(backend, model, inputs, body)
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(vector) if form == "base64" else _listed(vector)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": count, "total_tokens": count}
    return Json({"object": "list", "data": data, "model": model.name, "usage": usage})


async def ollama(backend: Backend, body: Body) -> Response:
    """Ollama's."""
    started = time.monotonic_ns()
    model = backend.model(body)
    vectors, count = await _embedded(backend, model, _inputs(body, "input"), body)
    took = time.monotonic_ns() - started
    found = {"model": body.text("model") or model.name, "embeddings": [_listed(vector) for vector in vectors]}
    return Json({**found, "total_duration": took, "load_duration": 0, "prompt_eval_count": count})


def _inputs(body: Body, name: str) -> list[str] | list[list[int]]:
    """Texts, or their ids: one of either, or an array of them."""
    given = body.data.get(name)
    if isinstance(given, str) or (isinstance(given, list) and given and all(type(i) is int for i in given)):
        given = [given]
    texts = isinstance(given, list) and all(isinstance(text, str) for text in given)
    ids = isinstance(given, list) and all(
        isinstance(part, list) and part and all(type(i) is int and i >= 0 for i in part) for part in given
    )
    if not given or not (texts or ids):
        body.fail(name, "must be a string, an array of strings, or token ids")
    if len(given) > _MOST:
        body.fail(name, f"may have at most {_MOST:,} texts")
    return list(given)


async def _embedded(
    backend: Backend, model: Served, inputs: list[str] | list[list[int]], body: Body
) -> tuple[list[np.ndarray], int]:
    """The vectors, of so many `dimensions` where the request names them, and the tokens of all texts."""
    model.bundle.expect_embedding()
    width = model.bundle.manifest.graph.hidden
    dimensions = body.integer("dimensions", 1, width) or width
    prompt, limits = body.text("prompt_name"), backend.settings.limits
    if model.users > limits.queue:
        raise ApiError(429, "too many requests are waiting", code="queue_full")
    async with backend.pool.using(model) as lm, _within(limits.seconds):
        ids = await _in_thread(_encode, lm, inputs, prompt)
        found = [(await _in_thread(lm.embed_ids, [each]))[0] for each in ids]  # who left is seen in between
    return [_cut(vector, dimensions) for vector in found], sum(map(len, ids))


def _encode(lm: LM, inputs: list[Any], prompt: str | None) -> Sequence[Sequence[int]]:
    ids: Sequence[Sequence[int]] = lm.encode_texts(inputs, prompt=prompt) if isinstance(inputs[0], str) else inputs
    return ids


@contextlib.asynccontextmanager
async def _within(seconds: float) -> AsyncIterator[None]:
    """This block within so many seconds, or ApiError."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise ApiError(503, f"the texts took longer than {seconds:g} seconds", code="timeout") from None


async def _in_thread(work: Any, *arguments: Any) -> Any:
    """A call in a thread, which is waited for even where the client leaves: until then the model is not free."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        raise


def _cut(vector: np.ndarray, dimensions: int) -> np.ndarray:
    """The first numbers of a vector, as models trained for that allow (arXiv:2205.13147), scaled to length 1 again."""
    if dimensions == len(vector):
        return vector
    short = vector[:dimensions]
    scaled: np.ndarray = short / np.float32(np.linalg.norm(short) or 1.0)
    return scaled


def _listed(vector: np.ndarray) -> list[float]:
    return [float(f"{value:.9g}") for value in vector]


def _packed(vector: np.ndarray) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")

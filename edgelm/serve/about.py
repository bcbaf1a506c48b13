"""What a server tells of itself and its models, and of how it counts tokens."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import PlainTextResponse, Response

from edgelm.errors import PromptError
from edgelm.runtime.text.prompt import Rendering
from edgelm.serve.backend import Backend
from edgelm.serve.body import Body
from edgelm.serve.messages import chat_messages, function_tools
from edgelm.serve.pool import Served
from edgelm.serve.streams import Json
from edgelm.version import __version__


async def health(backend: Backend, body: Body) -> Response:
    """Whether it serves."""
    return Json({"status": "ok"})


async def metrics(backend: Backend, body: Body) -> Response:
    """Figures for Prometheus."""
    return PlainTextResponse(backend.metrics.text(), media_type="text/plain; version=0.0.4")


async def props(backend: Backend, body: Body) -> Response:
    """The models in edgelm's own terms."""
    return Json({"models": [_props(model) for model in backend.pool.models.values()], "version": __version__})


async def models(backend: Backend, body: Body) -> Response:
    """OpenAI's list of models."""
    return Json({"object": "list", "data": [_entry(model) for model in backend.pool.models.values()]})


async def tokenize(backend: Backend, body: Body) -> Response:
    """The ids of a text, or of a conversation; takes llama.cpp's names of options and vLLM's."""
    model = backend.model(body)
    pieces, special = body.flag("with_pieces"), body.flag("add_special") or body.flag("add_special_tokens")
    async with backend.pool.using(model) as lm:
        if body.has("messages"):
            how = Rendering(backend.settings.parse_special, function_tools(body) or None)
            messages = chat_messages(body)
            ids = await asyncio.to_thread(lm.encode_prompt, messages, how=how)
        else:
            content = body.text("prompt" if body.has("prompt") else "content")
            if content is None:
                body.fail("content", "is missing")
            ids = await asyncio.to_thread(lm.tokenizer.encode, content, special=special)
        names = lm.tokenizer.decode
        told: list[Any] = [{"id": i, "piece": names([i], skip_special=False)} for i in ids] if pieces else ids
    return Json({"tokens": told, "count": len(ids), "max_model_len": model.bundle.context})


async def detokenize(backend: Backend, body: Body) -> Response:
    """The text of ids; under two names, llama.cpp's and vLLM's."""
    model, ids = backend.model(body), body.listing("tokens")
    if ids is None or not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < 1 << 31 for i in ids):
        body.fail("tokens", "must be an array of token ids")
    async with backend.pool.using(model) as lm:
        try:
            text = await asyncio.to_thread(lm.tokenizer.decode, ids, skip_special=False)
        except OverflowError:
            raise PromptError("there is no such token") from None
    return Json({"content": text, "prompt": text})


async def tokenizer_info(backend: Backend, body: Body) -> Response:
    """The tokenizer's settings, as vLLM tells them: lm-evaluation-harness then needs no copy of the tokenizer."""
    model = backend.model(body)
    named = dict(model.bundle.manifest.tokenizer.names)
    return Json({"eos_token": None, "bos_token": None, **named, "chat_template": model.bundle.chat_template})


def _entry(model: Served) -> dict[str, Any]:
    manifest = model.bundle.manifest
    return {
        "id": model.name,
        "object": "model",
        "created": 0,
        "owned_by": "edgelm",
        "context": model.bundle.context,
        **({} if manifest.embedding is None else {"embedding": manifest.embedding.pooling}),
        "description": f"{manifest.model.id}, {manifest.quant} for {manifest.target}",
    }


def _props(model: Served) -> dict[str, Any]:
    manifest = model.bundle.manifest
    return {
        "id": model.name,
        "context": model.bundle.context,
        "vocab": manifest.graph.vocab,
        "quant": manifest.quant,
        "target": manifest.target,
    }

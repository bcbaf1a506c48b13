"""What Ollama's interface tells of models: ``/api/tags``, ``/api/show``, ``/api/ps``, ``/api/version``, ``/api/pull``."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from starlette.responses import Response

from edgelm.bundle.reader import MANIFEST
from edgelm.serve.backend import Backend
from edgelm.serve.body import Body
from edgelm.serve.pool import Served
from edgelm.serve.streams import NDJSON, Json, line
from edgelm.serve.thoughts import THOUGHT_MARKS
from edgelm.version import __version__

_FOREVER = 365 * 86400.0


def api_name(model: Served) -> str:
    """A model's name as Ollama has them, with a tag."""
    return model.name if ":" in model.name else f"{model.name}:latest"


async def tags(backend: Backend, body: Body) -> Response:
    """All models."""
    return Json({"models": [_entry(model) for model in backend.pool.models.values()]})


async def ps(backend: Backend, body: Body) -> Response:
    """The models that are loaded."""
    loaded = [model for model in backend.pool.models.values() if model.lm is not None]
    return Json({"models": [_running(backend, model) for model in loaded]})


async def version(backend: Backend, body: Body) -> Response:
    """The version of edgelm."""
    return Json({"version": __version__})


async def show(backend: Backend, body: Body) -> Response:
    """All there is to say of a model."""
    model = backend.pool.find(body.text("model") or body.text("name"))
    manifest = model.bundle.manifest
    template = model.bundle.chat_template or ""
    kind = manifest.model.type
    info = {
        "general.architecture": kind,
        "general.basename": manifest.model.id,
        "general.parameter_count": manifest.model.parameters,
        f"{kind}.context_length": model.bundle.context,
        f"{kind}.embedding_length": manifest.graph.hidden,
        f"{kind}.block_count": manifest.graph.layers,
    }
    return Json(
        {
            "modelfile": f"FROM {model.name}",
            "parameters": "",
            "template": template,
            "license": manifest.model.licence or "",
            "details": _details(model),
            "model_info": info,
            "capabilities": _capabilities(template),
            "modified_at": _modified(model),
        }
    )


def _capabilities(template: str) -> list[str]:
    """What a model's chat template makes use of."""
    thinks = any(mark in template for mark in THOUGHT_MARKS)
    return ["completion", *(["tools"] if "tools" in template else []), *(["thinking"] if thinks else [])]


async def pull(backend: Backend, body: Body) -> Response:
    """A model that is here is here already; others cannot be fetched."""
    backend.pool.find(body.text("model") or body.text("name"))
    done = {"status": "success"}
    return Response(line(done), media_type=NDJSON) if body.flag("stream", True) else Json(done)


def _entry(model: Served) -> dict[str, Any]:
    name = api_name(model)
    return {
        "name": name,
        "model": name,
        "modified_at": _modified(model),
        "size": model.bundle.size,
        "digest": model.bundle.digest,
        "details": _details(model),
    }


def _running(backend: Backend, model: Served) -> dict[str, Any]:
    keep = backend.settings.idle_seconds if model.keep_seconds is None else model.keep_seconds
    left = _FOREVER if keep is None or keep < 0 else max(0.0, model.used + keep - time.monotonic())
    until = datetime.fromtimestamp(time.time() + left, UTC)
    more = {
        "expires_at": until.isoformat(),
        "size": model.bytes,
        "size_vram": 0,
        "context_length": model.bundle.context,
    }
    return _entry(model) | more


def _details(model: Served) -> dict[str, Any]:
    manifest = model.bundle.manifest
    size = manifest.model.parameters
    return {
        "parent_model": "",
        "format": "onnx",
        "family": manifest.model.type,
        "families": [manifest.model.type],
        "parameter_size": f"{size / 1e9:.1f}B" if size >= 1e9 else f"{size / 1e6:.1f}M",
        "quantization_level": manifest.quant,
    }


def _modified(model: Served) -> str:
    return datetime.fromtimestamp((model.bundle.path / MANIFEST).stat().st_mtime, UTC).isoformat()

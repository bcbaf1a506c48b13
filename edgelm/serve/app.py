"""The application: which path is served by what."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edgelm.runtime.lm import LM, load
from edgelm.serve import (
    about,
    anthropic,
    embeddings,
    ollama,
    ollama_models,
    openai_chat,
    openai_completions,
    openai_responses,
)
from edgelm.serve.backend import Backend, Endpoint, Handler
from edgelm.serve.beginnings import Beginnings
from edgelm.serve.errors import ApiError, style_of
from edgelm.serve.generation import Generations
from edgelm.serve.guard import Guard
from edgelm.serve.metrics import Metrics
from edgelm.serve.page_files import page_routes
from edgelm.serve.pool import Pool, open_models
from edgelm.serve.settings import Settings
from edgelm.serve.streams import Json

_GET: dict[str, Handler] = {
    "/health": about.health,
    "/metrics": about.metrics,
    "/props": about.props,
    "/tokenizer_info": about.tokenizer_info,
    "/v1/models": about.models,
    "/api/tags": ollama_models.tags,
    "/api/ps": ollama_models.ps,
    "/api/version": ollama_models.version,
}
_POST: dict[str, Handler] = {
    "/v1/chat/completions": openai_chat.chat,
    "/v1/completions": openai_completions.completions,
    "/v1/responses": openai_responses.responses,
    "/v1/messages": anthropic.messages,
    "/v1/messages/count_tokens": anthropic.count_tokens,
    "/api/chat": ollama.chat,
    "/api/generate": ollama.generate,
    "/api/show": ollama_models.show,
    "/api/pull": ollama_models.pull,
    "/v1/embeddings": embeddings.openai,
    "/api/embed": embeddings.ollama,
    "/tokenize": about.tokenize,
    "/detokenize": about.detokenize,
}
_TICK = 1.0  # seconds between two looks for idle models
_QUIET = 2.0  # seconds without a request before beginnings are written, for which requests wait


@dataclass(frozen=True)
class Application:
    """What uvicorn runs, and what the server needs of it.

    Attributes:
        asgi: the application.
        backend: its parts.
    """

    asgi: Starlette
    backend: Backend


def build(settings: Settings, *, load_model: Callable[[Settings, Path, float | None], LM] | None = None) -> Application:
    """The application of a server. Nothing is loaded yet, but every bundle is checked.

    Args:
        settings: of the server.
        load_model: (settings, folder, what it may take in 10^6 bytes or None) -> the model; None for `edgelm.load`.

    Raises:
        BundleError: one of the bundles cannot be used.
        OptionError: two have the same name.
    """
    limits, loader = settings.limits, load_model or _load
    models = open_models(settings.bundles, settings.aliases)
    executor = ThreadPoolExecutor(max_workers=4 + len(models), thread_name_prefix="edgelm-serve")
    beginnings = Beginnings(settings.prompt_cache)

    def load_one(path: Path, most: float | None) -> LM:
        lm = loader(settings, path, most)
        beginnings.load(lm, settings.parallel)
        return lm

    pool = Pool(
        models,
        load_one,
        executor,
        max_memory_mb=settings.max_memory_mb,
        idle_seconds=settings.idle_seconds,
        leave=beginnings.save,
    )
    metrics = Metrics(models, settings.temperature)
    backend = Backend(settings, pool, Generations(pool, executor, metrics, limits.seconds, beginnings.note), metrics)
    routes, pages = _routes(backend), page_routes()
    metrics.paths = frozenset(route.path for route in (*routes, *pages))
    public = frozenset({"/health", *(route.path for route in pages)})
    guard = Middleware(Guard, settings=settings, public=public.__contains__, count=metrics.answered)
    everything: list[BaseRoute] = [*routes, *pages]
    return Application(
        Starlette(
            routes=everything,
            middleware=[guard],
            exception_handlers={HTTPException: _http_error},
            lifespan=lambda app: _lifespan(backend, beginnings, executor),
        ),
        backend,
    )


def _routes(backend: Backend) -> list[Route]:
    got = [Route(path, Endpoint(backend, handle), methods=["GET"]) for path, handle in _GET.items()]
    return got + [Route(path, Endpoint(backend, handle), methods=["POST"]) for path, handle in _POST.items()]


def _load(settings: Settings, path: Path, max_memory_mb: float | None) -> LM:
    return load(
        path,
        threads=settings.threads,
        prefill_threads=settings.prefill_threads,
        max_memory_mb=max_memory_mb,
        weight_cache=settings.weight_cache,
        profile=settings.profile,
        parallel=settings.parallel,
        max_queue=settings.limits.queue,
    )


@contextlib.asynccontextmanager
async def _lifespan(backend: Backend, beginnings: Beginnings, executor: ThreadPoolExecutor) -> AsyncIterator[None]:
    pool = backend.pool
    idle = asyncio.create_task(_tidy(pool, beginnings))
    try:
        yield
    finally:
        idle.cancel()
        await asyncio.gather(idle, return_exceptions=True)
        backend.generations.cancel_all()
        await pool.close()
        executor.shutdown(wait=False, cancel_futures=True)


async def _tidy(pool: Pool, beginnings: Beginnings) -> None:
    """Save what is worth it and unload what nobody needs, again and again."""
    while True:
        await asyncio.sleep(_TICK)
        for model in pool.models.values():
            if beginnings.waits(model) and time.monotonic() - model.used > _QUIET:
                await pool.tidy(model)
        await pool.unload_idle()


async def _http_error(request: Request, error: Exception) -> Response:
    """What starlette refuses by itself: an unknown path, a wrong method."""
    assert isinstance(error, HTTPException)
    said = {404: "there is nothing at this path", 405: "this path takes another method"}
    problem = ApiError(error.status_code, said.get(error.status_code, "the request cannot be served"))
    return Json(problem.body(style_of(request.url.path)), error.status_code, headers=dict(error.headers or {}))

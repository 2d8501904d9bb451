"""The application: all routes, and what belongs to none of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from seq2edge.errors import BackendError
from seq2edge.serve.calls.call import Call, Serving, get
from seq2edge.serve.calls.failures import failure
from seq2edge.serve.calls.pool import Entry, Pool
from seq2edge.serve.calls.settings import Settings
from seq2edge.serve.gates import Hosts, Keys, Watch, read_keys
from seq2edge.serve.routes import (
    audio,
    chat,
    completions,
    embeddings,
    page,
    tokens,
    translate,
    understanding,
)

# Makers of routes, one a module.
ROUTES = (
    audio.routes,
    chat.routes,
    completions.routes,
    embeddings.routes,
    page.routes,
    tokens.routes,
    translate.routes,
    understanding.routes,
)
CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"  # of Prometheus's text format
SWEEP = 1.0  # seconds between two looks for what nobody uses


def make_app(pool: Pool, settings: Settings) -> Starlette:
    """An ASGI application that serves these models; its `state.serving` is shared by all calls."""
    serving = Serving(pool, settings)
    tracing, end_tracing = _tracing(settings)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(_sweep(pool))
        try:
            yield
        finally:
            sweeping.cancel()
            await pool.close()
            for threads in (serving.threads, serving.recordings):
                threads.shutdown(wait=False, cancel_futures=True)
            if serving.prefixes is not None:
                await asyncio.to_thread(serving.prefixes.close)
            end_tracing()

    app = Starlette(
        routes=[*_own(serving), *(route for make in ROUTES for route in make(serving))],
        middleware=[*tracing, *_middleware(serving)],
        lifespan=lifespan,
        exception_handlers={HTTPException: _no_route},
    )
    app.state.serving = serving
    return app


def _tracing(settings: Settings) -> tuple[list[Middleware], Callable[[], None]]:
    """What makes spans and what sends the last ones; their library is loaded for them alone."""
    if settings.traces is None:
        return [], lambda: None
    try:
        from seq2edge.serve import tracing
    except ModuleNotFoundError as error:
        raise BackendError(
            f"traces: need {error.name}; pip install seq2edge[opentelemetry]"
        ) from error
    provider = tracing.export_to(settings.traces)
    return [Middleware(tracing.Tracing, provider)], provider.shutdown


def _middleware(serving: Serving) -> list[Middleware]:
    """What a request passes, from the outside in."""
    settings = serving.settings
    passed = [Middleware(Watch, serving)]
    if settings.allowed_hosts:
        passed.append(Middleware(Hosts, settings.allowed_hosts))
    if settings.origins:
        methods, headers = ["GET", "POST"], ["Authorization", "Content-Type"]
        passed.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.origins,
                allow_methods=methods,
                allow_headers=headers,
            )
        )
    if settings.keys is not None:
        passed.append(Middleware(Keys, read_keys(settings.keys)))
    return passed


def _own(serving: Serving) -> list[Route]:
    """Whether it is alive, whether it takes calls, and what there is to ask."""

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def ready(_: Request) -> Response:
        if serving.draining:
            return JSONResponse({"status": "ending"}, 503)
        return JSONResponse({"status": "ready"})

    async def metrics(_: Request) -> Response:
        return Response(serving.metrics.text(), media_type=CONTENT_TYPE)

    async def models(_: Call) -> Response:
        names = {name: name for name in serving.pool.entries} | dict(serving.pool.aliases)
        records = [_record(alias, serving.pool.entries[name]) for alias, name in names.items()]
        return JSONResponse({"object": "list", "data": records})

    async def model(call: Call) -> Response:
        name = call.request.path_params["name"]
        return JSONResponse(_record(name, serving.pool.entry(name)))

    return [
        Route("/health", health),
        Route("/ready", ready),
        Route("/metrics", metrics),
        get(serving, "/v1/models", models),
        get(serving, "/v1/models/{name:path}", model),
    ]


def _record(name: str, entry: Entry) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": entry.created,
        "owned_by": "seq2edge",
        "task": entry.task,
        "uses": entry.uses,
        "loaded": entry.loaded is not None,
    }


async def _no_route(request: Request, error: Exception) -> Response:
    """A path that is none, or a method that it does not take."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return JSONResponse(failure(error.status_code, message), error.status_code, error.headers)


async def _sweep(pool: Pool) -> None:
    while True:
        await asyncio.sleep(SWEEP)
        await pool.sweep()

"""The service over HTTP: its own API under /v1, the Open Inference Protocol under /v2, and the page at /."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from . import open_inference, routes
from .batching import Full
from .middleware import AccessLog, Auth, BodyLimits, Deadline, Decompression, Failures, Head, Hosts, SecurityHeaders
from .middleware.asgi import refusal
from .schemas import Images, first_problem
from .service import Service

LOOPBACK = ["localhost", "127.0.0.1", "[::1]"]


def create_app(
    service: Service,
    *,
    keys: dict[str, str] | None = None,
    max_bytes: int = 16 * 2**20,
    deadline: float = 30.0,
    any_host: bool = False,
) -> FastAPI:
    """Makes the ASGI application.

    Args:
        service: The service that screens.
        keys: The keys by the names of clients; None lets everybody in.
        max_bytes: The largest number of bytes of a body.
        deadline: The seconds within which a request must be answered.
        any_host: Whether to answer under any host name. Otherwise the service answers only under the names of the
            loopback address, so that no web page can reach it through a host name of its own (DNS rebinding).

    Returns:
        The application. Its lifespan starts and stops the service.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service:
            yield

    middleware = [  # from the outermost
        Middleware(AccessLog, metrics=service.metrics),
        Middleware(Head),
        Middleware(SecurityHeaders),
        Middleware(Failures, metrics=service.metrics),
        Middleware(Auth, keys=keys),
        Middleware(Decompression, max_bytes=max_bytes),
        Middleware(BodyLimits, max_bytes=max_bytes),
        Middleware(Deadline, seconds=deadline),
    ]
    if not any_host:
        middleware.append(Middleware(Hosts, allowed=LOOPBACK))
    app = FastAPIOffline(
        redoc_url=None,
        title="pixeldefend",
        description="Flags images that are too improbable under a density model of clean images.",
        version=version("pixeldefend"),
        lifespan=lifespan,
        middleware=middleware,
    )
    app.state.service = service
    app.include_router(routes.router)
    app.include_router(open_inference.router)
    app.mount("/page", StaticFiles(directory=routes.PAGE))

    @app.exception_handler(Full)
    async def full(request: Request, error: Full) -> Response:
        return _refusal(503, "the queue is full; try again later", {"Retry-After": "1"})

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return _refusal(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return _refusal(422, first_problem(error), {})

    _describe_images(app)
    return app


def _refusal(status: int, reason: str, headers: dict[str, str]) -> Response:
    return Response(refusal(status, reason), status, headers, media_type="application/json")


def _describe_images(app: FastAPI) -> None:
    """Adds the model of a body to the API's description, since FastAPI does not know what the route reads itself."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        if "Images" not in schemas:
            schema = Images.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= schema.pop("$defs", {}) | {"Images": schema}
        return document

    app.openapi = openapi  # type: ignore[method-assign]

"""The method HEAD."""

from __future__ import annotations

from .asgi import App, Receive, Scope, Send


class Head:
    """An ASGI middleware that answers HEAD as GET on every route; the server leaves the body out.

    Args:
        app: The application inside.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") != "HEAD":
            await self.app(scope, receive, send)
            return
        as_get = {**scope, "method": "GET"}  # a copy, because the server has to see HEAD
        try:
            await self.app(as_get, receive, send)
        finally:
            scope["route"] = as_get.get("route")  # for the access log

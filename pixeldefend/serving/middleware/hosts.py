"""The names under which the service answers."""

from __future__ import annotations

import re

from .asgi import App, Receive, Scope, Send, headers_of, refuse

PORT = re.compile(r":\d*$")


class Hosts:
    """An ASGI middleware that answers only under some host names, and otherwise 400.

    Args:
        app: The application inside.
        allowed: The names, in lower case; IPv6 addresses in brackets.
    """

    def __init__(self, app: App, allowed: list[str]) -> None:
        self.app, self.allowed = app, allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            name = PORT.sub("", headers_of(scope).get("host", "")).lower()
            if name not in self.allowed:
                await refuse(send, 400, f"this service does not answer under the host name {name!r}")
                return
        await self.app(scope, receive, send)

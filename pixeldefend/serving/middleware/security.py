"""Headers that tell browsers to trust nothing but this service."""

from __future__ import annotations

from .asgi import App, Message, Receive, Scope, Send

HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}
POLICY = "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
WITHOUT_POLICY = "/docs"  # the API's description has scripts within its HTML


class SecurityHeaders:
    """An ASGI middleware that adds security headers to every answer.

    Args:
        app: The application inside.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = dict(HEADERS)
                if scope["path"] != WITHOUT_POLICY:
                    extra["content-security-policy"] = POLICY
                pairs = [(key.encode(), value.encode()) for key, value in extra.items()]
                message["headers"] = [*message.get("headers", []), *pairs]
            await send(message)

        await self.app(scope, receive, guarded)

"""The deadline of answers."""

from __future__ import annotations

import asyncio

from .asgi import Answer, App, Receive, Scope, Send


class Deadline:
    """An ASGI middleware that stops a request which takes too long, and answers 504.

    Args:
        app: The application inside.
        seconds: The time allowed from the beginning of the request to the end of its answer.
    """

    def __init__(self, app: App, seconds: float) -> None:
        self.app, self.seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = Answer(send)
        try:
            async with asyncio.timeout(self.seconds) as timeout:
                await self.app(scope, receive, answer)
        except TimeoutError:
            if not timeout.expired():
                raise
            await answer.refuse(504, f"no answer within {self.seconds:g} s", {"connection": "close"})

"""The deadline of answers."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect

from .asgi import Answer, App, Message, Receive, Scope, Send


class Deadline:
    """An ASGI middleware that stops a request which takes too long, and answers 504.

    It also stops a request whose client has gone, which then gets no answer.

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
        answer, received, gone = Answer(send), asyncio.Event(), False

        async def noted() -> Message:
            message = await receive()
            if not message.get("more_body"):
                received.set()
            return message

        async def watch(timeout: asyncio.Timeout) -> None:
            nonlocal gone
            await received.wait()  # before that, the application receives
            while (await receive())["type"] != "http.disconnect":
                pass
            gone = True
            timeout.reschedule(0)  # the deadline has passed

        try:
            async with asyncio.timeout(self.seconds) as timeout:
                watching = asyncio.create_task(watch(timeout))
                try:
                    await self.app(scope, noted, answer)
                finally:
                    watching.cancel()
        except ClientDisconnect:  # before the end of the body
            pass
        except TimeoutError:
            if not timeout.expired():
                raise
            if not gone:
                reason = f"no answer within {self.seconds:g} s: send fewer or smaller images, or try again later"
                await answer.refuse(504, reason, {"connection": "close"})

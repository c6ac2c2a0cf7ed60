"""Limits of the bytes in one body, of one client, and in all bodies at once."""

from __future__ import annotations

from collections import Counter

from .asgi import Answer, App, Message, Receive, Refused, Scope, Send, headers_of

MAX_HELD = 256 * 2**20  # bytes of bodies in memory at once
MAX_HELD_OF_ONE = 64 * 2**20  # ... of one client, so that it cannot keep the others out


class BodyLimits:
    """An ASGI middleware that limits the bytes of bodies in memory.

    The answer to a body above `max_bytes` is 413. If all bodies in memory exceed `max_held`, or those of one client
    exceed `max_held_of_one`, the answer is 503. Bytes count as they arrive, so a body that never ends is limited as
    well. A body is also refused as a middleware outside of this one says by raising `Refused` in `receive`.

    Args:
        app: The application inside.
        max_bytes: The largest number of bytes of one body.
        max_held: The largest number of bytes of all bodies in memory.
        max_held_of_one: The largest number of bytes of one client's bodies in memory.
    """

    def __init__(
        self, app: App, max_bytes: int, max_held: int = MAX_HELD, max_held_of_one: int = MAX_HELD_OF_ONE
    ) -> None:
        self.app, self.max_bytes = app, max_bytes
        self.max_held, self.max_held_of_one = max_held, max_held_of_one
        self._held: Counter[str] = Counter()  # client -> bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        client, body, answer = scope["state"]["client"], 0, Answer(send)

        async def counted() -> Message:
            nonlocal body
            message = await receive()
            if message["type"] == "http.request":
                came = len(message.get("body", b""))
                body += came
                self._held[client] += came
                self._check(client, body)  # its exception passes through the application
            return message

        try:
            length = headers_of(scope).get("content-length", "0")
            if length.isdecimal() and int(length[:20]) > self.max_bytes:
                raise self._too_large()
            await self.app(scope, counted, answer)
        except Refused as refused:
            # the rest of the body is not read, so the connection cannot be used again
            await answer.refuse(refused.status, refused.reason, {"connection": "close", **refused.headers})
        finally:
            self._held[client] -= body
            if not self._held[client]:
                del self._held[client]

    def _check(self, client: str, body: int) -> None:
        if body > self.max_bytes:
            raise self._too_large()
        # a body alone may be as large as max_bytes allows
        if self._held[client] > max(self.max_held_of_one, body) or self._held.total() > max(self.max_held, body):
            raise Refused(503, "too many bytes are being received at once; try again later", {"retry-after": "1"})

    def _too_large(self) -> Refused:
        return Refused(413, f"the body has more than {self.max_bytes} bytes")

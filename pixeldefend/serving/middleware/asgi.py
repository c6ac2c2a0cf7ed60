"""The types of ASGI and the refusal as JSON, which all middlewares share."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LONGEST_REASON = 1000  # characters


class Refused(BaseException):
    """The body of a request is refused while it is being received.

    It is not an `Exception`, because FastAPI would answer that itself.

    Args:
        status: The HTTP status of the answer.
        reason: Why the request is refused.
        headers: Further headers of the answer.
    """

    def __init__(self, status: int, reason: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers or {}


class Answer:
    """A `send` that remembers whether the answer has begun, because a second answer cannot be sent.

    Args:
        send: The `send` of ASGI.

    Attributes:
        status: The HTTP status of the answer, 0 before it has begun.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

    async def refuse(self, status: int, reason: str, headers: dict[str, str] | None = None) -> None:
        """Sends a refusal as the function `refuse` does, unless an answer has begun."""
        if not self.status:
            await refuse(self, status, reason, headers)


def headers_of(scope: Scope) -> dict[str, str]:
    """Returns the headers of a request by their names in lower case."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def address_of(scope: Scope) -> str:
    """Returns the network address of the client."""
    return str((scope.get("client") or ("unknown",))[0])


def refusal(status: int, reason: str) -> bytes:
    """Returns the body of a refusal, {"error": reason, "status": phrase}, in ASCII.

    Args:
        status: The HTTP status.
        reason: Why the request is refused. A long reason, which repeats what the client sent, is cut.
    """
    return json.dumps({"error": reason[:LONGEST_REASON], "status": HTTPStatus(status).phrase}).encode()


async def refuse(send: Send, status: int, reason: str, headers: dict[str, str] | None = None) -> None:
    """Sends a refusal as JSON, {"error": reason, "status": phrase}.

    Args:
        send: The `send` of ASGI.
        status: The HTTP status, whose standard phrase the JSON also holds.
        reason: Why the request is refused.
        headers: Further headers of the answer.
    """
    body = refusal(status, reason)
    fields = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    pairs = [(key.encode(), value.encode()) for key, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})

"""Gives every request an id, and afterwards logs and counts it."""

from __future__ import annotations

import uuid
from time import perf_counter

from ..log_lines import log_line
from ..metrics import Metrics
from .asgi import Answer, App, Message, Receive, Scope, Send, address_of


class AccessLog:
    """An ASGI middleware that names, times, counts and logs every request.

    It sets `scope["state"]["request_id"]`, sends it as `X-Request-ID`, and sets `scope["state"]["client"]` to the
    client's address. The line in the log includes what a handler puts into `scope["state"]["verdicts"]`.

    Args:
        app: The application inside.
        metrics: The metrics, which count the requests.
    """

    def __init__(self, app: App, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, request_id = perf_counter(), uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state |= {"request_id": request_id, "client": address_of(scope)}
        answer = Answer(send)

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await answer(message)

        try:
            await self.app(scope, receive, named)
        finally:
            seconds = perf_counter() - started
            self.metrics.request(getattr(scope.get("route"), "path", "other"), answer.status, seconds)
            line = dict(request=request_id, client=state["client"], method=scope["method"], path=scope["path"])
            verdicts = state.get("verdicts", {})
            log_line("request", **line, status=answer.status, ms=round(1000 * seconds, 1), **verdicts)

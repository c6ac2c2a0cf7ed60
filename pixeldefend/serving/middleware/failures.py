"""Answers bugs with status 500 without details, and logs their traceback."""

from __future__ import annotations

import traceback

from ..metrics import Metrics
from .asgi import Answer, App, Receive, Scope, Send


class Failures:
    """An ASGI middleware that answers 500 to any exception, counts it and logs its traceback.

    Args:
        app: The application inside.
        metrics: The metrics, which count and log internal errors.
    """

    def __init__(self, app: App, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = Answer(send)
        try:
            await self.app(scope, receive, answer)
        except Exception:
            self.metrics.internal_error(request=scope["state"]["request_id"], traceback=traceback.format_exc())
            await answer.refuse(500, "the service failed; its log holds the reason under the id of the request")

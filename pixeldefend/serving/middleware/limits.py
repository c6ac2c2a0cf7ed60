"""What stands before every request: an id, a key, a size, a deadline; and after it: a line in the log."""

from __future__ import annotations

import asyncio
import hmac
import json
import traceback
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from time import perf_counter
from typing import Any

from ...errors import ParameterError
from ..metrics import Metrics, log_line

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# what says nothing about images: the page itself and its parts, the API's description, and whether the service lives
OPEN = ("/", "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready")
OPEN_UNDER = ("/page/", "/static-offline-docs/")
BODIES = 256 * 2**20  # bytes of bodies in memory at once
BODIES_OF_ONE = 64 * 2**20  # ... of one client: it shall not keep the others out
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}
# the page needs nothing from elsewhere; the API's description comes with scripts within its HTML
POLICY = "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


class Refused(BaseException):
    """The body is more than is taken. No Exception: the framework would answer 500 to it."""

    def __init__(self, status: int, reason: str, **headers: str) -> None:
        self.status, self.reason, self.headers = status, reason, {"connection": "close", **headers}


class Limits:
    """An ASGI middleware.

    max_bytes: of a body (413 above it); what is held of all bodies, and of those of one client, is bounded too (503).
    deadline: seconds from the request's beginning to its answer (504 after it). keys: client's name -> key; None lets
    everybody in. The key is expected as `Authorization: Bearer KEY` or `X-API-Key: KEY` and compared in constant time.
    Sets scope["state"]["request_id"] and ["client"]: the key's name, or the address.
    """

    def __init__(
        self, app: Any, *, metrics: Metrics, max_bytes: int, deadline: float, keys: dict[str, str] | None
    ) -> None:
        self.app, self.metrics, self.max_bytes, self.deadline, self.keys = app, metrics, max_bytes, deadline, keys
        self._bodies: Counter[str] = Counter()  # client -> bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, request_id = perf_counter(), uuid.uuid4().hex
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        address = (scope.get("client") or ("unknown",))[0]
        name = self._client(headers)
        state = scope.setdefault("state", {})
        client = name or address
        state |= {"request_id": request_id, "client": client}
        status, held = 0, 0

        async def answer(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = {**HEADERS, "x-request-id": request_id}
                if scope["path"] != "/docs":
                    extra["content-security-policy"] = POLICY
                message["headers"] = [
                    *message.get("headers", []),
                    *((key.encode(), value.encode()) for key, value in extra.items()),
                ]
            await send(message)

        async def body() -> MutableMapping[str, Any]:
            nonlocal held
            message = await receive()
            if message["type"] == "http.request":
                came = len(message.get("body", b""))
                held += came
                self._bodies[client] += came
                if held > self.max_bytes:  # what is raised goes through the application, which does not answer for it
                    raise self._too_large()
                # as they come in: one that does not end is held as well
                if self._bodies[client] > max(BODIES_OF_ONE, held) or self._bodies.total() > max(BODIES, held):
                    raise Refused(503, "too much is being sent at once; come back later", **{"retry-after": "1"})
            return message

        try:
            if self.keys is not None and name is None and not _is_open(scope["path"]):
                await _refuse(answer, 401, "a key is wanted: Authorization: Bearer KEY", {"www-authenticate": "Bearer"})
            elif (length := headers.get("content-length", "0")).isdecimal() and int(length[:20]) > self.max_bytes:
                raise self._too_large()
            else:
                async with asyncio.timeout(self.deadline):
                    await self.app(scope, body, answer)
        except Refused as refused:
            await _refuse(answer, refused.status, refused.reason, refused.headers)
        except TimeoutError:
            if not status:
                await _refuse(answer, 504, f"no answer within {self.deadline:g} s", {"connection": "close"})
        except Exception:
            log_line("failure", request=request_id, traceback=traceback.format_exc())
            if not status:
                await _refuse(answer, 500, "the service failed; its log says why under the request's id")
        finally:
            self._bodies[client] -= held
            if not self._bodies[client]:
                del self._bodies[client]
            seconds = perf_counter() - started
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.request(route, status, seconds)
            line = dict(request=request_id, client=state["client"], method=scope["method"], path=scope["path"])
            log_line("request", **line, status=status, ms=round(1000 * seconds, 1), **state.get("verdicts", {}))

    def _too_large(self) -> Refused:
        return Refused(413, f"the body has more than {self.max_bytes} bytes")

    def _client(self, headers: dict[str, str]) -> str | None:
        """Returns the name of who holds the key that was sent, or None. Every key is compared, whichever fits."""
        if self.keys is None:
            return None
        kind, _, sent = headers.get("authorization", "").partition(" ")
        sent = sent.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
        found = None
        for name, key in self.keys.items():
            if hmac.compare_digest(key.encode(), sent.encode("utf-8", "surrogateescape")):
                found = name
        return found


def read_keys(text: str) -> dict[str, str]:
    """text: a key a line, or a client's name, a space and its key. Returns name -> key. Raises ParameterError for a key of
    less than 16 characters, a name that comes twice, or none at all."""
    keys: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        name, key = (f"key{number}", words[0]) if len(words) == 1 else (words[0], words[-1])
        if len(words) > 2 or len(key) < 16:
            raise ParameterError(f"line {number} of the key file must be [name] key, the key of at least 16 characters")
        if name in keys:
            raise ParameterError(f"the key file names {name} twice")
        keys[name] = key
    if not keys:
        raise ParameterError("the key file holds no key")
    return keys


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith(OPEN_UNDER)


async def _refuse(send: Send, status: int, reason: str, headers: dict[str, str] | None = None) -> None:
    body = json.dumps({"error": reason, "status": HTTPStatus(status).phrase}).encode()
    fields = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    pairs = [(key.encode(), value.encode()) for key, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})

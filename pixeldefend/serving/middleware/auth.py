"""The keys of clients."""

from __future__ import annotations

import hmac

from ...errors import ParameterError
from .asgi import App, Receive, Scope, Send, headers_of, refuse

# paths that reveal nothing about images: the page and its parts, the API's description, and the health of the service
OPEN_PATHS = ("/", "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready")
OPEN_FOLDERS = ("/page/", "/static-offline-docs/")
SHORTEST_KEY = 16  # characters


class Auth:
    """An ASGI middleware that lets in only clients that send a key.

    A client sends its key as `Authorization: Bearer KEY` or `X-API-Key: KEY`. `scope["state"]["client"]` becomes the
    name of the key. The answer to a missing or wrong key is 401, except for the page and the API's description.

    Args:
        app: The application inside.
        keys: The keys by the names of clients; None lets everybody in.
    """

    def __init__(self, app: App, keys: dict[str, str] | None) -> None:
        self.app, self.keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.keys is not None:
            client = _holder(self.keys, headers_of(scope))
            if client is not None:
                scope["state"]["client"] = client
            elif scope["path"] not in OPEN_PATHS and not scope["path"].startswith(OPEN_FOLDERS):
                reason = "a key is required: Authorization: Bearer KEY"
                await refuse(send, 401, reason, {"www-authenticate": "Bearer"})
                return
        await self.app(scope, receive, send)


def read_keys(text: str) -> dict[str, str]:
    """Reads a file of keys.

    Args:
        text: A key a line, or the name of a client, a space and its key. Lines that begin with # are comments.

    Returns:
        The keys by the names of clients. A key without a name is named by its line, such as "key3".

    Raises:
        ParameterError: If a key has fewer than 16 characters, if a name occurs twice, or if there is no key.
    """
    keys: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        name, key = (f"key{number}", words[0]) if len(words) == 1 else (words[0], words[-1])
        if len(words) > 2 or len(key) < SHORTEST_KEY:
            raise ParameterError(
                f"line {number} of the key file must be [name] key, and the key must have at least {SHORTEST_KEY} "
                "characters"
            )
        if name in keys:
            raise ParameterError(f"the key file names {name} twice")
        keys[name] = key
    if not keys:
        raise ParameterError("the key file holds no key")
    return keys


def _holder(keys: dict[str, str], headers: dict[str, str]) -> str | None:
    """Returns the name of the key that was sent, or None."""
    scheme, _, sent = headers.get("authorization", "").partition(" ")
    sent = sent.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    found = None
    for name, key in keys.items():  # compares every key, in constant time, so that the time reveals nothing
        if hmac.compare_digest(key.encode(), sent.encode("latin-1")):  # the bytes that came
            found = name
    return found

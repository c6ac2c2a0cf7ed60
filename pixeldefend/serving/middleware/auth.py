"""Keys of clients."""

from __future__ import annotations

import hmac

from ...errors import ParameterError
from .asgi import App, Receive, Scope, Send, headers_of, refuse

# what says nothing about images: the page itself and its parts, the API's description, and whether the service lives
OPEN_PATHS = ("/", "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready")
OPEN_FOLDERS = ("/page/", "/static-offline-docs/")
SHORTEST_KEY = 16  # characters


class Auth:
    """An ASGI middleware that lets in only those who send a key.

    A client sends its key as `Authorization: Bearer KEY` or `X-API-Key: KEY`. `scope["state"]["client"]` becomes the
    name of the key. A request without a key, or with a wrong one, is answered 401. The page and the API's description
    need none.

    Args:
        app: The application inside.
        keys: Name of a client -> its key; None lets everybody in.
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
        Name of a client -> its key. A key without a name is called after its line, "key3".

    Raises:
        ParameterError: If a key has less than 16 characters, if a name occurs twice, or if there is no key.
    """
    keys: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        name, key = (f"key{number}", words[0]) if len(words) == 1 else (words[0], words[-1])
        if len(words) > 2 or len(key) < SHORTEST_KEY:
            raise ParameterError(
                f"line {number} of the key file must be [name] key, the key of at least {SHORTEST_KEY} characters"
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
    for name, key in keys.items():  # every key is compared, and in constant time: the time tells nothing
        if hmac.compare_digest(key.encode(), sent.encode("utf-8", "surrogateescape")):
            found = name
    return found

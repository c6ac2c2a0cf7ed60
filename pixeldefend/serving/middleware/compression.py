"""Compressed bodies."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from .asgi import App, Message, Receive, Refused, Scope, Send

FORMATS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # coding -> the format as zlib numbers it
MAX_MEMBERS = 1000  # of a file of gzip; millions of empty ones would cost seconds
PIECE = 64 * 2**10  # bytes that are inflated at once


class Decompression:
    """An ASGI middleware that inflates bodies which are compressed by gzip or deflate.

    The application inside gets the body in small pieces, so that its limits stop a decompression bomb early. The answer
    to another coding, or to several codings on top of one another, is 415. The answer to a damaged body is 400.
    `BodyLimits` has to be inside, because it answers what this middleware refuses.

    Args:
        app: The application inside.
        max_bytes: The largest number of compressed bytes of one body.
    """

    def __init__(self, app: App, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        codings = [] if scope["type"] != "http" else _codings(scope)
        if not codings:
            await self.app(scope, receive, send)
            return
        # what is inside reads bytes as they were before compression, whose number nobody has told
        scope["headers"] = [
            pair for pair in scope["headers"] if pair[0].lower() not in (b"content-encoding", b"content-length")
        ]
        pieces: Iterator[Message] = iter(())
        inflating, came = _Inflating(codings), 0

        async def inflated() -> Message:
            nonlocal pieces, came
            piece = next(pieces, None)
            if piece is None:
                message = await receive()
                if message["type"] != "http.request":
                    return message
                came += len(message.get("body", b""))
                if came > self.max_bytes:
                    raise Refused(413, f"the compressed body has more than {self.max_bytes} bytes")
                pieces = inflating.messages(message.get("body", b""), message.get("more_body", False))
                piece = next(pieces)
            return piece

        await self.app(scope, inflated, send)


class _Inflating:
    """Inflates one body, part by part."""

    def __init__(self, codings: list[str]) -> None:
        self.codings = codings
        self._stream: zlib._Decompress | None = None  # None as long as nothing has come
        self._members = 0

    def messages(self, data: bytes, more: bool) -> Iterator[Message]:
        """Yields the messages of ASGI that a part of the compressed body becomes."""
        try:
            for piece in self._inflate(data):
                yield {"type": "http.request", "body": piece, "more_body": True}
        except zlib.error as error:
            raise Refused(400, f"the body is not {self.codings[0]}, or is damaged: {error}") from None
        if self._stream is not None and not self._stream.eof and not more:
            raise Refused(400, f"the body is cut off: its {self.codings[0]} does not end")
        yield {"type": "http.request", "body": b"", "more_body": more}

    def _inflate(self, data: bytes) -> Iterator[bytes]:
        piece = b""
        while data or len(piece) == PIECE:  # a whole piece may leave something that has been read but not returned
            if self._stream is None or (self._stream.eof and data):  # gzip may have several members
                self._stream = self._begun()
            piece = self._stream.decompress(data, PIECE)
            data = self._stream.unconsumed_tail or self._stream.unused_data
            if piece:
                yield piece

    def _begun(self) -> zlib._Decompress:
        if len(self.codings) > 1 or self.codings[0] not in FORMATS:
            reason = f"bodies of content-encoding {', '.join(self.codings)} are not read; send gzip or deflate"
            raise Refused(415, reason, {"accept-encoding": "gzip, deflate"})
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise Refused(400, f"the body has more than {MAX_MEMBERS} members of gzip")
        return zlib.decompressobj(FORMATS[self.codings[0]])


def _codings(scope: Scope) -> list[str]:
    """Returns the codings of the body, in lower case, without those that change nothing."""
    given = b",".join(value for name, value in scope["headers"] if name.lower() == b"content-encoding")
    names = [name.strip().lower() for name in given.decode("latin-1").split(",")]
    return [name for name in names if name not in ("", "identity")]

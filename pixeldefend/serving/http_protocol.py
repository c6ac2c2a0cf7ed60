"""HTTP as the server reads it from a connection."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from .middleware.asgi import refusal


class HttpProtocol(HttpToolsProtocol):
    """The protocol of uvicorn, which answers what is not HTTP as the service answers every refused request: in JSON."""

    def send_400_response(self, msg: str) -> None:
        """Answers 400 and closes the connection."""
        body = refusal(400, msg)
        head = [b"content-type: application/json", b"content-length: %d" % len(body), b"connection: close", b"", b""]
        self.transport.write(STATUS_LINE[400] + b"\r\n".join(head) + body)
        self.transport.close()

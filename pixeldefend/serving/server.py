"""Runs the service until it is told to stop."""

from __future__ import annotations

import ipaddress
import signal
import socket
from pathlib import Path
from typing import Any

from ..errors import ParameterError
from ..process import prepare_process
from .log_lines import json_only, log_line


@json_only()
def run(
    detector: str | None,
    *,
    classifier: str | None,
    device: str,
    host: str,
    port: int,
    api_key_file: Path | None,
    without_key: bool,
    log: Path,
    max_rows: int | None,
    max_days: float | None,
    deadline: float,
    max_bytes: int,
    **options: Any,
) -> None:
    """Serves until SIGTERM or SIGINT, and then answers all accepted requests.

    While it runs, every line that Python code writes to standard error is JSON.

    Args:
        detector: The name of a shipped detector, or the path of a saved one; None for the shipped one that takes each
            image.
        classifier: The name of a shipped classifier, or the path of a saved one; None for none.
        device: Where the models run.
        host: The address to listen on.
        port: The port to listen on. With 0 the system chooses a free port, which the log names.
        api_key_file: A file as `middleware.read_keys` reads it; None for no keys.
        without_key: Whether to serve everybody, without keys, on an address other than the loopback.
        log: The path of the audit log.
        max_rows: The largest number of rows in the log; None for no limit.
        max_days: The number of days that a row stays in the log; None for no limit.
        deadline: The seconds within which a request must be answered.
        max_bytes: The largest number of bytes of a body.
        **options: Further arguments of `Service`.

    Raises:
        ParameterError: If host is not the loopback address and there is neither a key file nor `without_key`.
        PixelDefendError: If a model, the key file or the log cannot be used.
        OSError: If a file cannot be read, or the service cannot listen on the address.
    """
    prepare_process()
    import uvicorn  # these import torch, which must see the settings above

    from ..screening.audit_log import AuditLog
    from ..zoo import load_classifier
    from .app import create_app
    from .http_protocol import HttpProtocol
    from .middleware import read_keys
    from .service import Service

    keys = None if api_key_file is None else read_keys(_text(api_key_file))
    loopback = _is_loopback(host)
    if keys is None and not loopback and not without_key:
        raise ParameterError(
            f"{host} can be reached from other machines: give --api-key-file, or --without-key to serve everybody"
        )
    audit = AuditLog(log, max_rows=max_rows, max_days=max_days)
    try:
        model = None if classifier is None else load_classifier(classifier, device=device)
        service = Service(audit, detector, classifier=model, device=device, **options)
        app = create_app(
            service, keys=keys, max_bytes=max_bytes, deadline=deadline, any_host=not loopback or keys is not None
        )
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
        address = listening.getsockname()
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        config = uvicorn.Config(
            app,
            http=HttpProtocol,
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=int(deadline) + 5,
            server_header=False,
        )
        server = uvicorn.Server(config)

        def stop(number: int, frame: Any) -> None:
            server.should_exit = True

        for number in (
            signal.SIGTERM,
            signal.SIGINT,
        ):  # uvicorn raises the signal again at its end, but a stop is no failure
            signal.signal(number, stop)
        log_line("listening", url=f"http://{shown}:{address[1]}", detectors=list(service.detectors), log=str(log))
        server.run([listening])
        log_line("stopped")
    finally:
        audit.close()


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ParameterError(f"{path} is not text in UTF-8: {error}") from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

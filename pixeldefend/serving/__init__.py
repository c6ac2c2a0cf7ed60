"""The service: `pixeldefend serve`. It needs the extra 'serve'."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .app import create_app
    from .service import Service

__all__ = ["Service", "create_app"]


def __getattr__(name: str) -> Any:  # `server.run` has to set up threads before torch is imported
    if name == "create_app":
        from .app import create_app

        return create_app
    if name == "Service":
        from .service import Service

        return Service
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

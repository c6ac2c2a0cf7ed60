"""The service: `pixeldefend serve`. It needs the extra 'serve'."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import names_from

if TYPE_CHECKING:
    from .app import create_app as create_app
    from .service import Service as Service

_MODULES = {"Service": "service", "create_app": "app"}
__all__ = list(_MODULES)
__getattr__ = names_from(__name__, _MODULES)  # `server.run` has to set up threads before torch is imported

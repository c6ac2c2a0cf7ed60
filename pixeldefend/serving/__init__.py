"""The service: `pixeldefend serve`. Needs the extra 'serve'."""

from .app import create_app
from .service import Service

__all__ = ["Service", "create_app"]

"""Plain ASGI middlewares around every request, one concern per file.

`app.create_app` installs them. From the outermost: the access log, which sees every request and every refusal, the
security headers, failures, keys, compression and limits of bodies, the deadline, and names of hosts.
"""

from .access_log import AccessLog
from .auth import Auth, read_keys
from .body import BodyLimits
from .compression import Decompression
from .deadline import Deadline
from .failures import Failures
from .head import Head
from .hosts import Hosts
from .security import SecurityHeaders

__all__ = [
    "AccessLog",
    "Auth",
    "BodyLimits",
    "Deadline",
    "Decompression",
    "Failures",
    "Head",
    "Hosts",
    "SecurityHeaders",
    "read_keys",
]

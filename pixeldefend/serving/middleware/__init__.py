"""Plain ASGI middlewares around every request, one concern per file.

`app.create_app` installs them. From the outermost: the access log, which sees every request and every refusal, the
security headers, failures, keys, limits of bodies, and the deadline.
"""

from .access_log import AccessLog
from .auth import Auth, read_keys
from .body import BodyLimits
from .deadline import Deadline
from .failures import Failures
from .security import SecurityHeaders

__all__ = ["AccessLog", "Auth", "BodyLimits", "Deadline", "Failures", "SecurityHeaders", "read_keys"]

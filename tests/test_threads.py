"""The command line and the service calm waiting threads; the library leaves the process alone."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE 1000"), ("ACTIVE", "ACTIVE None")])
def test_waiting_threads_sleep_unless_the_user_wants_otherwise(given, expected):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    program = f"""
import os, sys
from pixeldefend.threads import calm_waiting_threads
calm_waiting_threads()
print(*map(os.environ.get, {names}))
assert "torch" not in sys.modules  # which reads them when it is imported
"""
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"OMP_WAIT_POLICY": given} if given else {}
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert found.stdout.strip() == expected, found.stderr

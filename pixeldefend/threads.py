"""The way in which threads of torch's OpenMP runtime wait for one another."""

from __future__ import annotations

import os


def calm_waiting_threads() -> None:
    """Makes OpenMP threads that wait for one another sleep after a short while instead of spinning.

    A spinning thread occupies a core. On a busy machine the thread that it waits for could use that core. On an idle
    machine a thread that sleeps at once wakes up late. So threads spin for a moment, and then sleep.

    The OpenMP runtime reads its environment variables when it is loaded: call this before torch is imported. It changes
    nothing if the user has set `OMP_WAIT_POLICY`. The command line and the service call it; the library does not.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")

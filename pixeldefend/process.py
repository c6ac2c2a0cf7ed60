"""Settings of a process of the command line or the service. The library leaves them to the user's program."""

import os


def prepare_process() -> None:
    """Sets environment variables that torch and Pillow read: call it before they are imported.

    It changes nothing that the user has set.
    """
    _calm_waiting_threads()
    _return_memory_of_images()


def _calm_waiting_threads() -> None:
    """Makes OpenMP threads that wait for one another sleep after a short while instead of spinning.

    A spinning thread occupies a core. On a busy machine the thread that it waits for could use that core. On an idle
    machine a thread that sleeps at once wakes up late. So threads spin for a moment, and then sleep.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _return_memory_of_images() -> None:
    """Has Pillow decode a large image into one block of memory, which the system gets back.

    Smaller blocks, of 16 MiB, come from the C library's heap, which keeps them.
    """
    os.environ.setdefault("PILLOW_BLOCK_SIZE", "64m")

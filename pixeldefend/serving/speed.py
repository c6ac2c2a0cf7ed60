"""How fast images are scored, and which requests have more images than can be scored in time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic

from ..errors import PixelDefendError

REMEMBERED = 600.0  # seconds; a machine that was slow for a while must not refuse images for ever


class TooMuchError(PixelDefendError):
    """The images of a request cannot be scored within its deadline, however idle the service is."""

    kind = "too much"


class Speed:
    """The best speed at which each detector has scored a batch lately.

    It is the best one, since the others were slowed down by other work, which may end. So hardly a request is refused
    that could be answered in time.

    Args:
        now: A function that returns the time in seconds.
    """

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._best: dict[str, tuple[float, float]] = {}  # detector -> pixels a second, and when that was

    def measured(self, pixels: Mapping[str, int], seconds: float) -> None:
        """Notes how long a batch took, unless several detectors scored it.

        The first batch of a detector does not count, since it includes what is done only once.

        Args:
            pixels: The number of pixels that each detector scored.
            seconds: How long it took.
        """
        if len(pixels) != 1 or seconds <= 0:
            return
        ((detector, number),) = pixels.items()
        speed = number / seconds if detector in self._best else 0.0
        if speed >= self._known(detector):
            self._best[detector] = speed, self._now()

    def check(self, pixels: Mapping[str, int], deadline: float) -> None:
        """Checks that images can be scored in time, as far as the speed of their detectors is known.

        Args:
            pixels: The number of pixels that each detector would score.
            deadline: The seconds that there are.

        Raises:
            TooMuchError: If they cannot. The message says how many pixels can be scored.
        """
        speeds = {detector: self._known(detector) for detector in pixels}
        least = sum(pixels[detector] / speed for detector, speed in speeds.items() if speed)
        if least > deadline:
            wanted = sum(pixels.values()) / 1e6
            raise TooMuchError(
                f"the images have {wanted:.3g} megapixels to score, and at most {wanted * deadline / least:.3g} can be "
                f"scored within {deadline:g} s: send fewer or smaller images in a request"
            )

    def _known(self, detector: str) -> float:
        """Returns the pixels a second of a detector, 0 if they are not known."""
        speed, when = self._best.get(detector, (0.0, 0.0))
        return speed if self._now() - when <= REMEMBERED else 0.0

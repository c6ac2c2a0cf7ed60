"""Clean photographs that baselines learn from and are calibrated on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from torch import Tensor

from ...errors import DataError
from .data import Photographs


@dataclass(frozen=True)
class Learning:
    """Clean photographs in two parts, none of which may be attacked or count false alarms.

    Attributes:
        fit: Those that baselines learn from.
        calibration: Those that calibrate detectors.
    """

    fit: Photographs
    calibration: Photographs

    @classmethod
    def of(cls, photographs: Photographs) -> Learning:
        """Divides photographs: every third is learned from, the others calibrate.

        Raises:
            DataError: If there are fewer than 3 photographs.
        """
        if len(photographs) < 3:
            raise DataError(f"{photographs.name} holds {len(photographs)} photographs; wanted at least 3")
        places = range(len(photographs))
        return cls(photographs.take(places[::3]), photographs.take([place for place in places if place % 3]))

    def check_others(self, photographs: Photographs) -> None:
        """Refuses photographs some of which are also in here.

        Raises:
            DataError: If there are such.
        """
        known = {_key(image) for part in (self.fit, self.calibration) for image in part.x}
        if shared := sum(_key(image) in known for image in photographs.x):
            raise DataError(
                f"{shared} of the {len(photographs)} photographs are also among those that detectors learn from: give "
                "other ones"
            )


def _key(image: Tensor) -> bytes:
    return hashlib.sha256(f"{tuple(image.shape)}".encode() + image.contiguous().numpy().tobytes()).digest()

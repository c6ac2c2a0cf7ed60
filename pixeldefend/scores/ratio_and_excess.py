"""Fisher's combination of the learned ratio of residuals and the excess surprisal of sites with low entropy.

The network of `residual_ratio` sees the log-probability of each sub-pixel relative to the predicted standard deviation.
It does not see the entropy. Beside an edge of a flat area, the density may give one value nearly all of the
probability, and distant values the rest. The standard deviation is then large, though the entropy is low. A surprising
value looks ordinary there to the network. The excess surprisal compares it with the entropy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import CalibrationError
from .combined import Combined, clean_quantiles, to_standard_normal
from .evidence import Evidence
from .learned import LearnedScore, check_state
from .residual_ratio import ResidualRatio
from .surprisal import low_entropy_excess_surprisal


class RatioAndExcess(LearnedScore):
    """The sum of -log p of two statistics, `residual_ratio` and `low_entropy_excess_surprisal`.

    Each statistic is transformed to standard normal by its quantiles over clean images, and p is the upper tail of the
    normal distribution. Beyond the outermost quantiles the transform is logarithmic, so p is only nominal there. An
    image is detected if either statistic is high enough.

    Attributes:
        ratio: The statistic `residual_ratio`, with its learned values.
        quantiles_: The quantiles of each statistic at `QUANTILE_LEVELS`, over clean images that `ratio` has not
            learned from.

    Reference:
        Fisher 1932, "Statistical methods for research workers", section 21.1.
    """

    quantiles_: list[list[float]]

    HELD_OUT = 10  # of this many clean images, one gives quantiles and the others teach the ratio
    LEAST_IMAGES = HELD_OUT * Combined.LEAST_IMAGES  # those held out are enough for the outermost quantiles
    learns_corruptions = True
    copies = ResidualRatio.copies

    def __init__(self) -> None:
        self.ratio = ResidualRatio()

    def features(self, evidence: Evidence) -> Tensor:
        """Computes what `ratio` needs, and the other statistic.

        Args:
            evidence: The evidence about N images.

        Returns:
            (N, 4C + 1, H, W): what `ResidualRatio.features` returns, and a constant plane.

        Raises:
            ParameterError: If the density is not one of 8-bit images with sides of at least 8 whose sites are mixtures
                of logistics.
        """
        planes = self.ratio.features(evidence)
        excess = evidence.once(low_entropy_excess_surprisal).to(planes)
        return torch.cat([planes, excess[:, None, None, None].expand(-1, 1, *planes.shape[2:])], 1)

    def fit(self, features: Tensor, *copies: Tensor) -> RatioAndExcess:
        """Learns the ratio from nine tenths of the clean images, and the quantiles from the other tenth.

        Args:
            features: (M, 4C + 1, H, W), the features of N clean images; if they are corrupted too, then M = 2N, and the
                second half are those of the corrupted images.
            *copies: (N, 4C + 1, H, W), the features of each of `copies` of the uncorrupted images.

        Returns:
            Itself.

        Raises:
            CalibrationError: If N is below `LEAST_IMAGES`.
            ParameterError: If copies are missing.
        """
        n = len(copies[0]) if copies else len(features)
        if n < self.LEAST_IMAGES:
            raise CalibrationError(
                f"ratio_and_excess learns from at least {self.LEAST_IMAGES} clean images, got {n}: give more (X_fit), "
                "or use another statistic"
            )
        # the corruptions take turns: whole turns are held out, so that no corruption is missing anywhere
        turn = torch.arange(len(features)) % n // max(1, self.corruptions)
        held_out = turn % self.HELD_OUT == 0
        self.ratio.corruptions = self.corruptions
        self.ratio.fit(*(part[:, :-1][~held_out[: len(part)]] for part in (features, *copies)))
        self.quantiles_ = [clean_quantiles(values) for values in self._members(features[held_out])]
        return self

    def evaluate(self, features: Tensor) -> Tensor:
        """Computes the statistic from (N, 4C + 1, H, W) features: (N,), float64, in nats."""
        z = [to_standard_normal(*pair) for pair in zip(self._members(features), self.quantiles_, strict=True)]
        return -torch.special.log_ndtr(-torch.stack(z)).sum(0)

    def _members(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.ratio.evaluate(features[:, :-1]), features[:, -1, 0, 0]

    def state(self) -> dict[str, Any]:
        """Returns the learned values, plain JSON values or tensors, by name."""
        return {"quantiles_": self.quantiles_, **self.ratio.state()}

    def restore(self, state: dict[str, Any]) -> RatioAndExcess:
        """Takes over the learned values of another statistic.

        Args:
            state: The learned values, as `state` returns them.

        Returns:
            Itself.

        Raises:
            ModelError: If it is the state of another type or version.
        """
        own = {name: value for name, value in state.items() if name == "quantiles_"}
        check_state(own, {"quantiles_"})
        self.ratio.restore({name: value for name, value in state.items() if name not in own})
        self.quantiles_ = own["quantiles_"]
        return self

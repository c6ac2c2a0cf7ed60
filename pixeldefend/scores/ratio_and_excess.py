"""Fisher's combination of two statistics: the learned ratio of residuals, and the excess surprisal of sure predictions.

The network of `residual_ratio` sees the mean and the standard deviation of each prediction. Where an image is flat next
to an edge, the density may be almost sure of a value and still leave a little to values far away. The standard
deviation is large there, the entropy is low, and only the latter says how surprising another value is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import CalibrationError
from .combined import clean_quantiles, to_standard_normal
from .evidence import Evidence
from .learned import LearnedScore, check_state
from .residual_ratio import ResidualRatio
from .surprisal import low_entropy_excess_surprisal


class RatioAndExcess(LearnedScore):
    """The sum of -log p-value of two statistics, `residual_ratio` and `low_entropy_excess_surprisal`.

    Both p-values are those of the normal distribution, after a transform that makes the statistics standard normal over
    clean images. An image that one of them finds unremarkable is still detected by the other one.

    Attributes:
        ratio: The first of the two, which has the learned values of its own.
        quantiles_: The quantiles of both over clean images that `ratio` has not learned from.

    Reference:
        Fisher 1932, "Statistical methods for research workers", section 21.1.
    """

    quantiles_: list[list[float]]

    HELD_OUT = 10  # one of so many images is kept for the quantiles
    LEAST_IMAGES = 100
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
            ParameterError: As `ResidualRatio.features` does.
        """
        planes = self.ratio.features(evidence)
        excess = evidence.once(low_entropy_excess_surprisal).to(planes)
        return torch.cat([planes, excess[:, None, None, None].expand(-1, 1, *planes.shape[2:])], 1)

    def fit(self, features: Tensor, *copies: Tensor) -> RatioAndExcess:
        """Learns the ratio from nine tenths of the clean images, and the quantiles of both statistics from the others.

        Args:
            features: (M, 4C + 1, H, W), as for `ResidualRatio.fit`.
            *copies: (N, 4C + 1, H, W), as for `ResidualRatio.fit`.

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
        held_out = torch.arange(len(features)) % n % self.HELD_OUT == 0
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

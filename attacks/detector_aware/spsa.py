"""An attack without gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import ParameterError
from ..criteria import rounded
from .base import Classifier
from .joint import JointPGD


class SPSA(JointPGD):
    """An attack like `JointPGD`, for an attacker who sees logits and anomaly scores but no gradients.

    The gradients are estimated from differences along random signs.

    Args:
        detector: A fitted detector.
        samples: The number of pairs of images that are evaluated in each step.
        delta: The distance of the images of a pair from the attacked image, in [1/255, 1]. Rounding would undo a
            smaller one.
        regions: As for `DetectorAwarePGD`.
        settings: The other arguments of `DetectorAwarePGD`.

    Raises:
        ParameterError: If a value is out of range.

    Reference:
        Spall 1992; Uesato et al. 2018, arXiv:1802.05666.
    """

    def __init__(
        self,
        detector: Any,
        *,
        samples: int = 16,
        delta: float = 2 / 255,
        regions: Sequence[float] = (0.05,),
        **settings: Any,
    ) -> None:
        super().__init__(detector, regions=regions, **settings)
        if samples < 1 or not 1 / 255 <= delta <= 1:
            raise ParameterError(f"samples must be at least 1 and delta in [1/255, 1], got {samples} and {delta}")
        self.samples, self.delta = samples, delta
        self.queries_per_step = 1 + 2 * samples

    def look(
        self, model: Classifier, x: Tensor, labels: Tensor, mask: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        with torch.no_grad():
            margin, excess = self.margin_and_excess(model, rounded(x), labels)
            classify, detect = torch.zeros_like(x), torch.zeros_like(x)
            for _ in range(self.samples):
                signs = (torch.randint(2, x.shape, generator=generator, device="cpu") * 2 - 1).to(x) * mask
                ahead = self.margin_and_excess(model, rounded(x + self.delta * signs), labels)
                behind = self.margin_and_excess(model, rounded(x - self.delta * signs), labels)
                classify += (ahead[0] - behind[0])[:, None, None, None] * signs
                detect += (ahead[1] - behind[1])[:, None, None, None] * signs
        return margin, excess, (classify, detect)

"""The likelihood ratio of an image's profile, which is learned from clean and from synthetically perturbed images.

By Neyman and Pearson no test of "perturbed" against "clean" is more powerful than the likelihood ratio. A network that
is trained to tell the two apart, half and half, approximates its logarithm: the log-odds of the classes. The network
reads profiles (`profile`), and it has never seen an attack. It also learns what an image has been through, its history,
because what is usual in one history is suspicious in another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ParameterError
from ..images import Origin

# what files say of themselves, as far as it tells histories apart
FILE_KINDS = ("lossless", "WebP", "JPEG below 75", "JPEG below 90", "JPEG of 90 or more")
FAR = 6.0  # standardised features are clipped here: outside of what was learned a network may say anything


def file_kind(origin: Origin | None) -> str | None:
    """Returns the kind of a file, one of `FILE_KINDS`; None if nothing is known of it."""
    if origin is None or origin.lossy is None:
        return None
    if not origin.lossy:
        return "lossless"
    if origin.format != "JPEG":
        return "WebP"
    if origin.quality is None:
        return None
    return "JPEG below 75" if origin.quality < 75 else "JPEG below 90" if origin.quality < 90 else "JPEG of 90 or more"


class LikelihoodRatio(nn.Module):
    """A network that computes the log likelihood ratio of profiles, perturbed against clean, and their histories.

    Args:
        features: The number F of features of a profile, at least 1.
        histories: The names of the H histories that it tells apart.
        width: The number of hidden units, at least 1.

    Attributes:
        mean: (F,), of the features over the training images.
        deviation: (F,), their standard deviations.
        file_kinds: (H, kinds), the log-probabilities of `FILE_KINDS` given a history.
        strange: The strangeness above which a history is unknown. It is learned in training, so that calibration images
            and new ones are treated alike.

    Raises:
        ParameterError: If an argument is out of range.

    Reference:
        Sugiyama, Suzuki & Kanamori 2012, "Density ratio estimation in machine learning", chapter 4; Gutmann & Hyvärinen
        2010, "Noise-contrastive estimation".
    """

    mean: Tensor
    deviation: Tensor
    file_kinds: Tensor
    strange: Tensor

    def __init__(self, features: int, histories: Sequence[str], *, width: int = 64) -> None:
        super().__init__()
        if features < 1 or width < 1 or not histories:
            raise ParameterError(
                f"features and width must be at least 1 and histories not empty, got {features}, {width}, {histories}"
            )
        self.histories = tuple(histories)
        self.config = {"features": features, "histories": list(histories), "width": width}
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.register_buffer("file_kinds", torch.zeros(len(self.histories), len(FILE_KINDS)))
        self.register_buffer("strange", torch.tensor(torch.inf))
        self.hidden = nn.Linear(features, width)
        self.last = nn.Linear(width, 1 + len(self.histories))

    def forward(self, profiles: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluates profiles.

        Args:
            profiles: (N, F).

        Returns:
            (N,), the log likelihood ratio in nats, and (N, H), the log-probabilities of the histories.
        """
        found = self.last(F.silu(self.hidden(self.standardised(profiles))))
        return found[:, 0], found[:, 1:].log_softmax(1)

    def strangeness(self, profiles: Tensor) -> Tensor:
        """Computes how far profiles are from what the network has learned from.

        Args:
            profiles: (N, F).

        Returns:
            (N,), the root mean square of the standardised features, about 1 for familiar images.
        """
        return self.standardised(profiles).square().mean(1).sqrt()

    @torch.no_grad()
    def estimated(
        self, profiles: Tensor, origins: Sequence[Origin | None] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Estimates the histories of images.

        Args:
            profiles: (N, F).
            origins: What the file of each image says of itself, None for images without a file. Bayes' rule joins it
                with the pixels.

        Returns:
            (N,), the most probable histories, as indices of `histories`; H, which is none of them, for images stranger
            than nearly all training images. And (N, H), the probability of each history.
        """
        log_probs = self(profiles)[1]
        for row, origin in zip(log_probs, origins or (), strict=origins is not None):
            kind = file_kind(origin)
            if kind is not None:
                row += self.file_kinds[:, FILE_KINDS.index(kind)]
        found = torch.where(self.strangeness(profiles) > self.strange, len(self.histories), log_probs.argmax(1))
        return found.cpu().numpy(), log_probs.softmax(1).cpu().numpy()

    def standardised(self, profiles: Tensor) -> Tensor:
        """Returns profiles, (N, F), of mean 0 and variance 1 over the training images, clipped."""
        return ((profiles - self.mean) / self.deviation).clamp(-FAR, FAR)

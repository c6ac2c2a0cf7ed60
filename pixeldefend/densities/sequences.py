"""The base of models of sequences: the embedding of sites, and the encoding of text.

A recurrent net and WaveNet both read a sequence from left to right and predict the next value from what they have read.
They model text (a value is a character), audio (a value is a sample), and images as sequences of their sub-pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import ParameterError
from .autoregressive import RowAutoregressive
from .distributions import BYTE_LEVELS
from .heads import CategoricalHead, Head
from .sites import number_of_sites


class SequenceModel(RowAutoregressive):
    """An autoregressive model of sequences of any length, and of images as sequences of their sub-pixels.

    Args:
        event_shape: Shape of one event: (D,), and then events may have any length, or (C, H, W).
        net: (N, D) -> (N, D, P), for any D if the event is a sequence.
        head: The head, which makes the distributions.
        vocabulary: The characters that the levels stand for; None if they are numbers.

    Raises:
        ParameterError: If the vocabulary has another number of characters than the head has levels.
    """

    events = frozenset({"images", "rows", "sequences"})

    def __init__(
        self,
        event_shape: tuple[int, ...],
        net: nn.Module,
        head: Head,
        vocabulary: str | None,
    ) -> None:
        if vocabulary is not None and head.levels != len(vocabulary):
            raise ParameterError(
                f"the vocabulary has {len(vocabulary)} characters, but the head has {head.levels} levels"
            )
        super().__init__(event_shape, net, head)
        self.vocabulary = vocabulary
        if vocabulary is not None and self.config is not None:
            self.config["levels"] = len(vocabulary)  # whatever the argument was

    def encode(self, text: str) -> Tensor:
        """Encodes a text.

        Args:
            text: T characters.

        Returns:
            (1, T) in [0, 1], the places of the characters in the vocabulary.

        Raises:
            ParameterError: If there is no vocabulary, or a character is not in it.
        """
        place = {character: k for k, character in enumerate(self._characters())}
        unknown = next((character for character in text if character not in place), None)
        if unknown is not None:
            raise ParameterError(f"the vocabulary has no {unknown!r}")
        indices = torch.tensor([[place[character] for character in text]], device=self.device, dtype=self.dtype)
        return indices / (len(place) - 1)

    def decode(self, x: Tensor) -> str | list[str]:
        """Decodes sequences.

        Args:
            x: (T,) or (N, T) in [0, 1].

        Returns:
            One text or N, of the characters nearest to the values.

        Raises:
            ParameterError: If there is no vocabulary, or x has another shape or is not in [0, 1].
        """
        characters = self._characters()
        if x.ndim not in (1, 2):
            raise ParameterError(f"x must be (T,) or (N, T), got {tuple(x.shape)}")
        if x.numel() and not (x.min() >= 0 and x.max() <= 1):
            raise ParameterError(f"x must lie in [0, 1], got min {x.min():.3g} and max {x.max():.3g}")
        indices = (x * (len(characters) - 1)).round().long()
        texts = ["".join(characters[k] for k in row) for row in torch.atleast_2d(indices).tolist()]
        return texts if x.ndim == 2 else texts[0]

    def _characters(self) -> str:
        if self.vocabulary is None:
            raise ParameterError("this density has no vocabulary: its levels are numbers")
        return self.vocabulary


def levels_of(vocabulary: str | None, levels: int) -> int:
    """Returns the number of levels of a model that may have a vocabulary.

    Args:
        vocabulary: Characters, or None.
        levels: The argument of the model.

    Returns:
        The number of characters, or `levels` if there is no vocabulary.

    Raises:
        ParameterError: If a character is repeated, or `levels` is neither the number of characters nor the default,
            256.
    """
    if vocabulary is None:
        return levels
    repeated = next((character for k, character in enumerate(vocabulary) if character in vocabulary[:k]), None)
    if repeated is not None:
        raise ParameterError(f"the vocabulary repeats {repeated!r}")
    if levels not in (BYTE_LEVELS, len(vocabulary)):
        raise ParameterError(f"the vocabulary has {len(vocabulary)} characters, but levels is {levels}")
    return len(vocabulary)


def at_least_one(**sizes: int) -> None:
    """Checks that sizes are at least 1.

    Args:
        **sizes: Sizes by their names in messages.

    Raises:
        ParameterError: If a size is below 1.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ParameterError(f"{name} must be at least 1, got {size}")


class SiteEmbedding(nn.Module):
    """The input of a net at a site: the value of the site before and, in images, its row, column and channel.

    At the first site a learned vector takes the place of the value before. Each value of a categorical head has a
    learned vector, with linear interpolation off the grid so that gradients reach x. Other values go through a linear
    map.

    Args:
        event_shape: Shape of one event.
        features: F.
        head: The head of the model.

    Raises:
        ParameterError: If the event has no sites.
    """

    def __init__(self, event_shape: tuple[int, ...], features: int, head: Head) -> None:
        super().__init__()
        number_of_sites(event_shape)  # raises an error if there are no sites
        self.event_shape = tuple(event_shape)
        self.levels = head.levels
        self.start = nn.Parameter(torch.randn(features))
        self.value = (
            nn.Embedding(head.outputs, features) if isinstance(head, CategoricalHead) else nn.Linear(1, features)
        )
        axes = event_shape if len(event_shape) == 3 else ()
        self.places = nn.ParameterList(nn.Parameter(0.1 * torch.randn(size, features)) for size in axes)

    def forward(self, x: Tensor) -> Tensor:
        """Embeds all sites of x, (N, D), and returns (N, D, F)."""
        n, d = x.shape
        before = torch.cat([self.start.expand(n, 1, -1), self.embed(x[:, :-1])], 1)
        return self.placed(before, torch.arange(d, device=x.device))

    def at(self, x: Tensor, site: int) -> Tensor:
        """Embeds one site of x, (N, D), from earlier sites only, and returns (N, 1, F)."""
        before = self.embed(x[:, site - 1 : site]) if site else self.start.expand(len(x), 1, -1)
        return self.placed(before, torch.tensor([site], device=x.device))

    def embed(self, x: Tensor) -> Tensor:
        """Embeds values, (N, T), and returns (N, T, F)."""
        if isinstance(self.value, nn.Linear):
            return self.value((x if self.levels is None else 2 * x - 1).unsqueeze(-1))
        last = self.value.num_embeddings - 1
        position = x * last
        below = position.detach().floor().clamp(0, last - 1)
        index = below.long()
        return torch.lerp(self.value(index), self.value(index + 1), (position - below).unsqueeze(-1))

    def placed(self, features: Tensor, sites: Tensor) -> Tensor:
        """Adds the positions of sites, (T,), in the image to features, (N, T, F)."""
        if not self.places:
            return features
        c, _, w = self.event_shape
        channels, rows, columns = self.places
        return features + rows[sites // (w * c)] + columns[sites // c % w] + channels[sites % c]

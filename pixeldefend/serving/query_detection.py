"""Detects black-box attacks by their queries, which are many near-duplicates of one image.

Reference:
    Chen, Carlini and Wagner 2020, "Stateful detection of black-box adversarial attacks", arXiv:1907.05587.
    Li et al. 2022, "Blacklight: scalable defense for neural networks against query-based black-box attacks",
    arXiv:2006.14042.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from ..errors import ParameterError

SIDE = 16  # pixels; images are compared in grey, with this height and width


@dataclass
class _Client:
    prints: np.ndarray
    digests: deque[bytes]
    known: set[bytes] = field(default_factory=set)
    next: int = 0
    filled: int = 0


class QueryAttacks:
    """Detects images that are near-duplicates of several images which the same client sent before.

    Black-box attacks send hundreds of variants of one image; ordinary clients do not. The last images of every client
    are remembered, small and grey. Exact repetitions do not count, since clients may try again.

    Args:
        window: The number of images that are remembered for each client.
        neighbours: The number of remembered images that a new image must resemble.
        within: The root mean square distance, in units of [0, 1], up to which two images resemble each other. Among
            1,000 images of Fashion-MNIST or CIFAR-10, the fifth nearest neighbour is always further away than twice the
            default (`benchmarks/queries.py`).
        clients: The number of clients that are remembered. The client that has been silent longest is forgotten first.

    Raises:
        ParameterError: If an argument is not positive, or window is below neighbours.
    """

    def __init__(self, *, window: int = 1000, neighbours: int = 5, within: float = 0.03, clients: int = 1000) -> None:
        if window < neighbours or neighbours < 1 or clients < 1 or not within > 0:
            raise ParameterError(
                f"window must be at least neighbours, and all positive, got window={window}, neighbours={neighbours}, "
                f"within={within}, clients={clients}"
            )
        self.window, self.neighbours, self.within, self.clients = window, neighbours, within, clients
        self._of: OrderedDict[str, _Client] = OrderedDict()

    def is_attack(self, client: str, image: np.ndarray) -> bool:
        """Returns whether an image resembles `neighbours` of the client's last images, and remembers it.

        Images of different sizes may resemble each other: an attacker may vary the size too.

        Args:
            client: The client that sends it.
            image: (H, W) or (H, W, 3), uint8.
        """
        seen = self._of.pop(client, None) or _Client(np.zeros((self.window, SIDE * SIDE), np.float32), deque())
        self._of[client] = seen
        while len(self._of) > self.clients:
            self._of.popitem(last=False)
        digest = hashlib.blake2b(f"{image.shape}".encode() + image.tobytes(), digest_size=16).digest()
        if digest in seen.known:
            return False
        new = fingerprint(image)
        distances = np.sqrt(((seen.prints[: seen.filled] - new) ** 2).mean(1))
        alike = int((distances <= self.within).sum())
        seen.prints[seen.next] = new
        seen.next, seen.filled = (seen.next + 1) % self.window, min(seen.filled + 1, self.window)
        seen.digests.append(digest)
        seen.known.add(digest)
        if len(seen.digests) > self.window:
            seen.known.discard(seen.digests.popleft())
        return alike >= self.neighbours


def fingerprint(image: np.ndarray) -> np.ndarray:
    """Returns a small grey version of an image.

    Args:
        image: (H, W) or (H, W, 3), uint8.

    Returns:
        (256,) float32 in [0, 1].
    """
    small = Image.fromarray(image).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, np.float32).ravel() / 255

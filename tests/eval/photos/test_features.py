"""Features that baselines are trained on."""

import numpy as np
import torch

from pixeldefend.eval.photos.features import fourier_magnitudes, spam


def spam_by_loops(image: np.ndarray) -> np.ndarray:
    """The features of one image, (C, H, W) integers, written down from their definition."""
    means = []
    for directions in (((0, 1), (0, -1), (1, 0), (-1, 0)), ((1, 1), (-1, -1), (1, -1), (-1, 1))):
        matrices = []
        for down, right in directions:
            counts = np.zeros((7, 7, 7))
            for channel in image:
                for i, j in np.ndindex(channel.shape):
                    path = [(i + k * down, j + k * right) for k in range(4)]
                    if all(0 <= a < channel.shape[0] and 0 <= b < channel.shape[1] for a, b in path):
                        w, v, u = (np.clip(channel[path[k]] - channel[path[k + 1]], -3, 3) + 3 for k in range(3))
                        counts[u, v, w] += 1
            matrices.append(counts / np.maximum(1, counts.sum(0)))
        means.append(np.mean(matrices, 0).flatten())
    return np.concatenate(means)


def test_spam_is_what_its_definition_says():
    x = torch.randint(100, 108, (2, 3, 7, 9), generator=torch.Generator().manual_seed(0))
    found = spam(x / 255)
    assert found.shape == (2, 686)
    for row, image in zip(found.numpy(), x.numpy(), strict=True):
        np.testing.assert_allclose(row, spam_by_loops(image), atol=1e-6)


def test_spam_is_a_set_of_probabilities():
    x = torch.randint(100, 111, (1, 3, 60, 60), generator=torch.Generator().manual_seed(1)) / 255  # meets all states
    sums = spam(x).reshape(2, 7, 7, 7).sum(1)
    torch.testing.assert_close(sums, torch.ones_like(sums))
    torch.testing.assert_close(spam(x.flip(3)), spam(x))  # both directions of a row count


def test_half_of_the_spectrum_holds_its_energy():
    x = torch.rand(2, 3, 8, 8)
    magnitudes = fourier_magnitudes(x).reshape(2, 3, 8, 5)
    energy = (magnitudes**2 * torch.tensor([1, 2, 2, 2, 1])).sum((2, 3)) / 64
    torch.testing.assert_close(energy, (x**2).sum((2, 3)))

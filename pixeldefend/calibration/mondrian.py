"""Calibration scores by category, so that a rate of false alarms holds within each.

A category is what images have in common that moves their scores, such as their history. An image is compared with the
calibration images of its own category only. Whatever decides the category must not depend on the score. Then a clean
image and the calibration images of its category are exchangeable, and p-values are valid within the category.

Reference:
    Vovk, Lindsay, Nouretdinov & Gammerman 2003, "Mondrian confidence machine".
"""

from __future__ import annotations

import numpy as np

from . import conformal
from .conformal import Array

# Categories with fewer calibration images share theirs. So p-values go down to 0.001.
IMAGES_OF_A_CATEGORY = 1000
OWN_IMAGES_OF_A_CATEGORY = 200  # with so many images of a user, a category is judged by these alone
LIKELY = 0.15  # an image is also compared with those of other categories that are at least so probable


class Mondrian:
    """The calibration scores that an image of each category is compared with.

    Of a user's own images, a category with at least `OWN_IMAGES_OF_A_CATEGORY` is judged by these alone. With fewer, an
    image is compared with all such images of the user too.

    Args:
        scores: (n,), the scores of the calibration images.
        categories: (n,), their categories: 0 to count - 1, or count for those that have none of them.
        own: (n,) bool, which of the calibration images are a user's own.
        count: The number of categories, at least 1.
        fpr: The share of clean images that may be flagged within each category, in (0, 1).
        confidence: As `conformal.rank` takes it.

    Attributes:
        groups: The groups of scores with which an image of each category is compared, by category.
        alone: The categories that are judged by a user's own images alone.

    Raises:
        CalibrationError: If there are too few images for fpr.
    """

    def __init__(
        self,
        scores: Array,
        categories: np.ndarray,
        own: np.ndarray,
        count: int,
        *,
        fpr: float,
        confidence: float | None,
    ) -> None:
        least = conformal.images_needed(fpr, confidence)
        known = ~own & (categories < count)
        conformal.rank(fpr, int(known.sum()), confidence)  # refuses too few
        shipped = shared_groups(scores[known], categories[known], count, max(IMAGES_OF_A_CATEGORY, least))
        # an image of no category is compared with all of them
        self.groups = {category: [group] for category, group in enumerate(shipped)} | {count: shipped}
        counts = np.bincount(categories[own], minlength=count + 1)
        many = counts >= max(OWN_IMAGES_OF_A_CATEGORY, least)
        few = scores[own & ~many[categories]]
        for category in np.flatnonzero(counts).tolist():
            if many[category]:
                self.groups[category] = [scores[own & (categories == category)]]
            elif len(few) >= least:
                self.groups[category] = [*self.groups[category], few]
        self.alone = set(np.flatnonzero(many).tolist())
        self.fpr, self.confidence = fpr, confidence

    def judge(self, scores: Array, categories: np.ndarray, probabilities: np.ndarray) -> tuple[Array, Array]:
        """Compares images with calibration images of all their likely categories.

        Args:
            scores: (N,), higher = more anomalous.
            categories: (N,), the most probable category of each image, or count.
            probabilities: (N, count), of each category.

        Returns:
            (N,), the greatest p-value of each image, and (N,), the score above which an image is flagged.
        """
        compared: dict[int, tuple[Array, list[int]]] = {}  # each group of calibration scores, and the images
        for place, (category, likely) in enumerate(zip(categories.tolist(), probabilities >= LIKELY, strict=True)):
            for group in self._compared(category, likely):
                compared.setdefault(id(group), (group, []))[1].append(place)
        p_values, thresholds = np.zeros(len(scores)), np.full(len(scores), -np.inf)
        for group, here in compared.values():
            p_values[here] = np.maximum(p_values[here], conformal.p_values(scores[here], group))
            thresholds[here] = np.maximum(thresholds[here], self._threshold(group))
        return p_values, thresholds

    def threshold(self, category: int) -> float:
        """Returns the score above which an image is flagged if it has one likely category, or none (count)."""
        return max(map(self._threshold, self.groups[category]))

    def _threshold(self, group: Array) -> float:
        return conformal.threshold(group, self.fpr, self.confidence)

    def _compared(self, category: int, likely: np.ndarray) -> list[Array]:
        groups = self.groups[category]
        if category == len(likely) or category in self.alone:
            return groups
        others = [other for other in np.flatnonzero(likely).tolist() if other != category]
        return [*groups, *(group for other in others for group in self.groups[other])]


def shared_groups(scores: Array, categories: np.ndarray, count: int, needed: int) -> list[Array]:
    """Divides calibration scores into groups.

    Categories with fewer than `needed` images share one group, with the next larger ones if they are still too few. A
    group holds all images of its categories and no others, and which categories it holds depends on no score. So the
    images of a group are exchangeable, and p-values are valid within it.

    Args:
        scores: (n,).
        categories: (n,), 0 to count - 1.
        count: The number of categories.
        needed: The number of images that a category needs for a group of its own.

    Returns:
        The scores that images of each category are compared with, one array for each category.
    """
    counts = np.bincount(categories, minlength=count)
    by_size = np.argsort(counts, kind="stable")
    few = int((counts < needed).sum())
    if few:
        few = max(few, int(np.searchsorted(counts[by_size].cumsum(), needed)) + 1)
    shares = np.isin(np.arange(count), by_size[:few])
    shared = scores[shares[categories]]
    return [shared if shares[category] else scores[categories == category] for category in range(count)]

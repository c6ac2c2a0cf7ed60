"""A test of whether a stream of images still resembles the calibration images."""

from __future__ import annotations

import bisect
import math
from collections.abc import Hashable, Sequence

import numpy as np

from ..errors import ParameterError
from .conformal import Array, check_rate, finite_scores


class ConformalMartingale:
    """A test, updated with every image, of whether a stream still resembles the calibration images.

    Two bets are placed against the assumption that the calibration images and the stream are exchangeable. The bet
    "drift" wins when scores move up or down as a whole, the bet "attacks" when too many are extreme. Each starts with a
    wealth of 1. While the assumption holds, no strategy makes a wealth grow on average: P(wealth ever reaches 1 / a) <=
    a, however long the stream is. A wealth is an e-value: 100 means that the odds were 1 in 100.

    The bets are on conformal p-values: the rank of each score among all scores before it, with ties broken at random.
    These are independent and uniform if all images are exchangeable. With groups, a score is ranked among those of its
    own group, and the images of each group need to be exchangeable; how often a group occurs may change. At each image
    a small share of the wealth is spread evenly over not betting and betting ("simple jumper"), so that a late change
    is noticed as well.

    Args:
        calibration_scores: (n,) finite anomaly scores, n at least 1, higher = more anomalous.
        groups: (n,) the groups of the calibration images; None for one group.
        jump: The share of the wealth that is spread evenly at each image, in (0, 1).
        random_state: The seed of the random numbers that break ties.

    Attributes:
        wealth_: The current wealth of "drift" and of "attacks".
        highest_: The highest wealth so far of "drift" and of "attacks".

    Raises:
        ParameterError: If the scores or groups have another shape, a score is not finite, or jump is not in (0, 1).

    Reference:
        Ville, Étude critique de la notion de collectif, 1939; Vovk, Nouretdinov & Gammerman, Testing exchangeability
        on-line, 2003; Vovk et al., Retrain or not retrain: Conformal test martingales for change-point detection, 2021,
        arXiv:2102.10439.
    """

    # p -> the wealth that one unit becomes; each has mean 1 over a uniform p. The first does not bet.
    BETS = {
        "drift": (lambda p: 1.0, lambda p: 1.5 - p, lambda p: 0.5 + p),
        "attacks": (
            lambda p: 1.0,
            lambda p: 0.9 + 0.1 * (p <= 0.01) / 0.01,
            lambda p: 0.8 + 0.2 * (p <= 0.05) / 0.05,
        ),
    }

    def __init__(
        self,
        calibration_scores: Array,
        *,
        groups: Sequence[Hashable] | None = None,
        jump: float = 0.01,
        random_state: int = 0,
    ) -> None:
        scores = finite_scores(calibration_scores, ParameterError)
        if not len(scores):
            raise ParameterError("there are no calibration scores, and at least 1 is needed")
        check_rate(jump, "jump")
        self.jump = jump
        self.wealth_ = dict.fromkeys(self.BETS, 1.0)
        self.highest_ = dict.fromkeys(self.BETS, 1.0)
        self._seen: dict[Hashable, list[float]] = {}
        for score, group in zip(scores.tolist(), _groups(groups, len(scores)), strict=True):
            self._seen.setdefault(group, []).append(score)
        for seen in self._seen.values():
            seen.sort()
        self._shares = {name: [1 / len(bets)] * len(bets) for name, bets in self.BETS.items()}
        self._log = dict.fromkeys(self.BETS, 0.0)
        self._random = np.random.RandomState(random_state)

    def update(self, scores: Array, groups: Sequence[Hashable] | None = None) -> dict[str, Array]:
        """Bets on the next images of the stream.

        Args:
            scores: (N,), in the order in which the images came.
            groups: (N,) the groups of the images, which may be new; None for one group.

        Returns:
            "drift" and "attacks" -> (N,): log10 of the wealth after each image.

        Raises:
            ParameterError: If a score is NaN, or the groups have another length.
        """
        scores = np.atleast_1d(np.asarray(scores, dtype=float))
        if np.isnan(scores).any():
            raise ParameterError("scores must be numbers, got NaN")
        path: dict[str, list[float]] = {name: [] for name in self.BETS}
        for score, group in zip(scores.tolist(), _groups(groups, len(scores)), strict=True):
            p = self._p_value(score, self._seen.setdefault(group, []))
            for name, bets in self.BETS.items():
                moved = self.jump / len(bets)
                shares = [
                    ((1 - self.jump) * share + moved) * bet(p)
                    for share, bet in zip(self._shares[name], bets, strict=True)
                ]
                total = sum(shares)
                self._log[name] += math.log(total)
                self._shares[name] = [share / total for share in shares]
                path[name].append(self._log[name] / math.log(10))
                self.wealth_[name] = math.exp(min(self._log[name], 700.0))
                self.highest_[name] = max(self.highest_[name], self.wealth_[name])
        return {name: np.array(values) for name, values in path.items()}

    def alarms(self, level: float = 0.01) -> dict[str, bool]:
        """Returns whether each bet has ever won enough for an alarm.

        Args:
            level: The probability that there is ever a false alarm, in (0, 1). Each bet gets half of it.

        Returns:
            "drift" and "attacks" -> whether the wealth has ever reached 2 / level.

        Raises:
            ParameterError: If level is not in (0, 1).
        """
        check_rate(level, "level")
        return {name: highest >= 2 / level for name, highest in self.highest_.items()}

    def _p_value(self, score: float, seen: list[float]) -> float:
        """Adds a score to those before it, and returns its p-value among all of them."""
        first, last = bisect.bisect_left(seen, score), bisect.bisect_right(seen, score)
        higher, equal = len(seen) - last, last - first + 1
        seen.insert(last, score)
        return float((higher + self._random.uniform() * equal) / len(seen))


def _groups(groups: Sequence[Hashable] | None, count: int) -> Sequence[Hashable]:
    if groups is not None and len(groups) != count:
        raise ParameterError(f"groups must be ({count},), got {len(groups)}")
    return [None] * count if groups is None else groups

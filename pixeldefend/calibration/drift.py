"""A test of whether a stream of images still resembles the calibration images."""

from __future__ import annotations

import bisect
import math

import numpy as np

from ..errors import ParameterError
from .conformal import Array, check_rate


class ConformalMartingale:
    """A test, updated with every image, of whether a stream still resembles the calibration images.

    Two bets are placed against the assumption that the calibration images and the stream are exchangeable. The bet
    "drift" wins when scores move up or down as a whole, the bet "attacks" when too many are extreme. Each starts with a
    wealth of 1. While the assumption holds, no strategy makes a wealth grow on average: P(wealth ever reaches 1 / a) <=
    a, however long the stream is. A wealth is an e-value: 100 means that the odds were 1 in 100.

    The bets are on conformal p-values: the rank of each score among all scores before it, with ties broken at random.
    These are independent and uniform if all images are exchangeable. At each image a small share of the wealth is
    spread evenly over not betting and betting ("simple jumper"), so that a late change is noticed as well.

    Args:
        calibration_scores: (n,) finite anomaly scores, n at least 1, higher = more anomalous.
        jump: The share of the wealth that is spread evenly at each image, in (0, 1).
        random_state: The seed of the random numbers that break ties.

    Attributes:
        wealth_: The current wealth of "drift" and of "attacks".
        highest_: The highest wealth so far of "drift" and of "attacks".

    Raises:
        ParameterError: If the scores have another shape or are not finite, or jump is not in (0, 1).

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

    def __init__(self, calibration_scores: Array, *, jump: float = 0.01, random_state: int = 0) -> None:
        scores = np.asarray(calibration_scores, dtype=float)
        if scores.ndim != 1 or len(scores) < 1 or not np.isfinite(scores).all():
            raise ParameterError(f"calibration_scores must be (n,) finite numbers, n >= 1, got shape {scores.shape}")
        check_rate(jump, "jump")
        self.jump = jump
        self.wealth_ = dict.fromkeys(self.BETS, 1.0)
        self.highest_ = dict.fromkeys(self.BETS, 1.0)
        self._seen = sorted(scores.tolist())
        self._shares = {name: [1 / len(bets)] * len(bets) for name, bets in self.BETS.items()}
        self._log = dict.fromkeys(self.BETS, 0.0)
        self._random = np.random.RandomState(random_state)

    def update(self, scores: Array) -> dict[str, Array]:
        """Bets on the next images of the stream.

        Args:
            scores: (N,), in the order in which the images came.

        Returns:
            "drift" and "attacks" -> (N,): log10 of the wealth after each image.

        Raises:
            ParameterError: If a score is NaN.
        """
        scores = np.atleast_1d(np.asarray(scores, dtype=float))
        if np.isnan(scores).any():
            raise ParameterError("scores must be numbers, got NaN")
        path: dict[str, list[float]] = {name: [] for name in self.BETS}
        for score in scores.tolist():
            p = self._p_value(score)
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

    def _p_value(self, score: float) -> float:
        """Adds a score to those before it, and returns its p-value among all of them."""
        first, last = bisect.bisect_left(self._seen, score), bisect.bisect_right(self._seen, score)
        higher, equal = len(self._seen) - last, last - first + 1
        self._seen.insert(last, score)
        return (higher + self._random.uniform() * equal) / len(self._seen)

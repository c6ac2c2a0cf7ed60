"""Has a stream of images ceased to look like the calibration images? Bets against it, whose winnings are evidence."""

from __future__ import annotations

import bisect
import math

import numpy as np

from ..errors import CalibrationError
from .conformal import Array, check_rate


class ConformalMartingale:
    """Watches a stream of images: has what comes in ceased to look like what calibrated?

    Two bets against "the calibration images and the stream are exchangeable". `drift` wins when scores move up or down
    as a whole, `attacks` when too many are extreme. Each starts with a wealth of 1, and while the assumption holds no
    strategy can make it grow: P(wealth ever reaches 1 / a) <= a (Ville 1939), however long the stream and whenever one
    looks. A wealth is an e-value: 100 says that the odds were 1 in 100.

    The bets are on conformal p-values with ties broken at random, of each score among all before it, which are
    independent and uniform if all are exchangeable (Vovk, Nouretdinov & Gammerman 2003). Wealth moves slowly between
    betting and sitting out (the "simple jumper" of Vovk et al. 2021), so that a late change is noticed as well.

    calibration_scores: (n,), higher = more suspicious. jump: share of the wealth that changes its bet at each image.
    After `update`: wealth_, "drift" and "attacks" -> the wealth now; highest_, the same -> the highest so far.
    """

    # p -> what a unit of wealth becomes; each has mean 1 over a uniform p. The first sits out.
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
            raise CalibrationError(f"calibration_scores must be (n,) finite numbers, n >= 1, got shape {scores.shape}")
        if not 0 < jump < 1:
            raise CalibrationError(f"jump must lie strictly between 0 and 1, got {jump}")
        self.jump = jump
        self.wealth_ = dict.fromkeys(self.BETS, 1.0)
        self.highest_ = dict.fromkeys(self.BETS, 1.0)
        self._seen = sorted(scores.tolist())
        self._shares = {name: np.full(len(bets), 1 / len(bets)) for name, bets in self.BETS.items()}
        self._log = dict.fromkeys(self.BETS, 0.0)
        self._random = np.random.RandomState(random_state)

    def update(self, scores: Array) -> dict[str, Array]:
        """scores: (N,), of the next images in the order in which they came. Returns "drift" and "attacks" -> (N,):
        log10 of the wealth after each. Raises CalibrationError for NaN."""
        scores = np.atleast_1d(np.asarray(scores, dtype=float))
        if np.isnan(scores).any():
            raise CalibrationError("scores must not be NaN")
        path: dict[str, list[float]] = {name: [] for name in self.BETS}
        for score in scores.tolist():
            p = self._p_value(score)
            for name, bets in self.BETS.items():
                shares = self._shares[name]
                shares = (1 - self.jump) * shares + self.jump / len(bets)
                shares = shares * [bet(p) for bet in bets]
                self._log[name] += math.log(shares.sum())
                self._shares[name] = shares / shares.sum()
                path[name].append(self._log[name] / math.log(10))
                self.wealth_[name] = math.exp(min(self._log[name], 700.0))
                self.highest_[name] = max(self.highest_[name], self.wealth_[name])
        return {name: np.array(values) for name, values in path.items()}

    def alarms(self, level: float = 0.01) -> dict[str, bool]:
        """level: in (0, 1). Returns "drift" and "attacks" -> whether the wealth has ever reached 2 / level: the
        probability of any false alarm, ever, is at most `level` (a half for each bet)."""
        check_rate(level, "level")
        return {name: highest >= 2 / level for name, highest in self.highest_.items()}

    def _p_value(self, score: float) -> float:
        """Of a score among all before it and itself, which then joins them."""
        first, last = bisect.bisect_left(self._seen, score), bisect.bisect_right(self._seen, score)
        higher, equal = len(self._seen) - last, last - first + 1
        self._seen.insert(last, score)
        return (higher + self._random.uniform() * equal) / len(self._seen)

"""Bets against the sameness of a stream: fair while it holds, won when it does not."""

import numpy as np
import pytest
from scipy.stats import binom

from pixeldefend.calibration import ConformalMartingale
from pixeldefend.errors import ParameterError


@pytest.mark.parametrize("name", ConformalMartingale.BETS)
def test_every_bet_is_fair(name):
    p = (np.arange(10_000) + 0.5) / 10_000
    for bet in ConformalMartingale.BETS[name]:
        assert np.mean([bet(value) for value in p]) == pytest.approx(1, abs=1e-6)
        assert min(bet(value) for value in p) > 0


def test_a_clean_stream_seldom_raises_an_alarm():
    """Ville: over the whole of 200 streams, an alarm in at most 5 % of them; whatever the ties."""
    random = np.random.RandomState(0)
    alarms = 0
    for trial in range(200):
        martingale = ConformalMartingale(random.randn(50).round(1), random_state=trial)
        martingale.update(random.randn(300).round(1))
        alarms += any(martingale.alarms(0.05).values())
    assert alarms <= binom.ppf(0.999, 200, 0.05)


def test_scores_are_ranked_within_their_groups():
    """A stream of the group whose scores are higher by 5, which is rare among the calibration images."""
    random = np.random.RandomState(0)
    groups = ["low"] * 900 + ["high"] * 100
    scores = random.randn(1000) + 5 * (np.array(groups) == "high")
    stream = random.randn(600) + 5
    by_group, pooled = ConformalMartingale(scores, groups=groups), ConformalMartingale(scores)
    by_group.update(stream, ["high"] * 600)
    pooled.update(stream)
    assert not any(by_group.alarms(0.01).values())
    assert all(pooled.alarms(0.01).values())
    by_group.update(random.randn(50), ["new"] * 50)
    assert not any(by_group.alarms(0.01).values())
    by_group.update(stream + 1, ["high"] * 600)
    assert by_group.alarms(0.01)["drift"]
    with pytest.raises(ParameterError, match="groups"):
        by_group.update([0.0, 1.0], ["low"])


def test_drift_and_attacks_are_noticed_however_late():
    random = np.random.RandomState(0)
    for change, first in (("drift", random.randn(300) + 1), ("drift", random.randn(300) - 1)):
        martingale = ConformalMartingale(random.randn(500))
        martingale.update(random.randn(1000))
        assert not any(martingale.alarms(0.01).values())
        path = martingale.update(first)[change]
        assert martingale.alarms(0.01)[change]
        assert path.max() == pytest.approx(np.log10(martingale.highest_[change]))
    attacks = random.randn(300)
    attacks[random.rand(300) < 0.1] = 9  # a tenth attacked: the average hardly moves
    martingale = ConformalMartingale(random.randn(500))
    martingale.update(random.randn(1000))
    martingale.update(attacks)
    assert martingale.alarms(0.01) == {"drift": False, "attacks": True}


def test_a_stream_is_the_same_in_pieces():
    stream = np.random.RandomState(0).randn(60)
    whole, pieces = (ConformalMartingale(np.arange(10.0), random_state=1) for _ in range(2))
    path = whole.update(stream)["drift"]
    in_pieces = np.concatenate([pieces.update(part)["drift"] for part in np.split(stream, [1, 30])])
    assert np.array_equal(path, in_pieces)


def test_a_martingale_refuses_what_it_cannot_rank():
    with pytest.raises(ParameterError, match="calibration scores"):
        ConformalMartingale(np.zeros(0))
    with pytest.raises(ParameterError, match="jump"):
        ConformalMartingale(np.zeros(3), jump=0)
    with pytest.raises(ParameterError, match="NaN"):
        ConformalMartingale(np.zeros(3)).update(np.array([np.nan]))
    with pytest.raises(ParameterError, match="level"):
        ConformalMartingale(np.zeros(3)).alarms(0)

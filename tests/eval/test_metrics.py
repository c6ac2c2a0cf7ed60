import numpy as np
import pytest
from scipy.stats import beta, norm
from sklearn.metrics import roc_auc_score

from pixeldefend.eval import auroc, rate
from pixeldefend.eval.metrics import promised_interval


def test_auroc_and_its_interval():
    random = np.random.RandomState(0)
    truth = norm.cdf(1 / np.sqrt(2))  # of N(0, 1) against N(1, 1)
    covered = 0
    for _ in range(200):
        clean, attacked = random.randn(60), random.randn(50) + 1
        area, (low, high) = auroc(clean, attacked)
        assert area == pytest.approx(roc_auc_score([0] * 60 + [1] * 50, np.r_[clean, attacked]))
        assert 0 <= low <= area <= high <= 1
        covered += low <= truth <= high
    assert 0.90 <= covered / 200 <= 0.99
    assert auroc(np.zeros(5), np.ones(5)) == (1.0, rate(5, 5)[1])


def test_rate_and_its_interval():
    value, (low, high) = rate(3, 50)
    assert value == 0.06
    assert low == pytest.approx(beta.ppf(0.025, 3, 48))
    assert high == pytest.approx(beta.ppf(0.975, 4, 47))


def test_the_promised_interval_counts_both_draws():
    random = np.random.RandomState(0)
    low, high = promised_interval(10, 199, 400)
    rates = [(random.rand(400) > np.sort(random.rand(199))[-10]).mean() for _ in range(2000)]
    assert 0.92 <= np.mean([low <= r <= high for r in rates]) <= 0.98

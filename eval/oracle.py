"""An upper bound: a detector that is trained on the attack."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

from .detection import Values, detection_rates

FOLDS = 5
FPR = 0.01


def oracle_rates(clean: Values, attacked: Values, originals: np.ndarray) -> dict[str, Any]:
    """Fits boosted trees on all statistics to clean and attacked images, and judges each image by cross-validation.

    The trees that judge an image have seen neither the image nor its clean or attacked counterpart.

    Args:
        clean: (m,) anomaly scores by statistic.
        attacked: (n,) anomaly scores by statistic, n at least `FOLDS`.
        originals: (n,) integers, the index of the clean image that each attacked image was made from.

    Returns:
        The AUROC and the share detected at 1 % false alarms, with their intervals. If there are fewer than 100 clean
        images, none may be flagged.
    """
    x = np.stack([np.r_[clean[name], attacked[name]] for name in clean], 1)
    m = len(x) - len(originals)
    y = np.arange(len(x)) >= m
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    trees = HistGradientBoostingClassifier(max_iter=60, learning_rate=0.1, min_samples_leaf=5, random_state=0)
    groups = np.r_[np.arange(m), originals]
    p = cross_val_predict(trees, x, y, groups=groups, cv=folds, method="predict_proba")[:, 1]
    threshold = np.quantile(p[:m], 1 - FPR, method="inverted_cdf")  # at most 1 % of the clean ones are above
    return detection_rates(p[:m], p[m:], {FPR: float(threshold)})

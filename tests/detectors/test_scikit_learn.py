import json

import numpy as np
from helpers import Gaussian, clean_images, noise
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.utils.estimator_checks import parametrize_with_checks

from pixeldefend.detectors import Detector
from pixeldefend.preprocessing import Tiles


@parametrize_with_checks(
    [Detector(Gaussian(), statistic="bits_per_dim", fpr=0.2), Detector(Gaussian(), statistic="typicality", fpr=0.2)]
)
def test_scikit_learn_s_contract(estimator, check):
    check(estimator)


def test_scikit_learn_s_checks_do_run():
    """A 2-D estimator gets dozens of checks; a vacuous pass would be one or two."""
    from sklearn.utils.estimator_checks import estimator_checks_generator

    names = {check.func.__name__ for _, check in estimator_checks_generator(Detector(Gaussian(), fpr=0.2), legacy=True)}
    assert len(names) > 30
    assert {"check_outliers_train", "check_n_features_in", "check_fit_idempotent"} <= names


def test_parameters_are_plain_and_clone(tiny_detector):
    copy = clone(tiny_detector)
    assert copy.fpr == 0.05
    assert not hasattr(copy, "calibration_scores_")
    parameters = {key: value for key, value in tiny_detector.get_params(deep=False).items() if key != "density"}
    assert json.loads(json.dumps(parameters)) == parameters


def test_a_grid_search_chooses_among_statistics_and_preprocessors(tiny_density):
    """Noise is to be told from smooth images: the labels are 1 for normal images and -1 for outliers."""
    x = np.concatenate([clean_images(60, seed=1), noise(60)])
    y = np.repeat([1, -1], 60)

    def balanced_accuracy(detector, images, labels):
        return float(np.mean([(detector.predict(images[labels == label]) == label).mean() for label in (1, -1)]))

    class OnClean(Detector):
        """Is fitted on the normal images alone."""

        def fit(self, X, y=None, **arguments):
            return super().fit(X if y is None else X[y == 1], **arguments)

    grid = {"statistic": ["excess_surprisal", "mean_entropy"], "preprocessor__size": [8], "aggregate": ["max", "mean"]}
    search = GridSearchCV(
        OnClean(tiny_density, preprocessor=Tiles(4), fpr=0.1),
        grid,
        scoring=balanced_accuracy,
        cv=StratifiedKFold(3),
        error_score="raise",
    ).fit(x, y)
    assert search.best_score_ > 0.9
    assert len(search.cv_results_["params"]) == 4
    assert search.best_estimator_.preprocessor.size == 8


def test_clones_are_apart(tiny_density):
    detector = Detector(tiny_density, preprocessor=Tiles(8, stride=4), fpr=0.05, aggregate="mean")
    other = clone(detector)
    other.set_params(preprocessor__stride=2, statistic="bits_per_dim")
    assert (detector.preprocessor.stride, detector.statistic) == (4, "excess_surprisal")
    assert (other.preprocessor.stride, other.statistic) == (2, "bits_per_dim")

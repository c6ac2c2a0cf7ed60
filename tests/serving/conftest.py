import numpy as np
import pytest
from fastapi.testclient import TestClient
from helpers import Brightness
from serving.common import app_of, in_thread

from pixeldefend.densities import NeLLoC
from pixeldefend.detectors import PhotoDetector
from pixeldefend.scores.likelihood_ratio import LikelihoodRatio
from pixeldefend.scores.profile import size_of_profile


@pytest.fixture
def client(tiny_detector, tmp_path):
    """A client of a new service with a classifier."""
    app = app_of(tiny_detector, tmp_path, classifier=Brightness(), max_pixels=10_000)
    with TestClient(app, base_url="http://localhost") as client:
        yield client


@pytest.fixture(scope="session")
def served(tiny_detector, tmp_path_factory):
    """The URL of a service that other programs than Python's test client can reach: a browser, Triton's client."""
    folder = tmp_path_factory.mktemp("served")
    tiny_detector.save(folder / "tiny.safetensors")
    with in_thread(app_of(str(folder / "tiny.safetensors"), folder)) as url:
        yield url


@pytest.fixture(scope="session")
def photo_detector():
    """A detector of photographs that has learned nothing."""
    density = NeLLoC((3, None, None), width=4, layers=1, mixtures=2).eval()
    ratio = LikelihoodRatio(size_of_profile(3), ("camera", "web"), width=2).eval()
    profiles = np.random.default_rng(0).normal(size=(100, size_of_profile(3)))
    return PhotoDetector(density, ratio, fpr=0.05).fit_profiles(profiles)

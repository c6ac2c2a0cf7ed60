import json
from importlib import resources

import pytest
import torch
from helpers import Brightness, sided_images

from pixeldefend import Detector
from pixeldefend.data import DataSet, Images
from pixeldefend.eval import ADAPTIVE, run_benchmark


@pytest.fixture(scope="session")
def data() -> DataSet:
    """Smooth images of two classes, labelled by `Brightness`."""

    def images(count, seed):
        x = torch.from_numpy(sided_images(count, seed))[:, None]
        return Images(x, Brightness()(x / 255).argmax(1), torch.arange(count))

    return DataSet("ramps", images(200, 1), images(10, 5), images(60, 2), images(199, 3), images(30, 4))


@pytest.fixture(scope="session")
def detector(tiny_density, data) -> Detector:
    return Detector(tiny_density, fpr=0.05).fit(data.calibration.x)


@pytest.fixture(scope="session")
def results(detector, data) -> dict:
    """A benchmark with attacks that know the detector, but for those that take long."""
    adaptive = dict(
        attacks=[name for name in ADAPTIVE if name not in ("transfer-pgd", "spsa")],
        eps=[2, 8, 64],
        limit=6,
        expensive_eps=[64],
        expensive_limit=2,
        purify_eps=4,
        steps=4,
    )
    return run_benchmark(
        detector, Brightness(), data, attacks=["noise-8", "pgd-8"], statistics=["bits_per_dim"], adaptive=adaptive
    )


@pytest.fixture(scope="session")
def schema() -> dict:
    return json.loads((resources.files("pixeldefend.eval") / "results.schema.json").read_text())


class Constant(Brightness):
    """Finds class 0 in every image: no attack succeeds."""

    def forward(self, x):
        return torch.tensor([1.0, 0.0]).expand(len(x), 2) + 0 * super().forward(x)


@pytest.fixture
def constant() -> Constant:
    return Constant()


@pytest.fixture(scope="session")
def zeros(data) -> DataSet:
    """The same images, all of class 0."""
    test = Images(data.test.x, torch.zeros(len(data.test)).long(), data.test.index)
    return DataSet(data.name, data.train, data.validation, data.fit, data.calibration, test)

from collections.abc import Iterator

import pytest
import torch
from helpers import clean_images
from hypothesis import settings
from programs import Programs, forking

from pixeldefend.densities import PixelCNNPlusPlus
from pixeldefend.detectors import Detector

# how long an example takes says nothing: machines differ, and tests run beside other work
settings.register_profile("pixeldefend", deadline=None)
settings.load_profile("pixeldefend")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs the slow tests first: of two processes none must end with minutes of work that the other cannot share."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Initial weights are drawn from torch's own generator: the same in every run, and in whatever order tests run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_density() -> PixelCNNPlusPlus:
    """A PixelCNN++ that has seen enough smooth images to tell them from noise."""
    torch.manual_seed(0)
    density = PixelCNNPlusPlus((1, 8, 8), filters=8, blocks=1, scales=1, mixtures=2)
    optimizer = torch.optim.Adam(density.parameters(), 0.01)
    for step in range(100):
        x = torch.from_numpy(clean_images(32, seed=1000 + step))[:, None] / 255
        optimizer.zero_grad()
        density.bits_per_dim(x).mean().backward()
        optimizer.step()
    return density.eval()


@pytest.fixture(scope="session")
def tiny_detector(tiny_density: PixelCNNPlusPlus) -> Detector:
    return Detector(tiny_density, fpr=0.05).fit(clean_images(99))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A cluster of this machine, on which every run of the session takes place: to start one takes seconds."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # by default any other process of the tests goes first
        ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)  # one scores, one reads
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def programs() -> Iterator[Programs]:
    """Starts `pixeldefend` in processes of its own, quickly."""
    with forking() as started:
        yield started

"""The density that suits the data."""

import numpy as np
import pytest

from pixeldefend.data import load_dataset
from pixeldefend.errors import ParameterError
from pixeldefend.training import build_for


def test_heads_suit_the_values(tmp_path):
    bits = np.random.RandomState(0).randint(0, 2, (48, 5)).astype(np.uint8)
    for x, levels, head in [(bits, 2, "bernoulli"), (bits * 200, 256, "logistics"), (bits * 0.3, None, "normals")]:
        np.savez(tmp_path / "x.npz", x=x)
        density = build_for(load_dataset(str(tmp_path / "x.npz")), "nade", hidden=4)
        assert (density.levels, density.config["head"]) == (levels, head)
    (tmp_path / "t.txt").write_text("abcdefg " * 40)
    data = load_dataset(str(tmp_path / "t.txt"), length=10)
    assert build_for(data, "rnn", hidden=4).vocabulary == " abcdefg"
    assert build_for(data, "made").levels == 8
    with pytest.raises(ParameterError, match="t holds 8 levels, but the head 'bernoulli' models 2 levels"):
        build_for(data, "made", head="bernoulli")
    with pytest.raises(ParameterError, match=r"pixelcnnpp models images; t holds rows of 10 .*: take fvsbn, nade"):
        build_for(data, "pixelcnnpp")
    with pytest.raises(ParameterError, match="determine event_shape"):
        build_for(data, "made", event_shape=[3])
    np.savez(tmp_path / "x.npz", x=np.arange(24 * 64, dtype=np.uint32).astype(np.uint8).reshape(24, 8, 8))
    images = load_dataset(str(tmp_path / "x.npz"))
    assert build_for(images, "fvsbn", head="bernoulli").levels == 2  # of 8-bit images, binarised
    with pytest.raises(ParameterError, match="x has no labels, which gated_pixelcnn needs for its classes"):
        build_for(images, "gated_pixelcnn", classes=3)
    assert build_for(images, "rnade").levels is None  # dequantised
    assert build_for(images, "nelloc", width=4).event_shape == (1, None, None)  # of any size
    np.savez(tmp_path / "bits.npz", x=images.train.x.numpy()[:, 0] % 2)
    with pytest.raises(ParameterError, match=r"no head 'bernoulli'; bits holds images of 2 levels: .*pixelcnn,"):
        build_for(load_dataset(str(tmp_path / "bits.npz")), "pixelcnnpp")
    assert build_for(load_dataset(str(tmp_path / "bits.npz")), "pixelcnn").levels == 2

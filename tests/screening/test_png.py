import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from pixeldefend.screening.png import save_png


@given(
    picture=st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(lambda size: arrays(np.uint8, (*size, 3))),
    rows=st.integers(1, 4),
)
def test_a_picture_written_in_strips_is_read_back_exactly(picture, rows, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "strips.png"
    height, width, _ = picture.shape
    save_png(path, width, height, (picture[top : top + rows] for top in range(0, height, rows)))
    with Image.open(path) as read:
        read.load()
        assert read.mode == "RGB"
        assert np.array_equal(np.asarray(read), picture)


def test_the_file_is_hardly_larger_than_that_of_pillow(tmp_path):
    x, y = np.meshgrid(np.arange(300), np.arange(200))
    noise = np.random.default_rng(0).normal(0, 2, (200, 300, 3))
    picture = (100 + 40 * np.sin(x / 30)[..., None] + 40 * np.cos(y / 20)[..., None] + noise).astype(np.uint8)
    save_png(tmp_path / "ours.png", 300, 200, [picture])
    pillow = io.BytesIO()
    Image.fromarray(picture).save(pillow, "PNG")
    assert (tmp_path / "ours.png").stat().st_size < 1.2 * len(pillow.getvalue())


def test_a_picture_that_cannot_be_finished_leaves_no_file(tmp_path):
    def strips():
        yield np.zeros((1, 2, 3), np.uint8)
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        save_png(tmp_path / "a.png", 2, 2, strips())
    assert not list(tmp_path.iterdir())

import itertools

import numpy as np
import pytest
import torch
from helpers import Brightness, clean_images, noise
from PIL import Image

from pixeldefend.detectors import Detector, Verdicts
from pixeldefend.errors import ParameterError, PixelDefendError
from pixeldefend.images import read_image
from pixeldefend.screening import Record, Screened, Statistics, figures, find_files, pipeline, screen, screener
from pixeldefend.screening.figures import (
    LEGEND,
    heat_map,
    overlay,
    save_contact_sheet,
    save_heat_map,
    save_purified_sheet,
)
from pixeldefend.screening.palette import INFERNO
from pixeldefend.screening.purify import purify_screened
from pixeldefend.screening.records import ERROR_KINDS


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b").mkdir()
    for i, image in enumerate(clean_images(5, seed=9)):
        Image.fromarray(image).save(tmp_path / ("b" if i % 2 else "") / f"{i}.png")
    return tmp_path


def test_what_is_found_and_skipped_is_counted(folder):
    (folder / "readme.txt").write_text("hello")
    statistics = Statistics()
    found = list(find_files([str(folder), f"{folder}/*.jpg"], statistics))
    assert [path.removeprefix(f"{folder}/") for path in found[:-1]] == [
        "0.png", "2.png", "4.png", "b/1.png", "b/3.png",
    ]  # fmt: skip
    assert (found[-1].verdict, found[-1].error_kind) == ("error", "nothing found")
    assert statistics.skipped == {"not an image": [f"{folder}/readme.txt"]}
    assert "skipped: 1 not an image" in statistics.summary()


def test_one_record_a_file_in_order_whatever_happens(folder, tiny_detector):
    noise = np.random.RandomState(0).randint(0, 256, (8, 8), np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(folder / "wrong_size.png")
    (folder / "text.png").write_text("not an image")
    files = [
        str(folder / "0.png"), str(folder / "text.png"), str(folder / "noise.png"), str(folder / "missing.png"),
        Record("passed on", error="as it came"), str(folder / "wrong_size.png"), str(folder / "2.png"),
    ]  # fmt: skip
    for batch_size in (1, 2, 64):
        statistics = Statistics()
        records = [r.record for r in screen(files, tiny_detector, batch_size=batch_size, statistics=statistics)]
        assert [record.path for record in records] == [*files[:4], "passed on", *files[5:]]
        assert [record.verdict for record in records] == [
            "clean",
            "error",
            "adversarial",
            "error",
            "error",
            "error",
            "clean",
        ]
        assert statistics.verdicts == {"clean": 2, "adversarial": 1, "error": 4}
    good, text, flagged, missing, passed, size, _ = records
    expected = tiny_detector.judge(read_image(folder / "0.png"))
    assert good.p_value == pytest.approx(expected.p_value[0], abs=0.011)  # a rank: rounding decides ties of flat images
    assert good.bits_per_dim == pytest.approx(expected.bits_per_dim[0], rel=1e-4)
    assert (good.width, good.height, good.error, len(good.sha256)) == (8, 8, None, 64)
    assert flagged.p_value == pytest.approx(1 / 100)
    assert text.error_kind == "format"
    assert (text.p_value, text.score, text.bits_per_dim, text.width) == (None, None, None, None)
    assert text.sha256 is not None
    assert missing.error_kind == "unreadable"
    assert passed.error == "as it came"
    assert size.error_kind == "size"
    assert (size.width, size.height) == (8, 9)


def animation(path, *frames):
    first, *others = [Image.fromarray(frame) for frame in frames]
    first.save(path, save_all=True, append_images=others)
    return str(path)


def test_the_most_suspicious_frame_of_an_animation_counts(tmp_path, tiny_detector):
    clean = clean_images(4, seed=9)
    noise = np.random.RandomState(0).randint(0, 256, (8, 8), np.uint8)
    files = [
        animation(tmp_path / "hidden.png", clean[0], clean[1], noise, clean[2]),
        animation(tmp_path / "clean.gif", *clean),
        animation(tmp_path / "noise.tiff", noise, clean[0]),
        animation(tmp_path / "sizes.tiff", clean[0], np.zeros((9, 9), np.uint8)),
    ]
    refused = [result.record for result in screen(files, tiny_detector)]
    assert [record.error_kind for record in refused] == ["mode", "mode", "mode", "mode"]
    first = [result.record for result in screen(files, tiny_detector, frames="first", convert=True)]
    assert [record.verdict for record in first] == ["clean", "clean", "adversarial", "clean"]
    assert [record.frame for record in first] == [None] * 4
    for batch_size in (1, 64):
        hidden, animated, noisy, sizes = screen(
            files, tiny_detector, frames="all", convert=True, maps=True, batch_size=batch_size
        )
        assert (hidden.record.verdict, hidden.record.frame) == ("adversarial", 2)
        assert np.array_equal(hidden.image, noise)
        assert hidden.surprisal_map.shape == (8, 8)
        assert hidden.record.score == pytest.approx(float(-tiny_detector.score_samples(noise[None])[0]), rel=1e-4)
        assert animated.record.verdict == "clean"
        p_values = tiny_detector.p_value(clean)
        assert animated.record.p_value == pytest.approx(p_values.min())
        assert animated.record.frame == int(np.argmax(-tiny_detector.score_samples(clean)))
        assert (noisy.record.verdict, noisy.record.frame) == ("adversarial", 0)
        assert noisy.record.conversion == "TIFF decoded to 8 bits"
        assert (sizes.record.verdict, sizes.record.frame, sizes.record.error_kind) == ("error", 1, "size")
        assert (sizes.record.width, sizes.record.height) == (9, 9)


def test_one_colour_image_does_not_spoil_its_batch(folder, tiny_detector):
    grey = np.repeat(clean_images(1)[0][..., None], 3, 2)
    for name, pixels in {
        "a": grey,
        "b": np.random.RandomState(0).randint(0, 256, (8, 8, 3), np.uint8),
        "c": grey,
    }.items():
        Image.fromarray(pixels).save(folder / f"rgb_{name}.png")
    records = [r.record for r in screen(sorted(map(str, folder.glob("rgb_*.png"))), tiny_detector)]
    assert [record.verdict for record in records] == ["clean", "error", "clean"]
    assert records[1].error_kind == "size"


def test_screening_is_lazy(folder, tiny_detector):
    """A stream without end is screened batch by batch."""
    endless = itertools.cycle([str(folder / "0.png")])
    results = screen(endless, tiny_detector, batch_size=4)
    assert [next(results).record.verdict for _ in range(10)] == ["clean"] * 10


def test_all_frames_of_large_images_count_for_the_size_of_a_batch(monkeypatch):
    monkeypatch.setattr(pipeline, "PIXELS_AT_ONCE", 100)
    small, large = np.zeros((5, 6), np.uint8), np.zeros((10, 10, 3), np.uint8)
    animation = Screened(Record("animation"), small, others=(small, small, small))
    read = [Screened(Record("still"), small), animation, Screened(Record("large"), large), Screened(Record("error"))]
    found = pipeline.batches([*read, *(Screened(Record("still"), small) for _ in range(4))], 3)
    assert [[result.record.path for result in batch] for batch in found] == [
        ["still", "animation"], ["large"], ["error", "still", "still"], ["still", "still"],
    ]  # fmt: skip


def test_bad_settings_are_refused_before_any_file_is_read(tiny_detector):
    with pytest.raises(PixelDefendError, match="9999"):
        screen([], tiny_detector, fpr=0.0001)
    with pytest.raises(PixelDefendError, match=r"cifar10.*3333"):
        screen([], fpr=0.0003)
    with pytest.raises(ParameterError, match="batch_size"):
        screen([], tiny_detector, batch_size=0)
    with pytest.raises(PixelDefendError, match="nope"):
        screen([], "nope")


class Failing:
    """A detector that takes every image and fails in a way of its own for each brightness."""

    fpr, backend, precision, density = 0.05, "float32", "float32", None
    takes = "all images"
    errors = {1: ParameterError("not so"), 2: RuntimeError("[enforce] can't allocate memory"), 3: KeyError("a bug")}

    def accepts(self, image):
        return True

    def judge(self, x, maps=False, origins=None):
        for pixels in x:
            error = self.errors.get(int(pixels.max()))
            if error is not None:
                raise error
        n = len(x)
        return Verdicts(np.zeros(n, bool), np.ones(n), np.zeros(n), np.ones(n), np.full(n, np.nan))


class Everything:
    """What chooses it."""

    def __init__(self, *arguments, **options):
        self.detectors = {"failing": Failing()}

    def check_size(self, height, width):
        """Takes all sizes."""

    def choose(self, image, origin=None):
        if image.max() == 4:
            raise ZeroDivisionError
        return "failing"


@pytest.fixture
def one_of_each(tmp_path, monkeypatch):
    """Files of 0 to 4 in brightness."""
    monkeypatch.setattr(screener, "DetectorSet", Everything)
    for value in range(5):
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(tmp_path / f"{value}.png")
    return [str(tmp_path / f"{value}.png") for value in range(5)]


def test_every_error_has_a_kind_and_stops_no_other_image(one_of_each, caplog):
    statistics = Statistics()
    records = [result.record for result in screen(one_of_each, statistics=statistics)]
    assert [record.error_kind for record in records] == [None, "parameter", "memory", "internal", "internal"]
    assert [record.verdict for record in records] == ["clean", *["error"] * 4]
    assert records[0].bits_per_dim is None, "the detector has no density"
    assert records[3].error == "internal error: KeyError: 'a bug'"
    assert statistics.internal_errors == 2
    assert "2 internal" in statistics.summary()
    tracebacks = [entry.exc_info[0] for entry in caplog.records if entry.name == "pixeldefend"]
    assert tracebacks == [ZeroDivisionError, KeyError]
    assert {record.error_kind for record in records[1:]} - {"parameter"} <= ERROR_KINDS.keys()


def test_pictures(folder, tiny_detector, tmp_path):
    results = list(screen([str(folder / "0.png"), str(folder / "nothing.png")], tiny_detector, maps=True))
    assert results[0].surprisal_map.shape == (8, 8)
    assert results[1].surprisal_map is None
    path = save_heat_map(results[0], tmp_path)
    pair = read_image(path)
    assert pair.shape == (256 + LEGEND, 512, 3)
    # the left half is the image itself, enlarged
    assert np.array_equal(pair[:256:32, :256:32, 0], results[0].image)
    save_contact_sheet([*results, Screened(Record("x"))], tmp_path / "sheet.png")
    sheet = read_image(tmp_path / "sheet.png")
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 100
    assert (sheet == (44, 122, 75)).all(-1).any(), "the frame of a clean image is green"
    # images of any shape and names of any length and letters are drawn
    record = Record(f"{'long' * 40}\n漢\udcff.png", "adversarial", p_value=0.01)
    save_contact_sheet([Screened(record, np.zeros((300, 40, 3), np.uint8), np.ones((300, 40)))], tmp_path / "tall.png")
    assert (read_image(tmp_path / "tall.png") == (192, 57, 43)).all(-1).any()


@pytest.mark.parametrize(("shape", "size"), [((300, 8), (300, 16)), ((2, 3000), (2, 6000)), ((64, 520), (64, 1040))])
def test_a_heat_map_of_an_image_of_any_shape_is_hardly_larger_than_it(tmp_path, shape, size):
    screened = Screened(Record("x"), np.zeros(shape, np.uint8), np.zeros(shape))
    height, width = size
    assert read_image(save_heat_map(screened, tmp_path)).shape == (height + LEGEND, width, 3)


def test_a_photograph_is_tinted_where_it_is_more_surprising_than_expected(tmp_path):
    image = np.full((64, 96, 3), 100, np.uint8)
    excess = np.zeros((64, 96))
    excess[:, 48:] = 2
    tinted = overlay(image, excess)
    assert tinted[:, :36].max() <= 38
    np.testing.assert_array_equal(
        tinted[:, 60:], np.broadcast_to(0.35 * 100 + 0.65 * INFERNO[255], (64, 36, 3)).astype(int)
    )
    screened = Screened(Record("photo.jpg", "clean", history="camera"), image, excess)
    assert np.array_equal(read_image(save_heat_map(screened, tmp_path))[:256, 4 * 96 :][::4, ::4], tinted)


def test_a_photograph_drawn_in_strips_shows_no_seams(monkeypatch):
    rng = np.random.default_rng(0)
    image, excess = rng.integers(0, 256, (100, 40, 3), np.uint8), rng.normal(size=(100, 40))
    monkeypatch.setattr(figures, "ROWS_DRAWN", 1000)
    whole = overlay(image, excess)
    monkeypatch.setattr(figures, "ROWS_DRAWN", 7)
    np.testing.assert_array_equal(overlay(image, excess), whole)


def test_the_palette_is_inferno():
    colormaps = pytest.importorskip("matplotlib").colormaps
    nats = np.linspace(0, 9, 1000).reshape(10, 100)
    np.testing.assert_array_equal(heat_map(nats), colormaps["inferno"](np.clip(nats / 8, 0, 1), bytes=True)[..., :3])


def test_screened_files_are_purified(folder, tiny_detector, tmp_path):
    noise = np.random.RandomState(0).randint(0, 256, (8, 8), np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    files = [str(folder / name) for name in ("noise.png", "missing.png", "0.png")]
    results = screen(files, tiny_detector, maps=True)
    first, missing, last = purify_screened(results, 16, tiny_detector, classifier=Brightness())
    assert np.abs(first.image.astype(int) - noise).max() == 16
    assert first.bits_per_dim < first.screened.record.bits_per_dim
    expected = Brightness()(torch.from_numpy(np.stack([noise, first.image]))[:, None] / 255).argmax(1).tolist()
    assert [first.label_before, first.label_after] == expected
    assert (missing.image, missing.p_value, missing.label_before) == (None, None, None)
    assert last.image is not None
    save_purified_sheet([first, missing, last], tmp_path / "sheet.png")
    sheet = read_image(tmp_path / "sheet.png")
    assert (sheet == (255, 0, 0)).all(-1).any(), "what became brighter is red"
    with pytest.raises(ParameterError, match="256"):
        next(purify_screened([], 256, tiny_detector))


def test_adaptive_purification_follows_the_verdicts_of_the_records(tmp_path, tiny_detector):
    """They depend on the rate, and on what files say of themselves, which another look at the pixels would miss."""
    for name, image in zip("ab", noise(2), strict=True):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    flagged, clean = screen([str(tmp_path / "a.png"), str(tmp_path / "b.png")], tiny_detector)
    assert flagged.record.verdict == clean.record.verdict == "adversarial"
    clean.record.verdict = "clean"
    moved, kept = purify_screened([flagged, clean], 16, tiny_detector, adaptive=True)
    assert not np.array_equal(moved.image, flagged.image)
    assert np.array_equal(kept.image, clean.image)
    assert all(not np.array_equal(one.image, clean.image) for one in purify_screened([clean], 16, tiny_detector))


def test_a_stream_of_clean_and_of_attacked_images_is_told_apart(tiny_detector, tmp_path):
    def files(name, images):
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / f"{name}{i}.png")
        return [str(tmp_path / f"{name}{i}.png") for i in range(len(images))]

    clean, attacked = Statistics(), Statistics()
    list(screen(files("clean", clean_images(60, seed=5)), tiny_detector, drift=True, statistics=clean))
    noise = np.random.RandomState(0).randint(0, 256, (20, 8, 8), np.uint8)
    list(screen([*files("noise", noise), str(tmp_path)], tiny_detector, drift=True, statistics=attacked))
    assert clean.martingales["custom"].alarms(0.01) == {"drift": False, "attacks": False}
    assert attacked.martingales["custom"].alarms(0.01)["attacks"]


def test_a_detector_may_ask_a_classifier(tiny_density, tmp_path):
    detector = Detector(tiny_density, statistic="purified_disagreement", classifier=Brightness(), fpr=0.05)
    detector.fit(clean_images(60)).save(tmp_path / "detector.safetensors")
    Image.fromarray(clean_images(1)[0]).save(tmp_path / "image.png")
    name, file = str(tmp_path / "detector.safetensors"), str(tmp_path / "image.png")
    (asked,) = screen([file], name, classifier=Brightness())
    assert asked.record.verdict != "error"
    (alone,) = screen([file], name)
    assert alone.record.error_kind == "parameter"

import itertools

import numpy as np
import pytest
from helpers import Brightness, clean_images
from PIL import Image

from pixeldefend.detectors import Detector
from pixeldefend.images import read_image
from pixeldefend.screening import Record, Screened, Statistics, find_files, screen
from pixeldefend.screening.figures import save_contact_sheet, save_heat_map


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b").mkdir()
    for i, image in enumerate(clean_images(5, seed=9)):
        Image.fromarray(image).save(tmp_path / ("b" if i % 2 else "") / f"{i}.png")
    return tmp_path


def test_folders_are_searched_in_order_and_other_files_counted(folder):
    (folder / "readme.txt").write_text("hello")
    Image.fromarray(clean_images(1)[0]).save(folder / "b" / "renamed", "PNG")
    (folder / "b" / "fake.png").write_text("text")
    statistics = Statistics()
    found = list(find_files([str(folder)], statistics))
    assert [path.removeprefix(f"{folder}/") for path in found] == [
        "0.png", "2.png", "4.png", "b/1.png", "b/3.png", "b/fake.png", "b/renamed",
    ]  # fmt: skip
    assert statistics.skipped == 1


def test_globs_and_what_is_missing(folder):
    assert list(find_files([f"{folder}/*.png"])) == [f"{folder}/{i}.png" for i in (0, 2, 4)]
    assert len(list(find_files([f"{folder}/**/*.png"]))) == 5
    (record,) = find_files([f"{folder}/*.jpg"])
    assert (record.verdict, record.error) == ("error", "no file matches the pattern")
    (folder / "empty").mkdir()
    (record,) = find_files([str(folder / "empty")])
    assert record.error == "the folder holds no image"
    assert list(find_files([str(folder / "missing.png")])) == [str(folder / "missing.png")]
    odd = folder / "a[1].png"
    odd.write_bytes((folder / "0.png").read_bytes())
    assert list(find_files([str(odd)])) == [str(odd)]
    assert f"{folder}/b/1.png" in list(find_files([f"{folder}/*"])), "a folder that a pattern matches is searched"
    (folder / "notes.txt").write_text("BMW brochure")
    assert f"{folder}/notes.txt" not in list(find_files([str(folder)]))


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
    assert good.p_value == pytest.approx(expected.p_value[0])
    assert good.bits_per_dim == pytest.approx(expected.bits_per_dim[0], rel=1e-4)
    assert (good.width, good.height, good.error, len(good.sha256)) == (8, 8, None, 64)
    assert flagged.p_value == pytest.approx(1 / 100)
    assert text.error == "not a PNG, JPEG, WEBP or BMP image"
    assert (text.p_value, text.score, text.bits_per_dim, text.width) == (None, None, None, None)
    assert text.sha256 is not None
    assert "there is no file" in missing.error
    assert passed.error == "as it came"
    assert "9 x 8, the detector models 8 x 8" in size.error
    assert (size.width, size.height) == (8, 9)


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
    assert "in colour" in records[1].error


def test_screening_is_lazy(folder, tiny_detector):
    """A stream without end is screened batch by batch."""
    endless = itertools.cycle([str(folder / "0.png")])
    results = screen(endless, tiny_detector, batch_size=4)
    assert [next(results).record.verdict for _ in range(10)] == ["clean"] * 10


def test_bad_settings_are_refused_before_any_file_is_read(tiny_detector):
    with pytest.raises(ValueError, match="needs at least 9999 calibration images, there are 99"):
        screen([], tiny_detector, fpr=0.0001)
    with pytest.raises(ValueError, match=r"detector cifar10: fpr .* needs at least 3333 calibration images"):
        screen([], fpr=0.0003)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        screen([], tiny_detector, batch_size=0)
    with pytest.raises(ValueError, match="no shipped detector 'nope'"):
        screen([], "nope")


def test_pictures(folder, tiny_detector, tmp_path):
    results = list(screen([str(folder / "0.png"), str(folder / "nothing.png")], tiny_detector, maps=True))
    assert results[0].surprisal_map.shape == (8, 8)
    assert results[1].surprisal_map is None
    path = save_heat_map(results[0], tmp_path)
    pair = read_image(path)
    assert pair.shape == (256, 512, 3)
    # the left half is the image itself, enlarged
    assert np.array_equal(pair[::32, :256:32, 0], results[0].image)
    save_contact_sheet([*results, Screened(Record("x"))], tmp_path / "sheet.png")
    sheet = read_image(tmp_path / "sheet.png")
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 100
    assert (sheet == (44, 122, 75)).all(-1).any(), "the frame of a clean image is green"


def test_a_stream_of_clean_and_of_attacked_images_is_watched(tiny_detector, tmp_path):
    def files(name, images):
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / f"{name}{i}.png")
        return [str(tmp_path / f"{name}{i}.png") for i in range(len(images))]

    clean, attacked = Statistics(), Statistics()
    list(screen(files("clean", clean_images(60, seed=5)), tiny_detector, watch=True, statistics=clean))
    noise = np.random.RandomState(0).randint(0, 256, (20, 8, 8), np.uint8)
    list(screen([*files("noise", noise), str(tmp_path)], tiny_detector, watch=True, statistics=attacked))
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
    assert alone.record.error == "purified_disagreement asks the classifier: Detector(density, classifier=...)"

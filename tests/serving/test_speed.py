"""Requests that cannot be scored in time are refused at once, and no others."""

import numpy as np
import pytest
from fastapi.testclient import TestClient
from serving.common import ATTACKED, CLEAN, NOISE, app_of, form, png

from pixeldefend.screening.audit_log import AuditLog
from pixeldefend.serving import service
from pixeldefend.serving.speed import REMEMBERED, Speed, TooMuchError


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def speed_of(*measured, clock=None):
    """The speed of the detector "a", after its first batch and others of so many pixels and seconds."""
    speed = Speed(clock or Clock())
    for pixels, seconds in ((1, 1000), *measured):
        speed.measured({"a": pixels}, seconds)
    return speed


def refused(speed, pixels, deadline=10):
    try:
        speed.check(pixels, deadline)
    except TooMuchError:
        return True
    return False


def test_what_fits_at_the_best_speed_is_taken():
    speed = speed_of((100, 1), (200, 1), (50, 1))
    assert not refused(speed, {"a": 2000})
    assert refused(speed, {"a": 2001})
    with pytest.raises(TooMuchError, match=r"at most 0\.002 can be"):
        speed.check({"a": 100_000}, 10)


def test_nothing_is_refused_while_no_speed_is_known():
    assert not refused(speed_of(), {"a": 10**9})  # the first batch loads what is needed later
    assert not refused(speed_of((1, 1)), {"b": 10**9})
    assert refused(speed_of((1, 1)), {"a": 11, "b": 10**9})


def test_several_detectors_take_their_times_together():
    speed = speed_of((100, 1))
    for _ in range(2):
        speed.measured({"b": 10}, 1)
    speed.measured({"a": 10**6, "b": 10**6}, 1)  # nobody knows whose time that was
    assert not refused(speed, {"a": 500, "b": 50})
    assert refused(speed, {"a": 500, "b": 51})


def test_a_speed_is_forgotten_after_a_while():
    clock = Clock()
    speed = speed_of((1, 1), clock=clock)
    assert refused(speed, {"a": 11})
    clock.now = REMEMBERED + 1
    assert not refused(speed, {"a": 11})
    speed.measured({"a": 0.5}, 1)  # slower than what is forgotten
    assert refused(speed, {"a": 6})
    assert not refused(speed, {"a": 5})


def test_a_request_that_cannot_be_answered_in_time_is_refused_at_once(tiny_detector, tmp_path):
    app = app_of(tiny_detector, tmp_path, deadline=60)
    screening = app.state.service
    key = screening.detectors["custom"].key
    for _ in range(2):
        screening.speed.measured({key: CLEAN.size}, 50)  # so slow that a second image is too much
    screening.speed.measured = lambda pixels, seconds: None
    image = {"name": "images", "shape": [2, 8, 8, 1], "datatype": "UINT8", "data": [0] * 128}
    with TestClient(app, base_url="http://localhost") as client:
        for answer in (
            client.post("/v1/screen", files=form(CLEAN, CLEAN)),
            client.post("/v2/models/custom/infer", json={"inputs": [image]}),
        ):
            assert answer.status_code == 413
            assert "within 60 s" in answer.json()["error"]
        assert AuditLog(tmp_path / "log.sqlite").count() == 0
        assert screening._pixels == 0
        assert client.post("/v1/screen", content=png(CLEAN)).status_code == 200
        assert client.post("/v1/explain", content=png(CLEAN)).status_code == 200
        # what no detector takes costs nothing
        wrong = np.zeros((9, 9), np.uint8)
        assert client.post("/v1/screen", files=form(CLEAN, wrong)).status_code == 200


def test_batches_are_measured(tiny_detector, tmp_path):
    app = app_of(tiny_detector, tmp_path)
    measured = []
    app.state.service.speed.measured = lambda pixels, seconds: measured.append((dict(pixels), seconds > 0))
    key = app.state.service.detectors["custom"].key
    with TestClient(app, base_url="http://localhost") as client:
        client.post("/v1/screen", files=form(CLEAN, ATTACKED, *NOISE[:3]))
    assert measured == [({key: 5 * CLEAN.size}, True)]


def test_of_a_large_photograph_only_a_part_counts(photo_detector, tmp_path, monkeypatch):
    monkeypatch.setattr(service, "PIXELS_OF_A_PHOTOGRAPH", 64 * 64)
    app = app_of(photo_detector, tmp_path)
    checked = []
    app.state.service.speed.check = lambda pixels, deadline: checked.append(sum(pixels.values()))
    with TestClient(app, base_url="http://localhost") as client:
        client.post("/v1/screen", files=form(np.zeros((64, 64), np.uint8), np.zeros((64, 128), np.uint8)))
    assert checked == [2 * 64 * 64]

"""The service behind HTTP: its queue, its log, its quarantine, and what happens when something fails."""

import base64
import errno
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from serving.common import ATTACKED, CLEAN, PATIENCE, Gate, app_of, events, form, png

from pixeldefend.images import decoding
from pixeldefend.screening.audit_log import AuditLog
from pixeldefend.serialization import sha256_of
from pixeldefend.serving import Service, create_app, service
from pixeldefend.serving.query_detection import QueryAttacks


def test_a_wrong_size_is_refused_by_the_header(tiny_detector, tmp_path, monkeypatch):
    app = app_of(tiny_detector, tmp_path)
    decoded = []
    monkeypatch.setattr(decoding, "check_container", lambda data, format: decoded.append(format))
    large = base64.b64encode(png(np.zeros((1000, 1000), np.uint8))).decode()
    with TestClient(app, base_url="http://localhost") as client:
        answer = client.post("/v1/screen", json={"images": [{"name": "a.png", "data": large}] * 20})
        records = answer.json()["records"]
        assert not decoded
        for record in records:
            assert (record["error_kind"], record["width"], record["height"]) == ("size", 1000, 1000)
            assert record["sha256"]
        # EXIF may turn an image, so that the header alone does not tell
        monkeypatch.setattr(type(tiny_detector), "accepts", lambda self, image: image.shape[:2] == (8, 16))
        client.post("/v1/screen?name=turned", content=png(np.zeros((16, 8), np.uint8)))
    assert decoded == ["PNG"]


def test_a_quarantine_that_cannot_be_written_costs_no_verdict(tiny_detector, tmp_path, monkeypatch):
    app = app_of(tiny_detector, tmp_path, quarantine=tmp_path / "quarantine")

    def full(self, sha256, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(app.state.service), "_keep", full)
    noise = png(np.random.RandomState(0).randint(0, 256, (8, 8), np.uint8))
    with TestClient(app, base_url="http://localhost") as client:
        (record,) = client.post("/v1/screen", content=noise).json()["records"]
        (row,) = client.get("/v1/verdicts").json()
    for found in (record, row):
        assert (found["verdict"], found["error_kind"]) == ("adversarial", "quarantine")
        assert "No space left" in found["error"]


def test_places_in_the_queue_are_taken_before_anything_is_decoded(tiny_detector, tmp_path):
    app = app_of(tiny_detector, tmp_path, capacity=4)
    gate = app.state.service.screener.read = Gate(app.state.service.screener.read)
    with TestClient(app, base_url="http://localhost") as client, ThreadPoolExecutor(2) as pool:
        accepted = [pool.submit(client.post, "/v1/screen", files=form(CLEAN, CLEAN)) for _ in range(2)]
        gate.wait_until_entered(2)
        assert client.post("/v1/screen", files=form(CLEAN, CLEAN)).status_code == 503
        gate.opened.set()
        assert [answer.result().status_code for answer in accepted] == [200, 200]


def test_images_beyond_the_memory_for_them_are_answered_503(tiny_detector, tmp_path, monkeypatch):
    monkeypatch.setattr(service, "PIXELS_HELD", 2 * CLEAN.size)
    app = app_of(tiny_detector, tmp_path, batch_size=2)
    gate = app.state.service.screener.judge = Gate(app.state.service.screener.judge)
    with TestClient(app, base_url="http://localhost") as client, ThreadPoolExecutor(1) as pool:
        held = pool.submit(client.post, "/v1/screen", files=form(CLEAN, CLEAN))
        gate.wait_until_entered()
        assert client.post("/v1/screen", content=png(CLEAN)).status_code == 503
        assert client.post("/v1/explain", content=png(CLEAN)).status_code == 503
        gate.opened.set()
        assert held.result().status_code == 200
        assert client.post("/v1/explain", content=png(CLEAN)).status_code == 200
        assert client.post("/v1/screen", files=form(CLEAN, CLEAN)).status_code == 200


def test_images_are_counted_before_many_more_are_decoded(tiny_detector, tmp_path, monkeypatch):
    monkeypatch.setattr(service, "PIXELS_HELD", 4 * CLEAN.size)
    app = app_of(tiny_detector, tmp_path, batch_size=1)
    gate = app.state.service.screener.judge = Gate(app.state.service.screener.judge)
    with TestClient(app, base_url="http://localhost") as client, ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(client.post, "/v1/screen", content=png(CLEAN)) for _ in range(20)]
        refused = [answer.result() for answer in islice(as_completed(answers, PATIENCE), 20 - 5)]
        assert {answer.status_code for answer in refused} == {503}
        gate.opened.set()
        assert 4 <= sum(answer.result().status_code == 200 for answer in answers) <= 5
        assert app.state.service._pixels == 0


def test_what_is_too_large_for_the_memory_alone_gets_records(tiny_detector, tmp_path, monkeypatch):
    monkeypatch.setattr(service, "PIXELS_HELD", 2 * CLEAN.size)
    app = app_of(tiny_detector, tmp_path)
    with TestClient(app, base_url="http://localhost") as client:
        records = client.post("/v1/screen", files=form(CLEAN, CLEAN, CLEAN)).json()["records"]
    assert [record["verdict"] for record in records] == ["clean", "clean", "error"]
    assert records[2]["error_kind"] == "too large"
    assert app.state.service._pixels == 0


def test_all_frames_count_as_pixels_in_memory(tiny_detector, tmp_path):
    app = app_of(tiny_detector, tmp_path, frames="all", convert=True)
    pages = io.BytesIO()
    first, *others = (Image.fromarray(image) for image in (CLEAN, ATTACKED, CLEAN))
    first.save(pages, "TIFF", save_all=True, append_images=others)
    judge, held = app.state.service.screener.judge, []
    app.state.service.screener.judge = lambda results: (held.append(app.state.service._pixels), judge(results))
    with TestClient(app, base_url="http://localhost") as client:
        assert client.post("/v1/screen", content=pages.getvalue()).status_code == 200
    assert held == [3 * CLEAN.size]
    assert app.state.service._pixels == 0


def test_a_full_queue_answers_503_and_loses_nothing(tiny_detector, tmp_path):
    app = app_of(tiny_detector, tmp_path, capacity=4, batch_size=2)
    gate = app.state.service.screener.judge = Gate(app.state.service.screener.judge)
    with TestClient(app, base_url="http://localhost") as client, ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(client.post, "/v1/screen", content=png(CLEAN)) for _ in range(12)]
        # while two are being scored and at most four wait, only refusals are answered
        refused = [answer.result() for answer in islice(as_completed(answers, PATIENCE), 6)]
        gate.opened.set()
        found = [answer.result() for answer in answers]
        assert {answer.status_code for answer in refused} == {503}
        assert {answer.headers["retry-after"] for answer in refused} == {"1"}
        accepted = [answer for answer in found if answer.status_code == 200]
        assert len(accepted) == 12 - sum(answer.status_code == 503 for answer in found) >= 4
        assert AuditLog(tmp_path / "log.sqlite").count() == len(accepted)
        assert client.post("/v1/screen", content=png(CLEAN)).status_code == 200


def test_explanations_wait_for_one_another(client, monkeypatch):
    gate = Gate(service.explain)
    monkeypatch.setattr(service, "explain", gate)
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(client.post, "/v1/explain", content=png(CLEAN)) for _ in range(6)]
        gate.wait_until_entered(service.DRAWING_THREADS)
        assert not gate.entered.acquire(timeout=0.5)  # the others have not begun
        gate.opened.set()
        assert {answer.result().status_code for answer in asked} == {200}


def test_images_are_screened_while_an_explanation_is_drawn(client, monkeypatch):
    gate = Gate(service.explain)
    monkeypatch.setattr(service, "explain", gate)
    with ThreadPoolExecutor(2) as pool:
        explained = pool.submit(client.post, "/v1/explain", content=png(CLEAN))
        gate.wait_until_entered()
        assert pool.submit(client.post, "/v1/screen", content=png(CLEAN)).result(PATIENCE).status_code == 200
        assert not explained.done()
        gate.opened.set()
        assert explained.result().status_code == 200


def test_what_takes_too_long_is_answered_504(tiny_detector, tmp_path):
    app = app_of(tiny_detector, tmp_path, deadline=0.01)
    gate = app.state.service.screener.judge = Gate(app.state.service.screener.judge)
    with TestClient(app, base_url="http://localhost") as client:
        assert client.post("/v1/screen", content=png(CLEAN)).status_code == 504
        gate.opened.set()


def test_a_failure_of_scoring_is_counted_and_logged_and_tells_nothing_of_the_inside(client, capsys):
    screener = client.app.state.service.screener
    judge = screener.judge

    def fail(results, **options):
        raise KeyError("secret")

    screener.judge = fail
    answer = client.post("/v1/screen", content=png(CLEAN))
    assert answer.status_code == 500
    assert "secret" not in answer.text
    (line,) = events(capsys.readouterr().err, "internal error")
    assert line["request"] == answer.headers["x-request-id"]
    assert "KeyError" in line["traceback"]
    screener.judge = judge
    assert client.post("/v1/screen", content=png(CLEAN)).status_code == 200
    assert "pixeldefend_internal_errors_total 1.0" in client.get("/metrics").text


@pytest.mark.parametrize("route", ["/v1/screen", "/v1/explain", "/v2/models/custom/infer"])
def test_a_record_of_an_internal_error_is_counted_apart(client, monkeypatch, capsys, route):
    def fail(*arguments, **options):
        raise KeyError("secret")

    monkeypatch.setattr(client.app.state.service.detectors["custom"].detector, "judge", fail)
    image = {"name": "images", "shape": [1, 8, 8, 1], "datatype": "UINT8", "data": [0] * 64}
    body = png(CLEAN) if route.startswith("/v1") else json.dumps({"inputs": [image]}).encode()
    answer = client.post(route, content=body)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    lines = events(capsys.readouterr().err, "internal error")
    assert any("KeyError" in line.get("traceback", "") for line in lines)
    assert answer.headers["x-request-id"] in [line.get("request") for line in lines]
    text = client.get("/metrics").text
    assert "pixeldefend_internal_errors_total 1.0" in text
    assert 'pixeldefend_errors_total{kind="internal"} 1.0' in text


def test_only_flagged_images_are_kept_and_only_if_asked(tiny_detector, tmp_path):
    app = app_of(tiny_detector, tmp_path, quarantine=tmp_path / "quarantine")
    with TestClient(app, base_url="http://localhost") as client:
        client.post("/v1/screen", files=form(CLEAN, ATTACKED, ATTACKED))
    (kept,) = (tmp_path / "quarantine").iterdir()
    assert kept.read_bytes() == png(ATTACKED)


def test_the_log_names_the_file_that_the_detector_was_loaded_from(tiny_detector, tmp_path):
    path = tmp_path / "mine.safetensors"
    tiny_detector.save(path)
    before = sha256_of(path)
    app = app_of(str(path), tmp_path)
    path.write_bytes(b"another detector, for the next start")
    with TestClient(app, base_url="http://localhost") as client:
        client.post("/v1/screen", content=png(CLEAN))
        assert client.get("/v1/detectors").json()[0]["sha256"] == before
    (row,) = AuditLog(tmp_path / "log.sqlite", read_only=True).rows()
    assert row["detector_sha256"] == before


def test_what_is_refused_does_not_displace_what_is_remembered(tiny_detector, tmp_path):
    app = app_of(tiny_detector, tmp_path)
    app.state.service.queries = QueryAttacks(window=6, neighbours=5, clients=1)
    random = np.random.RandomState(0)
    base = random.randint(20, 230, (8, 8))
    flags = []
    with TestClient(app, base_url="http://localhost") as client:
        for _ in range(8):
            for shape in ((8, 8, 3), (9, 9)):  # in colour, and of another size
                client.post("/v1/screen", content=png(random.randint(0, 256, shape).astype(np.uint8)))
            near = png((base + random.randint(-2, 3, (8, 8))).astype(np.uint8))
            flags.append(client.post("/v1/screen", content=near).json()["records"][0]["query_attack"])
    assert all(flags[5:])


def test_old_rows_leave_the_log_of_an_idle_service(tiny_detector, tmp_path):
    log = AuditLog(tmp_path / "log.sqlite", max_days=1)
    log.add(
        [{"path": "old", "verdict": "clean", "time": time.time() - 2 * 86400}, {"path": "new", "verdict": "clean"}],
        source="serve",
    )
    pruned, prune = threading.Event(), log.prune
    log.prune = lambda: (prune(), pruned.set())
    with TestClient(create_app(Service(log, tiny_detector))):
        assert pruned.wait(PATIENCE)
    assert log.count() == 1
